"""What can be seen of a CUDA C++ source without a preprocessor and a compiler.

`CxxText` finds the kernels that a source declares, the macros that it defines, and what a type name
stands for. It is no parser: where the text could mean two things, the answer is that it is not
known. Whatever the text is, reading it takes time in proportion to its length: patterns do not
backtrack (they are possessive), and each look around a place is bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["CxxText", "KernelDeclaration", "TypeMeaning", "read_cxx", "split_list"]

T = TypeVar("T")

_LOOK_BEHIND = 4096
"""Characters looked at before a kernel or a type name. Pretty arbitrary: a template head, a
struct."""
_LOOK_AHEAD = 512
_MOST_USES = 2000
"""Uses of a type name that are looked at before it counts as not known."""
_ANSWERS_KEPT = 4096
_CACHED_LENGTH = 4 * 1024 * 1024
"""Longer sources are read again for each spec, so that few are kept alive here."""

_SKIPPED = re.compile(
    r"""
    [/"'R]  # a class in front: only at these characters is anything tried
    (?: (?<=/)(?:/[^\n]*+ | \*[^*]*+(?:\*(?!/)[^*]*+)*+(?:\*/|\Z))
      | (?<=")(?:[^"\\\n]++|\\.)*+"?+
      | (?<=R)"([^\s()\\]{0,16}+)\((?s:.*?)(?:\)\1"|\Z)
      | (?<=')(?<![0-9a-fA-F]')(?:[^'\\\n]++|\\.)*+'?+
      | (?<=')(?![0-9a-fA-F][^'])(?:[^'\\\n]++|\\.)*+'?+  # but not that of 1'000
    )
    """,
    re.VERBOSE,
)
"""Comments and texts."""
_DIRECTIVE_LINE = re.compile(r"#[^\n]*+")
_DIRECTIVE = re.compile(r"#[ \t]*+(\w++)[ \t]*+([^\n]*+)")
_SPLICE = re.compile(r"\\\r?\n")
_INCLUDED = re.compile(r'["<]([^">]++)[">]')
_MACRO = re.compile(r"([^\W\d]\w*+)(\(?)(.*+)")
_COMMENTS = re.compile(r"//.*+|/\*.*?(?:\*/|\Z)")
_BRACKET = re.compile(r"[(){};]")
_AFTER_PARAMETERS = re.compile(r"\s*+(?:[{;]|\Z|noexcept\b|requires\b|__\w++\s*+\()")
_NOT_A_NAME = frozenset({"alignas", "decltype", "noexcept", "requires"})
_BREAK = re.compile(r"[;{}]")
_STRUCTS = frozenset({"struct", "class", "union"})
_AN_ENUM = re.compile(r"\benum(?:\s+(?:class|struct))?\s*+\Z")
_A_TYPE_PARAMETER = re.compile(r"\b(?:class|typename)\s*+\Z")


@dataclass(frozen=True, slots=True)
class KernelDeclaration:
    """One declaration of a kernel.

    Attributes:
        template: The parameters of its template; None if it is none, empty for ``template <>``.
        arguments: What stands in angle brackets behind its name, for a specialisation.
        params: Its parameter list.
    """

    template: tuple[str, ...] | None
    arguments: str
    params: str


@dataclass(frozen=True, slots=True)
class TypeMeaning:
    """What a type name stands for: a struct, another type, or something that is not known."""

    kind: Literal["struct", "alias", "unknown"]
    text: str = ""


class Answers:
    """The answers to the last questions about a text."""

    def __init__(self) -> None:
        self._kept: dict[object, Any] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get_or_make(self, question: object, make: Callable[[], T]) -> T:
        """Return the answer to a question, which is worked out once."""
        kept = self._kept  # specs are made in any thread: another one may begin anew
        if question not in kept:
            if len(kept) >= _ANSWERS_KEPT:
                kept = self._kept = {}
            kept[question] = make()
        answer: T = kept[question]
        return answer


class CxxText:
    """A source and its virtual headers.

    Attributes:
        sees_all: Whether no name can come from elsewhere: nothing is included, no macro with
            parameters may make a name.
        macros: Macro to body; None where the body is not known or has parameters.
        answers: What was worked out from this text before, by question.
    """

    def __init__(self, source: str, headers: tuple[tuple[str, str], ...]) -> None:
        text = "\n".join([source, *(content for _, content in headers)])
        self._text = _SPLICE.sub("", text) if "\\" in text else text
        self._header_names = frozenset(name for name, _ in headers)
        self.macros: dict[str, str | None] = {}
        self.sees_all = "%:" not in text and "??" not in text
        for directive in _DIRECTIVE.finditer(self._text):
            self._take(directive[1], directive[2])
        self.answers = Answers()

    def _take(self, directive: str, rest: str) -> None:
        if directive in ("include", "include_next", "import", "embed"):
            included = _INCLUDED.match(rest)
            self.sees_all &= included is not None and included[1] in self._header_names
        elif directive in ("define", "undef") and (macro := _MACRO.match(rest)):
            name, body = macro[1], _COMMENTS.sub(" ", macro[3]).strip()
            known = directive == "define" and not macro[2] and self.macros.get(name, body) == body
            self.macros[name] = body if known else None
            self.sees_all &= not macro[2]

    def mentions(self, word: str) -> bool:
        """Whether a word may stand in the text once it is preprocessed."""
        return not self.sees_all or "##" in self._text or word in self._text

    @cached_property
    def _code(self) -> str:
        code = _SKIPPED.sub(" ", self._text)
        # A mark stays, so that a list with a directive in it is seen.
        return _DIRECTIVE_LINE.sub("#", code) if "#" in code else code

    def kernels(self, name: str) -> list[KernelDeclaration]:
        """Return the declarations of kernels whose name, without its namespace, is this one."""
        return self.answers.get_or_make(("kernels", name), lambda: self._kernels(name))

    def _kernels(self, name: str) -> list[KernelDeclaration]:
        found: dict[KernelDeclaration, None] = {}  # a set that keeps the order
        for before, after in pairwise(self._pieces):
            declared = _declarator(after) if name in after else None
            if declared is not None and declared[0] == name:
                found[KernelDeclaration(self._template(before), *declared[1:])] = None
        return list(found)

    def kernel_names(self) -> Iterator[str]:
        """Yield the names of all kernels."""
        for after in self._pieces[1:]:
            if declared := _declarator(after):
                yield declared[0]

    @cached_property
    def _pieces(self) -> list[str]:
        return self._code.split("__global__") if "__global__" in self._text else []

    def _template(self, before: str) -> tuple[str, ...] | None:
        """Return the template parameters in front of a kernel; ``("?",)`` if not understood."""
        near = before[-_LOOK_BEHIND:]
        start = max(near.rfind(";"), near.rfind("{"), near.rfind("}"))
        head = near[start + 1 :]
        if start < 0 and len(before) > _LOOK_BEHIND:
            return ("?",)
        words = re.findall(r"\w++", head)
        bodies = [self.macros.get(word, "") for word in words]
        hidden = any(body is None or "template" in body for body in bodies)
        if hidden or words.count("template") > 1 or "requires" in words:
            return ("?",)
        _, template, rest = head.partition("template")
        if not template:
            return ("?",) if ">" in head else None
        rest = rest.lstrip()
        if not rest.startswith("<"):
            return ()  # template __global__ void k<int>(...): an instance, asked for
        inside = _inside_angles(rest)
        return ("?",) if inside is None or "#" in inside else tuple(split_list(inside))

    def meaning(self, word: str) -> TypeMeaning | None:
        """Return what the text says about a type name, or None if it declares no such name."""
        return self.answers.get_or_make(("meaning", word), lambda: self._meaning(word))

    def _meaning(self, word: str) -> TypeMeaning | None:
        found: set[TypeMeaning] = set()
        for count, start in enumerate(_uses(self._code, word)):
            if count == _MOST_USES:
                return TypeMeaning("unknown")
            meaning = self._declared_at(start, start + len(word))
            if meaning is not None:
                found.add(meaning)
        if len(found) > 1:
            return TypeMeaning("unknown")
        return found.pop() if found else None

    def _declared_at(self, start: int, end: int) -> TypeMeaning | None:
        near = self._code[max(0, start - _LOOK_BEHIND) : start]
        breaks = max(near.rfind(";"), near.rfind("{"), near.rfind("}"))
        words = near[breaks + 1 :].split()
        after = self._code[end : end + _LOOK_AHEAD]
        behind = after.lstrip()[:1]
        if not words:
            closed = near[breaks : breaks + 1] == "}" and behind == ";"
            return _typedef_of_braces(near[: breaks + 1]) if closed else None
        return _declared_by(words, near[breaks + 1 :], after)


def _declared_by(words: list[str], before: str, after: str) -> TypeMeaning | None:
    """What a type name between these is declared as, if it is."""
    behind = after.lstrip()[:1]
    if words[0] == "typedef" and behind in (";", ",", "[", ")"):
        simple = behind == ";" and not set("(),[") & set(before)
        return TypeMeaning("alias", " ".join(words[1:])) if simple else TypeMeaning("unknown")
    if words[0] == "using" and "=" not in before:
        return _alias(words, after) if behind == "=" else TypeMeaning("unknown")
    if _AN_ENUM.search(before):
        return _enum(after)
    if before.count("<") > before.count(">"):  # among a template's parameters
        return TypeMeaning("unknown") if _A_TYPE_PARAMETER.search(before) else None
    attributed = words[-1][-1] in ")]" and behind in ("{", ":", ";")
    if words[-1] in _STRUCTS or (attributed and _STRUCTS & set(words)):
        return TypeMeaning("struct")
    return None


@lru_cache(maxsize=16)
def _kept(source: str, headers: tuple[tuple[str, str], ...]) -> CxxText:
    return CxxText(source, headers)


def read_cxx(source: str, headers: tuple[tuple[str, str], ...]) -> CxxText:
    """Return what can be seen of a source; the last few are kept."""
    long = len(source) + sum(len(text) for _, text in headers) > _CACHED_LENGTH
    return CxxText(source, headers) if long else _kept(source, headers)


def split_list(text: str) -> Iterator[str]:
    """Split at the commas that stand in no brackets."""
    depth = start = 0
    for mark in re.finditer(r"[,(){}<>\[\]]", text):
        depth += (mark[0] in "({[<") - (mark[0] in ")}]>")
        if mark[0] == "," and depth == 0:
            yield text[start : mark.start()].strip()
            start = mark.end()
    if text[start:].strip():
        yield text[start:].strip()


def _uses(code: str, word: str) -> Iterator[int]:
    """Where a word stands, and not only as a part of another one."""
    start = code.find(word)
    while start >= 0:
        end = start + len(word)
        before, after = code[start - 1 : start], code[end : end + 1]
        if not (before.isalnum() or before == "_" or after.isalnum() or after == "_"):
            yield start
        start = code.find(word, end)


def _declarator(after: str) -> tuple[str, str, str] | None:
    """Name, template arguments and parameter list of what follows ``__global__``."""
    depth = start = head_start = 0
    head = ""
    for mark in _BRACKET.finditer(after):
        if mark[0] == "(":
            if depth == 0:
                head, start = after[head_start : mark.start()], mark.end()
            depth += 1
        elif mark[0] == ")":
            depth -= 1
            if depth == 0:
                name, arguments = _last_name(head)
                attribute = not name or name.startswith("__") or name in _NOT_A_NAME
                if not attribute and _AFTER_PARAMETERS.match(after, mark.end()):
                    return name, arguments, after[start : mark.start()]
                head_start = mark.end()
        elif depth == 0:
            return None
        if depth < 0:
            return None
    return None


def _last_name(head: str) -> tuple[str, str]:
    """``"void scale<float, 4>"`` to ``("scale", "float, 4")``."""
    near = head[-_LOOK_BEHIND:].rstrip()
    arguments = ""
    if near.endswith(">"):
        depth, position = 0, len(near)
        while position and (depth or position == len(near)):
            position -= 1
            depth += (near[position] == ">") - (near[position] == "<")
        near, arguments = near[:position].rstrip(), near[position + 1 : -1].strip()
    backwards = re.match(r"\w*", near[::-1])
    return (backwards[0][::-1] if backwards else ""), arguments


def _inside_angles(text: str) -> str | None:
    depth = 0
    for mark in re.finditer(r"[<>]", text):
        depth += 1 if mark[0] == "<" else -1
        if depth == 0:
            return text[1 : mark.start()]
    return None


def _alias(words: list[str], after: str) -> TypeMeaning:
    type_, ends, _ = after.lstrip()[1:].partition(";")
    plain = ends and len(words) == 1 and not set("(){}") & set(type_)
    return TypeMeaning("alias", type_.strip()) if plain else TypeMeaning("unknown")


def _enum(after: str) -> TypeMeaning | None:
    """An enum is its underlying type; int, if none is given (its values decide, within 4 bytes)."""
    head = _BREAK.split(after, maxsplit=1)[0].strip()
    if head.startswith(":"):
        return TypeMeaning("alias", head[1:].strip())
    # Not declared there, but used: enum Mode mode.
    return TypeMeaning("alias", "int") if not head and after.lstrip()[:1] == "{" else None


def _typedef_of_braces(before: str) -> TypeMeaning | None:
    """``typedef struct { ... } Name;``, from what stands before the name."""
    depth = 0
    for mark in reversed(list(re.finditer(r"[{}]", before))):
        depth += 1 if mark[0] == "}" else -1
        if depth == 0:
            words = _BREAK.split(before[: mark.start()])[-1].split()
            if words[:1] != ["typedef"] or len(words) < 2:
                return None
            return TypeMeaning("alias", "int") if words[1] == "enum" else TypeMeaning("struct")
    return TypeMeaning("unknown")
