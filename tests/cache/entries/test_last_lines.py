"""The last lines of a file: all of them, in whatever pieces they are read."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ajit._cache.entries import last_lines as subject


def lines_of(data: bytes, most_bytes: int = 1 << 30) -> list[bytes]:
    """What is told of a file with these bytes."""
    fd = os.memfd_create("lines")
    try:
        os.write(fd, data)
        return list(subject.last_lines(fd, most_bytes))
    finally:
        os.close(fd)


@given(st.lists(st.binary(max_size=9).filter(lambda line: b"\n" not in line), min_size=1))
def test_lines_come_from_the_last_to_the_first(lines: list[bytes]):
    """Wherever the pieces end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "MOST_LINE_BYTES", 10)

        assert lines_of(b"\n".join(lines)) == lines[::-1]


def test_a_line_that_began_before_what_is_read_is_left_out():
    """Half a line says nothing."""
    assert lines_of(b"one\ntwo\nthree", 8) == [b"three"]
    assert lines_of(b"one\ntwo\nthree", 10) == [b"three", b"two"]


def test_a_line_without_end_is_not_kept():
    """A file of one line would take as much memory as it has bytes."""
    told = lines_of(b"first\n" + b"x" * 5_000_000 + b"\nlast")

    assert told[0] == b"last"
    assert told[-1] == b"first"
    assert max(map(len, told)) <= 2 * subject.MOST_LINE_BYTES
