"""Units and shapes of what is printed."""

from __future__ import annotations

import pytest

from ajit.cli.output import count, format_age, format_bytes, format_seconds
from ajit.settings import setting_names


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (2**40, "1024.0 GiB"),
    ],
)
def test_sizes_have_binary_units(size, expected):
    """Bytes are whole, larger units have one digit."""
    assert expected == format_bytes(size)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (8.7e-6, "9 µs"),
        (0.0124, "12.4 ms"),
        (1.384, "1.38 s"),
        (10.0, "10 s"),
        (200, "3 min 20 s"),
        (1800, "30 min"),
        (5 * 3600, "5.0 h"),
        (3 * 86400, "3 days"),
    ],
)
def test_durations_have_the_unit_that_fits(seconds, expected):
    """Microseconds to days, about three digits."""
    assert expected == format_seconds(seconds)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-1, "0 s"), (90, "90 s"), (3300, "55 min"), (7300, "2 h"), (200000, "2 days")],
)
def test_ages_have_one_unit(seconds, expected):
    """A clock that went back is an age of nothing."""
    assert expected == format_age(seconds)


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 entries"), (1, "1 entry"), (2, "2 entries")]
)
def test_counted_things_agree_with_their_number(number, expected):
    """One is one."""
    assert expected == count(number, "entry", "entries")


def test_locale_that_cannot_write_table_lines_still_gets_the_result(ajit):
    """Characters that cannot be encoded are replaced; the command does not fail."""
    ended = ajit("config", PYTHONIOENCODING="ascii", PYTHONUTF8="0")

    assert ended.code == 0
    assert "cache_dir" in ended.out


def test_a_table_in_a_pipe_is_plain_and_as_narrow_as_what_is_in_it(ajit):
    """No lines of a table, no colours, no blanks at the ends, nothing cut off."""
    lines = ajit("config").out.splitlines()

    assert lines[0].split() == ["setting", "value", "origin", "what", "it", "is"]
    assert not set("─│━┃\x1b").intersection("".join(lines))
    assert all(line == line.rstrip() for line in lines)
    assert max(map(len, lines)) < 320
    assert len(lines) == len(setting_names()) + 1
