"""Tables on narrow terminals: columns go before a text is broken or a unit is cut."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ajit._cache.entries.history import short_reason
from ajit._resolve.lookup import NEVER_KEPT
from ajit.cache.scanning import CachedEntry
from ajit.cli.cache_views import draw_list
from ajit.cli.drawing import Table, table
from tests.cache.artifacts import a_key


def on_terminal(drawn: object, columns: int) -> str:
    """What a terminal of so many columns shows."""
    shown = io.StringIO()
    Console(file=shown, width=columns, force_terminal=True, color_system=None).print(drawn)
    return shown.getvalue()


def listed(label: str) -> CachedEntry:
    """An entry of the kernel flash_scale."""
    return CachedEntry(
        key=a_key("1"), file_bytes=4096, name=label, entries=("flash_scale",), kind="cubin",
        arch="sm_90a", compiler="nvrtc 13.0.48", size_bytes=3000, compile_seconds=200.0,
    )  # fmt: skip


def a_table() -> Table:
    """A row that needs 69 columns."""
    drawn = table(
        "key", "kernel", "arch", "compiler", "took", "why",
        numbers=("took",), whole=("key", "arch", "compiler"), optional=("compiler", "arch"),
    )  # fmt: skip
    drawn.add_row("0123456789ab", "flash_attention", "sm_90a", "nvrtc 13.0.48", "3 min 20 s", "new")
    return drawn


@pytest.mark.parametrize(
    ("columns", "gone"), [(100, ()), (66, ("compiler",)), (52, ("compiler", "arch"))]
)
def test_a_narrow_terminal_leaves_out_what_is_missed_least_and_says_so(columns, gone):
    """Everything else is on one line, with its unit."""
    lines = on_terminal(a_table(), columns).splitlines()

    row = next(line for line in lines if "0123456789ab" in line)
    assert ("nvrtc" in row) == ("compiler" not in gone)
    assert ("sm_90a" in row) == ("arch" not in gone)
    assert "flash_attention" in row
    assert "3 min 20 s" in row
    assert any("no room for: compiler" in line for line in lines) == bool(gone)


def test_a_label_that_is_the_kernels_name_has_no_column(tmp_path):
    """It would say the same twice; another label has one."""
    same = on_terminal(draw_list([listed("flash_scale")], tmp_path, [], 0), 120)
    other = on_terminal(draw_list([listed("fast one")], tmp_path, [], 0), 120)

    assert "label" not in same
    assert "fast one" in other


@pytest.mark.parametrize("columns", [80, 60])
def test_a_list_of_entries_is_one_line_an_entry(tmp_path, columns):
    """On the terminals that people have."""
    lines = on_terminal(draw_list([listed("flash_scale")], tmp_path, [], 0), columns).splitlines()

    assert any("flash_scale" in line and a_key("1")[:12] in line for line in lines)


def test_what_needs_room_for_a_sentence_goes_before_it_is_a_pillar():
    """A setting is one line, or one of two, and not of six."""
    drawn = table("setting", "what it is", optional=("what it is",), least={"what it is": 40})
    drawn.add_row("cache_dir", "directory of the kernel cache; processes and nodes may share it")

    assert "directory" in on_terminal(drawn, 60)
    assert "directory" not in on_terminal(drawn, 50)


def test_the_usual_reason_is_one_word_in_tables():
    """Every other one says what has changed."""
    assert short_reason(NEVER_KEPT) == "new"
    assert short_reason("files have changed") == "files have changed"
