"""The documents are complete where they promise it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from ajit import errors
from ajit._cache.entries.disk import DiskStatistics
from ajit._compile.pool.statistics import PoolStatistics
from ajit._gpu.statistics import ThreadStatistics
from ajit._resolve.credits import CreditStatistics
from ajit._resolve.layers import LayerStatistics
from ajit._runtime.statistics import RuntimeStatistics
from ajit.settings import setting_names

PROJECT = Path(__file__).parents[2]


def test_every_error_says_what_is_guaranteed():
    """An error that is added has to be added to docs/errors.md."""
    text = (PROJECT / "docs" / "errors.md").read_text()
    bases = {"AjitError", "AjitWarning", "CompilerError", "DeviceError", "UsageError"}
    missing = [name for name in errors.__all__ if name not in bases and f"`{name}`" not in text]

    assert missing == []


COUNTED = (
    RuntimeStatistics, DiskStatistics, PoolStatistics, CreditStatistics, ThreadStatistics,
)  # fmt: skip


@pytest.mark.parametrize("counted", [*COUNTED, LayerStatistics], ids=lambda kind: kind.__name__)
def test_every_count_says_what_it_counts(counted):
    """A field that is added has to be added to its class's docstring, with its meaning."""
    names = [field.name for field in dataclasses.fields(counted)]
    said = [name for name in names if re.search(rf"^ +{name}: \S", counted.__doc__, re.MULTILINE)]

    assert names == said


def test_the_page_of_the_runtime_lists_every_count():
    """And names none that is not there."""
    text = (PROJECT / "docs" / "runtime.md").read_text()
    _, *tables = text.partition("## What `rt.statistics()` counts")[2].split("| unit | what |")
    parts = {"disk", "pool", "credits", "device"}  # they have tables of their own
    expected = [
        [field.name for field in dataclasses.fields(counted) if field.name not in parts]
        for counted in COUNTED
    ]
    actual = [re.findall(r"^\| `(\w+)` \| \S", table, re.MULTILINE) for table in tables]

    assert list(map(sorted, expected)) == list(map(sorted, actual))


def test_settings_that_the_cache_page_names_exist():
    """One that is renamed has to be renamed in docs/cache.md."""
    text = (PROJECT / "docs" / "cache.md").read_text()
    ends = "seconds|bytes|slots|group|file|key|niceness"
    named = set(re.findall(rf"`([a-z_]+_(?:{ends}))\b", text))

    assert len(named) > 10
    assert named <= set(setting_names())


def test_links_between_documents_lead_somewhere():
    """A page, picture or folder that is moved has to be moved in what refers to it."""
    pages = [*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", _prose(page.read_text()))
        if not link.startswith(("http:", "https:", "mailto:"))
    ]
    dead = [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]

    assert len(links) > 10
    assert dead == []


def _prose(text: str) -> str:
    """A page without its code: ``kernel[grid](x)`` is no link."""
    return re.sub(
        r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    )
