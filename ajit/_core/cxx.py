"""What can be seen of a CUDA C++ source without a preprocessor and a compiler.

`CxxText` finds the kernels that a source declares, the macros that it defines, and what a type name
stands for. It is no parser: where the text could mean two things, the answer is that it is not
known. So it is for what stands in some branches of ``#if`` only, unless the branches agree.

Whatever the text is, reading it takes time in proportion to its length: patterns do not backtrack
(they are possessive), and each look around a place is bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ajit._core.directives import Branch, Preprocessed, covers
from ajit._core.params import known_types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["CxxText", "KernelDeclaration", "OtherUses", "TypeMeaning", "read_cxx", "split_list"]

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

_BRACKET = re.compile(r"[(){};]")
_AFTER_PARAMETERS = re.compile(r"\s*+(?:[{;]|\Z|noexcept\b|requires\b|__\w++\s*+\()")
_NOT_A_NAME = frozenset({"alignas", "decltype", "noexcept", "requires"})
_BREAK = re.compile(r"[;{}]")
_WORD = re.compile(r"[^\W\d]\w*+")
_SPLICE = re.compile(r"\\\r?\n")
_MARKS = "# \t\r\n\f\v"
_MOST_QUALIFIERS = 8
_GLOBAL = "__global__"
_HAS_BODY = re.compile(r"\s*+(?:<[^<>;{}]{0,512}+>)?+\s*+\([^;{}]{0,4096}\)[^();{}]{0,512}+\{")
_OF_STD = re.compile(r"\s*+using\s++(?:::)?(?:cuda::)?(?:std)?::\s*+")
_CONTROL = frozenset({"if", "while", "for", "switch", "sizeof", "decltype", "return", "catch"})
_EXPRESSIONS = frozenset({
    "return", "else", "case", "throw", "new", "delete", "goto", "do", "co_return", "co_await",
    "co_yield", "operator", "using",
})  # fmt: skip
_HEAD_WORDS = frozenset({
    "void", "int", "char", "short", "long", "signed", "unsigned", "float", "double", "bool", "auto",
    "const", "constexpr", "consteval", "volatile", "static", "inline", "extern", "virtual",
    "friend", "explicit", "struct", "class", "union", "enum", "typename", "template", "namespace",
    "std",
    "public", "private", "protected", "__device__", "__host__", "__forceinline__", "__noinline__",
    "__inline__", "__restrict__",
})  # fmt: skip
"""Words before the name of a function that cannot make a kernel of it, unless they are macros."""
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


@dataclass(frozen=True, slots=True)
class OtherUses:
    """How a name is used that does not declare a kernel which is found.

    Attributes:
        doubtful: Something may declare a kernel of that name: a macro stands before it.
        defined: A function of that name is defined that is no kernel.
        passed_on: The name stands where a macro may make a kernel of it.
        in_kernel: The name stands in the head of some kernel.
    """

    doubtful: bool = False
    defined: bool = False
    passed_on: bool = False
    in_kernel: bool = False


class CxxText:
    """A source and its virtual headers.

    Attributes:
        sees_all: Whether no name can come from elsewhere: nothing is included, no macro with
            parameters may make a name.
        directives: What the directives say.
        macros: Macro to body; None where the body is not known or has parameters.
        answers: What was worked out from this text before, by question.
    """

    def __init__(self, source: str, headers: tuple[tuple[str, str], ...]) -> None:
        self._text = "\n".join([source, *(content for _, content in headers)])
        if "\\" in self._text:
            self._text = _SPLICE.sub("", self._text)
        self.directives = Preprocessed(source, headers)
        self._code = self.directives.code
        self.macros = self.directives.macros
        self.sees_all = (
            self.directives.includes_all
            and not self.directives.function_macros
            and "%:" not in self._text
            and "??" not in self._text
        )
        self.answers = Answers()

    @property
    def joins_words(self) -> bool:
        """Whether a macro may make a name of parts."""
        return "##" in self._text

    def mentions(self, word: str) -> bool:
        """Whether a word may stand in the text once it is preprocessed."""
        return not self.sees_all or self.joins_words or word in self._text

    def kernels(self, name: str) -> list[KernelDeclaration]:
        """Return the declarations of kernels whose name, without its namespace, is this one."""
        return self.answers.get_or_make(("kernels", name), lambda: self._kernels(name))

    def _kernels(self, name: str) -> list[KernelDeclaration]:
        found: dict[KernelDeclaration, None] = {}  # a set that keeps the order
        for _, before, declared in self._declared(name):
            found[KernelDeclaration(self._template(before), *declared[1:])] = None
        return list(found)

    def always_has(self, name: str) -> bool:
        """Whether a kernel of that name is declared whatever the conditions are."""
        starts = (start for start, _, _ in self._declared(name))
        return covers({self.directives.branch_at(start) for start in starts})

    def _declared(self, name: str) -> Iterator[tuple[int, str, tuple[str, str, str]]]:
        """Yield where a kernel is declared, what stands before, and its declarator."""
        start = 0
        for before, after in pairwise(self._pieces):
            start += len(before)
            declared = _declarator(after) if name in after else None
            if declared is not None and declared[0] == name:
                yield start, before, declared
            start += len(_GLOBAL)

    def kernel_names(self) -> Iterator[str]:
        """Yield the names of all kernels."""
        for after in self._pieces[1:]:
            if declared := _declarator(after):
                yield declared[0]

    @cached_property
    def _pieces(self) -> list[str]:
        return self._code.split(_GLOBAL)

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
        # A mark is where a directive was: the head may be there or not.
        return ("?",) if inside is None or "#" in rest else tuple(split_list(inside))

    def other_uses(self, name: str, is_macro: Callable[[str], bool]) -> OtherUses:
        """Return how a name is used other than to declare a kernel in so many words.

        Args:
            name: The name.
            is_macro: Whether a word is a macro.
        """
        defined = passed_on = in_kernel = False
        for count, start in enumerate(_uses(self._code, name)):
            end = start + len(name)
            if count == _MOST_USES:
                return OtherUses(doubtful=True)
            use = self._use(start, end, is_macro)
            if use == "doubtful":
                return OtherUses(doubtful=True)
            in_kernel |= use == "kernel"
            passed_on |= use == "other"
            defined |= use == "function" and _HAS_BODY.match(self._code, end) is not None
        return OtherUses(defined=defined, passed_on=passed_on, in_kernel=in_kernel)

    def _use(
        self, start: int, end: int, is_macro: Callable[[str], bool]
    ) -> Literal["call", "function", "kernel", "other", "doubtful"]:
        after = self._code[end : end + _LOOK_AHEAD].lstrip()
        head = _head(self._code[max(0, start - _LOOK_BEHIND) : start])
        if head is None:
            return "doubtful"
        if _GLOBAL in head:
            return "kernel"
        if after[:1] not in ("(", "<"):
            return "other"
        if after.startswith("<<<") or not _declares(head):
            return "call"
        words = set(_WORD.findall(head))
        if any(map(is_macro, words)) or not all(map(self._may_stand_in_a_head, words)):
            return "doubtful"
        return "function"

    def _may_stand_in_a_head(self, word: str) -> bool:
        return word in _HEAD_WORDS or word in known_types() or self.meaning(word) is not None

    def meaning(self, word: str) -> TypeMeaning | None:
        """Return what the text says about a type name, or None if it declares no such name."""
        return self.answers.get_or_make(("meaning", word), lambda: self._meaning(word))

    def _meaning(self, word: str) -> TypeMeaning | None:
        found: TypeMeaning | None = None
        branches: set[Branch] = set()
        for count, start in enumerate(_uses(self._code, word)):
            meaning = self._declared_at(start, start + len(word))
            if meaning is not None:
                branches.add(self.directives.branch_at(start))
                if found not in (None, meaning) or meaning.kind == "unknown":
                    return TypeMeaning("unknown")
                found = meaning
            if count == _MOST_USES:
                return TypeMeaning("unknown")
        if found is None or covers(branches):
            return found
        # In the other branches it is a type of C++ or CUDA, or comes from elsewhere.
        return found if self.sees_all and word not in known_types() else TypeMeaning("unknown")

    def _declared_at(self, start: int, end: int) -> TypeMeaning | None:
        near = self._code[max(0, start - _LOOK_BEHIND) : start]
        breaks = max(near.rfind(";"), near.rfind("{"), near.rfind("}"))
        # A directive may stand before a declaration, and leaves its mark.
        statement = near[breaks + 1 :].lstrip(_MARKS)
        words = statement.split()
        after = self._code[end : end + _LOOK_AHEAD]
        behind = after.lstrip()[:1]
        if breaks < 0 and start > _LOOK_BEHIND:
            return TypeMeaning("unknown")
        if behind == ";" and _OF_STD.fullmatch(statement):
            return TypeMeaning("alias", "std::" + self._code[start:end])
        if not words:
            closed = near[breaks : breaks + 1] == "}" and behind == ";"
            return _typedef_of_braces(near[: breaks + 1]) if closed else None
        meaning = _declared_by(words, statement, after)
        return TypeMeaning("unknown") if meaning and "#" in statement else meaning


def _head(near: str) -> str | None:
    """What stands before a name in its statement; None if that is too much to say."""
    start = max(near.rfind(";"), near.rfind("{"), near.rfind("}"))
    if start < 0 and len(near) == _LOOK_BEHIND:
        return None
    head = near[start + 1 :].replace("#", " ").strip()
    if head.startswith("template"):
        inside = _inside_angles(head[len("template") :].lstrip())
        head = head.partition(inside + ">")[2] if inside else head
    for _ in range(_MOST_QUALIFIERS):
        if not head.endswith("::"):  # of the name itself
            return head
        head = head[:-2].rstrip()
        head = head[: len(head) - len(_last_name(head)[0])].rstrip()
    return None


def _declares(head: str) -> bool:
    """Whether a name may be declared after this, and is not only used in an expression."""
    if not head or "=" in head or _EXPRESSIONS & set(_WORD.findall(head)):
        return False
    if head.count("(") != head.count(")"):
        return False
    if head.endswith(")"):
        before = _last_name(head[: head.rfind("(")])[0]
        return bool(before) and before not in _CONTROL
    return head[-1].isalnum() or head[-1] in "_*&>"


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
            words = _BREAK.split(before[: mark.start()])[-1].lstrip(_MARKS).split()
            if words[:1] != ["typedef"] or len(words) < 2:
                return None
            return TypeMeaning("alias", "int") if words[1] == "enum" else TypeMeaning("struct")
    return TypeMeaning("unknown")
