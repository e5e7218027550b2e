"""Include directives of a C++ source, without a preprocessor.

Conditionals are ignored: a directive in a branch that is not taken only adds a header to a key.
Comments, string literals, raw strings and line continuations are honoured, so that nothing inside
them is taken for a directive and, what matters more, no directive is lost behind them.

The text is scanned line by line in bytecode and never by one pattern over all of it: a 10 MB source
would hold the GIL, and with it the server's event loop, for a third of a second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Directive", "scan"]

DirectiveKind = Literal["include", "embed", "probe"]

_DIRECTIVE = re.compile(rb"\s*(?:#|%:)\s*(include_next|include|import|embed)\b\s*(.*)", re.DOTALL)
_CONDITION = re.compile(rb"\s*(?:#|%:)\s*(?:el)?if\b")
_PROBE = re.compile(rb'\b__has_(?:include|include_next|embed)\s*\(\s*("[^"]*"|<[^>]*>|\w+)')
_OPERAND = re.compile(rb'"([^"]+)"|<([^>]+)>')
_TOKEN = re.compile(
    rb"(?P<number>\b[0-9](?:'?[\w.])*)"  # its apostrophes open no character literal
    rb'|(?P<raw>(?:u8|[uUL])?R"(?P<delimiter>[^ ()\\\t\v\f]{0,16})\()'
    rb'|"(?:\\.|[^"\\])*"'
    rb"|'(?:\\.|[^'\\])*'"
    rb"|(?<=include)\s*<[^>]*>"  # <a//b.h> is no comment
    rb"|(?P<line>//)"
    rb"|(?P<block>/\*)"
)


_MARK = re.compile(rb'#|%:|/\*|R"')
_WORDS = (b"include", b"import", b"embed", b"__has_")
_CONTINUED = re.compile(rb"\\\r?\n")


@dataclass(frozen=True, slots=True)
class Directive:
    """One ``#include``, ``#embed`` or ``__has_include``.

    Attributes:
        kind: ``probe`` is a ``__has_include``: only whether the file exists matters.
        name: The file's name as written; None if it is a macro.
        quoted: Whether it is in quotes, so that the includer's own directory is searched first.
        text: The operand as written.
        line: Line number, counted from 1.
    """

    kind: DirectiveKind
    name: str | None
    quoted: bool
    text: str
    line: int


def scan(source: bytes) -> Iterator[Directive]:
    """Yield the directives of a source in order."""
    if _has_none(source):
        return
    terminator = b""
    for number, line in _logical_lines(source.removeprefix(b"\xef\xbb\xbf")):
        if not terminator and _MARK.search(line) is None:
            continue
        code, terminator = _without_comments(line, terminator)
        yield from _directives(code, number)


def _has_none(source: bytes) -> bool:
    """Whether no directive can be in a source, as in most kernels that are generated.

    Each has one of these words in it, in one piece unless a line continues in the next.
    """
    return not any(word in source for word in _WORDS) and _CONTINUED.search(source) is None


def _directives(code: bytes, number: int) -> Iterator[Directive]:
    if match := _DIRECTIVE.match(code):
        yield _directive("embed" if match[1] == b"embed" else "include", match[2], number)
    elif b"__has_" in code:
        in_condition = _CONDITION.match(code) is not None
        for match in _PROBE.finditer(code):
            # Outside a condition an unquoted operand is a parameter of the macro being defined.
            if in_condition or not match[1][:1].isalnum():
                yield _directive("probe", match[1], number)


def _directive(kind: DirectiveKind, operand: bytes, number: int) -> Directive:
    match = _OPERAND.match(operand)
    text = operand.strip().decode(errors="surrogateescape")
    if match is None:
        return Directive(kind, None, False, text, number)  # noqa: FBT003 - a field, in its order
    name = (match[1] or match[2]).decode(errors="surrogateescape")
    return Directive(kind, name, match[1] is not None, match[0].decode(errors="replace"), number)


def _logical_lines(source: bytes) -> Iterator[tuple[int, bytes]]:
    """Lines with their continuations joined, and the number of the first line of each."""
    pending, start = b"", 0
    for number, line in enumerate(source.split(b"\n"), 1):
        text = line.removesuffix(b"\r")
        if text.endswith(b"\\"):
            pending, start = pending + text[:-1], start or number
        else:
            yield start or number, pending + text
            pending, start = b"", 0
    if pending:
        yield start, pending


def _without_comments(line: bytes, terminator: bytes) -> tuple[bytes, bytes]:
    """Replace comments and raw strings by a space.

    Args:
        line: A logical line.
        terminator: What ends the comment or raw string that the line begins in, or b"".

    Returns:
        The code, and the terminator of a comment or raw string that goes on in the next line.
    """
    kept: list[bytes] = []
    position = 0
    while True:
        if terminator:
            end = line.find(terminator, position)
            if end < 0:
                return b" ".join(kept), terminator
            position = end + len(terminator)
        opening = next(filter(_opens, _TOKEN.finditer(line, position)), None)
        if opening is None or opening["line"]:
            kept.append(line[position : opening.start() if opening else None])
            return b" ".join(kept), b""
        kept.append(line[position : opening.start()])
        position = opening.end()
        terminator = b"*/" if opening["block"] else b")" + opening["delimiter"] + b'"'


def _opens(token: re.Match[bytes]) -> bool:
    return any(token[group] is not None for group in ("raw", "line", "block"))
