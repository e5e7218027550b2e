"""Sizes and durations are written the same way in settings and on the command line."""

from __future__ import annotations

import pytest

from ajit._system.quantities import parse_bytes, parse_seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("100k", 102400), ("1.5KiB", 1536), ("4 GB", 4 << 30), ("2T", 2 << 40)],
)
def test_sizes(text, expected):
    """Every prefix is a power of 1024."""
    assert expected == parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("1.5s", 1.5),
        ("2min", 120),
        ("12h", 43200),
        ("1w", 604800),
        ("30m", 1800),
        ("5ms", 0.005),
    ],
)
def test_durations(text, expected):
    """Without a unit they are seconds."""
    assert expected == parse_seconds(text)


@pytest.mark.parametrize("text", ["", "G", "-1", "1e6", "1_000", "1 X", "nan", "9" * 5000])
def test_what_is_no_quantity_is_refused_with_the_form(text):
    """The message says how to write one."""
    with pytest.raises(ValueError, match="write it like 500M, 4GiB or 1000000"):
        parse_bytes(text)
    with pytest.raises(ValueError, match="write it like 90s, 30m or 12h"):
        parse_seconds(text)


def test_quantity_that_no_number_holds_is_refused():
    """It is no infinity."""
    with pytest.raises(ValueError, match="too large"):
        parse_bytes("9" * 399)
