"""Macros of texts: which of them may lead to a question for a file's name, and who uses these.

A preprocessor puts the name of the file in which a macro is *used* where ``__FILE__`` stands in the
macro, however many macros lie in between. So the names that lead there are found once, backwards
from those that ask, and then each text is looked through for one of them. It errs on one side only:
what is in a comment, in a string, or left out by ``#if`` counts as well.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Macro", "Macros", "asks_for_name", "macros_in", "plain", "words_in"]

_ASKS = re.compile(rb"__(?:BASE_)?FILE|__builtin_FILE|source_location")

_SPLICE = re.compile(rb"\\[ \t\f\v]*\r?\n")
_TRIGRAPHS = ((b"??=", b"#"), (b"??/", b"\\"))
_BLANK = rb"(?:[ \t\f\v]|/\*[\s\S]*?\*/)"
_WORD = rb"[\w$\x80-\xff]+"
_BODY = rb"""(?://[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|/\*[\s\S]*?\*/|[^\n])*"""
# It begins with a plain word, which is found ten times as fast as what may come before it.
_DEFINE = re.compile(rb"define%b+(%b)(%b)" % (_BLANK, _WORD, _BODY))
_BEFORE = (b"#", b"%:", b"*/")
"""What comes before it in a directive: the last is the end of a comment."""
_FAR_BEFORE = 200

_OPTION = re.compile(rb"-(?:D|-define-macro)[\s\0='\"]*(%b)([^\n\0]*)" % _WORD)
"""A macro of a command line, or of a file of options."""

_IN_WORDS = frozenset(range(0x80, 0x100)).union(
    b"0123456789_$abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)
_OTHERS_BLANK = bytes(byte if byte in _IN_WORDS else 0x20 for byte in range(256))


class Macro(NamedTuple):
    """One definition.

    Attributes:
        name: Its name.
        words: The words of its body.
        asks: Whether the body has the name of a file.
        pastes: Whether it makes new words.
    """

    name: bytes
    words: frozenset[bytes]
    asks: bool
    pastes: bool


def asks_for_name(text: bytes) -> bool:
    """Whether a text may ask how a file is called."""
    return _ASKS.search(text) is not None


def plain(text: bytes) -> bytes:
    """Return a text as a preprocessor sees it: lines joined, characters of old replaced."""
    if b"??" in text:
        for old, new in _TRIGRAPHS:
            text = text.replace(old, new)
    return _SPLICE.sub(b"", text) if b"\\" in text else text


def words_in(text: bytes) -> set[bytes]:
    """Return the words of a text that is `plain`."""
    return set(text.translate(_OTHERS_BLANK).split())


def macros_in(text: bytes) -> tuple[tuple[Macro, ...], bytes]:
    """Return the macros that a `plain` text defines, and what is left of it without them."""
    found: list[Macro] = []
    rest: list[bytes] = []
    end = 0
    for match in _DEFINE.finditer(text):
        start = match.start()
        if not text[max(0, start - _FAR_BEFORE) : start].rstrip(b" \t\f\v").endswith(_BEFORE):
            continue
        found.append(_macro(*match.groups()))
        rest.append(text[end:start])
        end = match.end()
    rest.append(text[end:])
    found += [_macro(*match.groups()) for match in _OPTION.finditer(text)]
    return tuple(found), b"".join(rest)


def _macro(name: bytes, body: bytes) -> Macro:
    pastes = b"##" in body or b"%:%:" in body
    return Macro(name, frozenset(words_in(body)), asks_for_name(body), pastes)


class Macros:
    """All macros of a compile; of one name there may be several."""

    def __init__(self, macros: Iterable[Macro]) -> None:
        self._words: dict[bytes, set[bytes]] = {}
        asked: set[bytes] = set()
        pasting: set[bytes] = set()
        for macro in macros:
            self._words.setdefault(macro.name, set()).update(macro.words)
            if macro.asks:
                asked.add(macro.name)
            if macro.pastes:
                pasting.add(macro.name)
        self._users = self._users_of_words()
        self._leading = self.leading_to(asked)
        self._pasting = self.leading_to(pasting)

    def may_lead(self, words: set[bytes]) -> bool:
        """Whether a text with these words may use a macro that asks."""
        if not words.isdisjoint(self._leading):
            return True
        if words.isdisjoint(self._pasting):
            return False
        reached = self._reached(words)
        return any(_is_pasted(name, reached) for name in self._leading)

    def leading_to(self, words: Iterable[bytes]) -> frozenset[bytes]:
        """Return some words, and the names of the macros that lead to one of them."""
        found = set(words)
        new = list(found)
        while new:
            for user in self._users.get(new.pop(), ()):
                if user not in found:
                    found.add(user)
                    new.append(user)
        return frozenset(found)

    def _users_of_words(self) -> Mapping[bytes, list[bytes]]:
        """Each word to the macros that have it in their body."""
        users: dict[bytes, list[bytes]] = {}
        for name, words in self._words.items():
            for word in words:
                users.setdefault(word, []).append(name)
        return users

    def _reached(self, words: set[bytes]) -> set[bytes]:
        reached, new = set(words), words
        while new:
            new = set().union(*(self._words[word] for word in new if word in self._words)) - reached
            reached |= new
        return reached


def _is_pasted(name: bytes, words: set[bytes]) -> bool:
    """Whether a name may be put together from some words."""
    ends = {0}
    for end in range(1, len(name) + 1):
        if any(name[start:end] in words for start in ends):
            ends.add(end)
    return len(name) in ends
