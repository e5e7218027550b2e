"""Nothing from outside moves the cursor, turns a line around or hides."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ajit._printable import printable, printable_line

SHAPELESS = {"Cc", "Cf", "Cs", "Zl", "Zp"}

ATTACKS = {
    "clears the screen": ("a\x1b[2Jb", r"a\x1b[2Jb"),
    "sets the title": ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
    "C1 for the same": ("\x9b2J\x9d0;x\x9c", r"\x9b2J\x9d0;x\x9c"),
    "erases": ("safe\x08\x08\x08\x08evil\x7f", r"safe\x08\x08\x08\x08evil\x7f"),
    "overwrites its line": ("good\revil", r"good\revil"),
    "right to left": ("\u202egnp.exe", r"\u202egnp.exe"),
    "isolates": ("\u2066a\u2069\u200f\u061c", r"\u2066a\u2069\u200f\u061c"),
    "no width": ("sa\u200bxpy\ufeff\u2060", r"sa\u200bxpy\ufeff\u2060"),
    "other line breaks": ("a\u2028b\x85c\x0cd", r"a\u2028b\x85c\x0cd"),
    "tags": ("\U000e0041", r"\U000e0041"),
    "no text at all": ("\udc80", r"\udc80"),
}


@pytest.mark.parametrize(("text", "shown"), ATTACKS.values(), ids=ATTACKS.keys())
def test_what_has_no_shape_is_shown_by_its_number(text: str, shown: str):
    """It stays visible, and does nothing."""
    assert (printable(text), printable_line(text)) == (shown, shown)


def test_logs_keep_their_lines_and_tabs():
    """Also those of a compiler that writes as on Windows."""
    log = "a.cu(3): error\n\tint größe = 1;\r\n\t    ^ µ 编译器 🙂\n"

    assert printable(log) == log.replace("\r\n", "\n")
    assert printable_line("a\n\tb") == r"a\n\tb"


def test_everything_without_a_shape_is_named():
    """As Unicode has it in this Python; what has one stays."""
    every = [chr(code) for code in range(sys.maxunicode + 1)]
    kept = {c for c in every if printable_line(c) == c}
    without = {c for c in every if unicodedata.category(c) in SHAPELESS}

    assert not kept & without
    assert {c for c in every if c.isprintable() and c.isascii()} <= kept
    assert set("äöüßéµ€编译器文𐀀🙂あΩ") <= kept


@given(st.text(alphabet=st.characters()))
def test_once_is_enough(text: str):
    """A text that is clean stays as it is."""
    assert printable(printable(text)) == printable(text)
    assert printable_line(printable_line(text)) == printable_line(text)
    assert "\n" not in printable_line(text)
