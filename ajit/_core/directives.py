"""A source and its virtual headers, with the directives of the preprocessor read and taken out.

No condition is evaluated, but for ``#if 0`` and ``#if 1``. Instead each piece of code and each
macro has the `Branch` that it stands in. What stands in some branches only is there or not, and
`covers` says whether a set of branches leaves no case out. The guard around a whole file is no
branch: the file is read once, and then all of it.

Everything is done once for each directive, so the time is in proportion to the length of the text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ALWAYS", "Branch", "Preprocessed", "covers"]

_DEEPEST = 64
"""Conditions inside of each other; in deeper ones nothing is known. Pretty arbitrary."""

_SKIPPED = re.compile(
    r"""
    [#/"'R]  # a class in front: only at these characters is anything tried
    (?: (?<=\#)[ \t]*+(?:include|include_next|import|embed)\b[ \t]*+(?:"[^"\n]*+"|<[^<>\n]*+>)
      | (?<=/)(?:/[^\n]*+ | \*[^*]*+(?:\*(?!/)[^*]*+)*+(?:\*/|\Z))
      | (?<=")(?:[^"\\\n]++|\\.)*+"?+
      | (?<=R)"([^\s()\\]{0,16}+)\((?s:.*?)(?:\)\1"|\Z)
      | (?<=')(?<![0-9a-fA-F]')(?:[^'\\\n]++|\\.)*+'?+
      | (?<=')(?![0-9a-fA-F][^'])(?:[^'\\\n]++|\\.)*+'?+  # but not that of 1'000
    )
    """,
    re.VERBOSE,
)
"""Comments and texts, and the includes, whose operands are no texts."""
_DIRECTIVE = re.compile(r"#[ \t]*+(\w*+)[ \t]*+([^\n]*+)")
_SPLICE = re.compile(r"\\\r?\n")
_INCLUDED = re.compile(r'["<]([^">]++)[">]')
_MACRO = re.compile(r"([^\W\d]\w*+)(\(?)(.*+)", re.DOTALL)
_NOT_DEFINED = re.compile(r"!\s*+defined\s*+\(?\s*+(\w++)\s*+\)?")
_OF_A_LIBRARY = re.compile(
    r"<(?:[a-z_]+|cuda\w*\.h|(?:cuda|cub|thrust|cooperative_groups|nv|cute|cutlass)/[\w/.]+"
    r"|(?:assert|float|limits|math|std\w+|string|mma|cooperative_groups|curand\w*|math_constants"
    r"|device_\w+|vector_\w+)\.h)>"
)
"""Headers of C++, CUDA and its libraries, which declare no kernel or type of a user."""
_OPENS = frozenset({"if", "ifdef", "ifndef"})
_GOES_ON = frozenset({"elif", "elifdef", "elifndef"})
_CONDITIONS = frozenset({*_OPENS, *_GOES_ON, "else", "endif"})


class _TooDeep(Exception):
    """Nothing is known of such a text, so it is not read to its end."""


class _Group:
    """The branches of one ``#if``.

    Attributes:
        parent: Where the ``#if`` stands.
        branches: The branches in it.
        complete: Whether there is an ``#else``, so that one of the branches is taken.
    """

    __slots__ = ("branches", "complete", "parent")

    def __init__(self, parent: Branch) -> None:
        self.parent = parent
        self.branches: list[Branch] = []
        self.complete = False

    def next_branch(self) -> Branch:
        branch = Branch(self, self.parent.depth + 1)
        self.branches.append(branch)
        return branch


class Branch:
    """A branch, inside of the branch around it. Each is one object."""

    __slots__ = ("depth", "group")

    def __init__(self, group: _Group | None, depth: int) -> None:
        self.group = group
        self.depth = depth


ALWAYS = Branch(None, 0)
"""Outside of all conditions."""


def covers(branches: Iterable[Branch]) -> bool:
    """Whether one of some branches is compiled, whatever the conditions are."""
    reached = set(branches)
    for depth in range(max((branch.depth for branch in reached), default=0), 0, -1):
        for group in {branch.group for branch in reached if branch.depth == depth}:
            if group is not None and group.complete and reached.issuperset(group.branches):
                reached.add(group.parent)
    return ALWAYS in reached


@dataclass(slots=True)
class _Open:
    """An ``#if`` whose ``#endif`` has not come yet, and what held before it."""

    branch: Branch
    live: bool
    group: _Group | None = None
    taken: bool = False
    """Of ``#if 0`` and ``#if 1``, which have no group: whether a branch was taken."""


class _Directive(NamedTuple):
    start: int
    end: int
    word: str
    rest: str


class Preprocessed:
    """The text without comments, texts and directives, and what the directives say.

    Attributes:
        code: Each directive is one ``#`` in it.
        macros: Macro to body; None where the body is not known or has parameters.
        defaults: Macros that are defined only if they are not defined before.
        guards: Macros that, if defined elsewhere, take a whole file away.
        includes_all: Whether nothing is included but virtual headers.
        foreign: Whether a header that is not known may declare kernels, types or macros.
        function_macros: Whether a macro has parameters.
        odd: Whether the text is of a kind that is not understood: digraphs, trigraphs, many levels.
    """

    def __init__(self, source: str, headers: tuple[tuple[str, str], ...]) -> None:
        files = {None: _cleaned(source)} | {name: _cleaned(text) for name, text in headers}
        read = {name: _directives(text) for name, text in files.items()}
        self._defined = Counter(
            macro[1]
            for directives in read.values()
            for item in directives
            if item.word == "define" and (macro := _MACRO.match(item.rest))
        )
        raw = (source, *(text for _, text in headers))  # ??/ at its end continues a comment
        self.odd = any("%:" in text for text in files.values()) or any(
            "??=" in text or "??/" in text for text in raw
        )
        self.includes_all, self.foreign, self.function_macros = True, False, False
        self.defaults: set[str] = set()
        self.guards: set[str] = set()
        self._bodies: dict[str, dict[tuple[str | None, Branch], None]] = {}
        self._chunks: list[str] = []
        self._length = 0
        self._starts, self._branches = [0], [ALWAYS]
        self._current, self._live = ALWAYS, True
        self._header_names = frozenset(name for name, _ in headers)
        self._included: list[str] = []
        with suppress(_TooDeep):
            self._read_all(files, read)
        self.code = "".join(self._chunks)
        self.macros = {name: _body(list(found)) for name, found in self._bodies.items()}

    def branch_at(self, position: int) -> Branch:
        """Return the branch of a character of the code."""
        return self._branches[bisect_right(self._starts, position) - 1]

    def _read_all(
        self, files: dict[str | None, str], read: dict[str | None, list[_Directive]]
    ) -> None:
        """Read the source, then the headers that it includes in any case, then all others."""
        self._read(files.pop(None), read[None], ALWAYS)
        while self._included:
            header = self._included.pop()
            if header in files:
                self._read(files.pop(header), read[header], ALWAYS)
        for name, text in files.items():
            self._read(text, read[name], _Group(ALWAYS).next_branch())

    def _read(self, text: str, directives: list[_Directive], branch: Branch) -> None:
        guard = _guard(text, directives)
        if guard is not None and self._defined[guard] == 1:
            self.guards.add(guard)
            directives = _without_guard(directives)
        defaults = _defaults(text, directives)
        self._move_to(branch, live=True)
        opened: list[_Open] = []
        position = 0
        for item in directives:
            self._emit(text[position : item.start])
            position = item.end
            if item.word in _CONDITIONS:
                self._condition(item, opened)
            elif self._live:
                self._take(item, is_default=item.start in defaults, opened=opened)
            self._emit("#")
        self._emit(text[position:])
        self._move_to(ALWAYS, live=True)
        self._emit("\n")

    def _emit(self, text: str) -> None:
        if self._live and text:
            self._chunks.append(text)
            self._length += len(text)

    def _move_to(self, branch: Branch, *, live: bool) -> None:
        self._live = live
        if branch is not self._current:
            self._current = branch
            self._starts.append(self._length)
            self._branches.append(branch)

    def _condition(self, item: _Directive, opened: list[_Open]) -> None:
        if item.word in _OPENS:
            top = _Open(self._current, self._live)
            opened.append(top)
            if item.word == "if" and item.rest.strip() in ("0", "1"):
                top.taken = item.rest.strip() == "1"
                self._move_to(top.branch, live=top.live and top.taken)
            else:
                self._branch(top)
        elif opened and item.word == "endif":
            top = opened.pop()
            self._move_to(top.branch, live=top.live)
        elif opened and opened[-1].group is not None:
            opened[-1].group.complete |= item.word == "else"
            self._branch(opened[-1])
        elif opened and (item.word == "else" or opened[-1].taken):
            top = opened[-1]
            self._move_to(top.branch, live=top.live and not top.taken)
            top.taken = True
        elif opened:
            self._branch(opened[-1])

    def _branch(self, top: _Open) -> None:
        if top.branch.depth >= _DEEPEST:
            self.odd = True
            raise _TooDeep
        top.group = top.group or _Group(top.branch)
        self._move_to(top.group.next_branch(), live=top.live)

    def _take(self, item: _Directive, *, is_default: bool, opened: list[_Open]) -> None:
        if item.word in ("include", "include_next", "import", "embed"):
            included = _INCLUDED.match(item.rest)
            if included is not None and included[1] in self._header_names:
                if self._current is ALWAYS:
                    self._included.append(included[1])
            else:
                self.includes_all = False
                self.foreign |= _OF_A_LIBRARY.match(item.rest) is None
        elif item.word in ("define", "undef") and (macro := _MACRO.match(item.rest)):
            self.function_macros |= bool(macro[2])
            known = item.word == "define" and not macro[2]
            branch = opened[-1].branch if is_default else self._current
            if is_default:
                self.defaults.add(macro[1])
            body = macro[3].strip() if known else None
            self._bodies.setdefault(macro[1], {})[body, branch] = None


def _cleaned(text: str) -> str:
    text = _SPLICE.sub("", text) if "\\" in text else text
    return _SKIPPED.sub(lambda match: match[0] if match[0][0] == "#" else " ", text)


def _directives(text: str) -> list[_Directive]:
    if "#" not in text:
        return []
    return [_Directive(m.start(), m.end(), m[1], m[2]) for m in _DIRECTIVE.finditer(text)]


def _body(found: list[tuple[str | None, Branch]]) -> str | None:
    """The body that a macro has in any case, or None."""
    agreed = all(body == found[0][0] for body, _ in found)
    return found[0][0] if agreed and covers(branch for _, branch in found) else None


def _unless_defined(item: _Directive) -> str | None:
    """The macro of an ``#ifndef``."""
    if item.word == "ifndef":
        return item.rest.strip()
    negated = _NOT_DEFINED.fullmatch(item.rest.strip()) if item.word == "if" else None
    return negated[1] if negated else None


def _defines(item: _Directive, name: str | None) -> bool:
    macro = _MACRO.match(item.rest) if item.word == "define" else None
    return macro is not None and macro[1] == name


def _without_pragmas(directives: list[_Directive]) -> list[_Directive]:
    return [item for item in directives if item.word != "pragma"]


def _guard(text: str, directives: list[_Directive]) -> str | None:
    """The macro that guards a whole file against a second reading."""
    items = _without_pragmas(directives)
    if len(items) < 3 or items[-1].word != "endif":
        return None
    name = _unless_defined(items[0])
    first, last = items[0], items[-1]
    outside = _DIRECTIVE.sub("", text[: first.start]) + text[last.end :]
    if not name or not _defines(items[1], name) or outside.strip(" \t\r\n\f\v\ufeff"):
        return None
    if text[first.end : items[1].start].strip():
        return None
    depth = 0
    for item in items[:-1]:  # the last one has to end the first one, which has no #else
        depth += (item.word in _OPENS) - (item.word == "endif")
        if depth < 1 or (depth == 1 and item.word in {*_GOES_ON, "else"}):
            return None
    return name if depth == 1 and _guards_more(text, items) else None


def _guards_more(text: str, items: list[_Directive]) -> bool:
    """Whether there is anything but the definition of one macro, which would be a default."""
    return len(items) > 3 or bool(text[items[1].end : items[2].start].strip())


def _without_guard(directives: list[_Directive]) -> list[_Directive]:
    items = _without_pragmas(directives)
    guard = {items[0].start, items[-1].start}
    return [item._replace(word="") if item.start in guard else item for item in directives]


def _defaults(text: str, directives: list[_Directive]) -> set[int]:
    """Where macros are defined by ``#ifndef X``, ``#define X ...``, ``#endif`` and nothing else."""
    found = set()
    for first, second, third in zip(directives, directives[1:], directives[2:], strict=False):
        name = _unless_defined(first)
        between = text[first.end : second.start] + text[second.end : third.start]
        if name and third.word == "endif" and _defines(second, name) and not between.strip():
            found.add(second.start)
    return found
