"""The parameters of a kernel, read from its source.

`read_params` gives the C types of an entry point's parameters where the source says them beyond
doubt, and None where it does not: a list that macros make, overloads, branches of ``#if`` that
differ, a type by value that an included header declares. Such a kernel can be compiled and loaded,
and a launch asks for ``params``.

`check_params` holds what is known for sure against what the user declared: a misspelt type, a wrong
number or two types swapped are found before anything is compiled.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._core.cxx import (
    CxxText,
    KernelDeclaration,
    OtherUses,
    TypeMeaning,
    read_cxx,
    split_list,
)
from ajit._core.instances import check_instance
from ajit._core.params import CType, is_known_type, known_types, parse_ctype
from ajit._core.short_repr import cut
from ajit._core.written import SHOWN, declared_type
from ajit._printable import kernels_hint
from ajit.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["Origin", "check_params", "nearest_kernel", "read_params"]

_SHOWN_LIST = 2000
_MOST_ALIASES = 8
_LONGEST_LIST = 20_000
_MOST_EXPANDED = 200_000
"""Characters that all replacements for one kernel may make: they could double with each macro."""
_MOST_NAMES = 64
"""Type names that are looked up for one kernel, each in the whole text. Pretty arbitrary."""
_WORD = re.compile(r"[^\W\d]\w*+")
_ATTRIBUTES = re.compile(r"\[\[[^\[\]]*+\]\]|\b(?:alignas|__align__)\s*+\([^()]*+\)")
_MACRO_OPTIONS = re.compile(r"(?:-[DU]|define-macro|undefine-macro)[ =]?\s*+([^\W\d]\w*+)")
_INCLUDES = re.compile(
    r"(?:^|[=,])(?:@|--?include(?!-path)|--pre-include|--?imacros|--?options-file|-optf)"
)
_DECLARES = re.compile(r"\b(?:typedef|using|struct|class|union|enum)\b")
_MAKES_NAMES = re.compile(r"include|macros|-D|define|^@|options-file|^-U")
_NOT_TYPES = frozenset({
    "const", "volatile", "struct", "class", "union", "enum", "typename", "std", "cuda", "signed",
    "unsigned", "short", "long", "int", "char", "float", "double", "bool", "void", "sizeof", "true",
    "false", "auto", "decltype", "register", "static", "constexpr", "template", "inline", "extern",
})  # fmt: skip


class _NotKnown(Exception):
    """The source does not say it beyond doubt."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an entry point comes from, as far as its parameters depend on it.

    Attributes:
        source: CUDA C++ text.
        headers: Virtual headers.
        defines: Macros of the command line.
        options: Flags, some of which may include files or define macros.
    """

    source: str
    headers: tuple[tuple[str, str], ...]
    defines: tuple[tuple[str, str | None], ...]
    options: tuple[str, ...]


def read_params(name: str, origin: Origin) -> tuple[str, ...] | None:
    """Return the C types of a kernel's parameters, or None if the source does not tell.

    Raises:
        SpecError: The source cannot have such a kernel, or a type in its list is declared nowhere.
    """
    text = read_cxx(origin.source, origin.headers)
    question = ("params", name, origin.defines, origin.options)
    return text.answers.get_or_make(question, lambda: _Reader(text, origin).params_of(name))


def check_params(name: str, given: tuple[str, ...], origin: Origin) -> tuple[str, ...]:
    """Return the parameters to use for a kernel whose parameters were declared as well.

    Raises:
        SpecError: The source says another list beyond doubt.
    """
    read = read_params(name, origin)
    if read is None or read == given:
        return given
    kernel = cut(repr(name), SHOWN)
    lists = f"\n  params: ({_shown_list(given)})\n  source: ({_shown_list(read)})"
    if len(given) != len(read):
        raise SpecError(
            f"params of kernel {kernel} name {len(given)} types, its source has {len(read)}{lists}"
        )
    reader = _Reader(read_cxx(origin.source, origin.headers), origin)
    for index, (declared, found) in enumerate(zip(given, read, strict=True)):
        if not _agree(reader.resolved(declared), found):
            raise SpecError(
                f"params[{index}] of kernel {kernel} is {cut(repr(declared), SHOWN)}, but its "
                f"source has {cut(repr(found), SHOWN)}{lists}"
            )
    # A name that only the source explains (using index_t = int) is not among the types known.
    return tuple(
        found if parse_ctype(declared).kind == "struct" else declared
        for declared, found in zip(given, read, strict=True)
    )


def _shown_list(types: tuple[str, ...]) -> str:
    return cut(", ".join(types), _SHOWN_LIST)


def _agree(declared: str | None, found: str) -> bool:
    if declared is None:
        return True
    one, other = parse_ctype(declared), parse_ctype(found)
    return (one.kind, one.size_bytes) == (other.kind, other.size_bytes)


def nearest_kernel(wanted: str, kernels: Iterable[str]) -> str:
    """Return which of some kernels is most like a name that none has; "" if none is."""
    base = wanted.partition("<")[0].rpartition("::")[2]
    return next(iter(difflib.get_close_matches(base, list(kernels), 1)), "")


class _Reader:
    """Works out types in one source with one set of macros."""

    def __init__(self, text: CxxText, origin: Origin) -> None:
        self._text = text
        self._macros: dict[str, str | None] = {**text.macros, **dict(origin.defines)}
        for define, value in origin.defines:
            if define in text.macros:  # the source defines it anew, or only if it is not defined
                self._macros[define] = value if text.macros[define] == value else None
        optional = _MACRO_OPTIONS.findall(" ".join(origin.options))
        self._foreign = text.directives.foreign or any(map(_INCLUDES.search, origin.options))
        unsure = text.directives.defaults if self._foreign else ()
        self._macros.update(dict.fromkeys([*optional, *unsure]))
        outside = {*optional, *(define for define, _ in origin.defines)}
        self._is_odd = text.directives.odd or not outside.isdisjoint(text.directives.guards)
        # Whether a name that is seen nowhere is a mistake.
        self._sees_all = text.sees_all and not any(map(_MAKES_NAMES.search, origin.options))
        self._expandable = _MOST_EXPANDED
        self._meanings: dict[str, TypeMeaning | None] = {}

    def params_of(self, name: str) -> tuple[str, ...] | None:
        base, arguments = _parts_of(name)
        if base is None or self._is_odd:
            return None
        candidates = self._text.kernels(base)
        others = self._text.other_uses(base, self._macros.__contains__)
        if not candidates:
            self._check_is_there(base, name, others)
            return None
        if others.doubtful or not (self._text.always_has(base) or self._is_only(base, others)):
            return None
        if not self._foreign:
            check_instance(base, candidates, arguments)
        try:
            return self._agreed(
                self._list(found, arguments) for found in candidates if _fits(found, arguments)
            )
        except _NotKnown:
            return None

    def _agreed(self, lists: Iterator[tuple[str, ...]]) -> tuple[str, ...] | None:
        first = next(lists, None)
        return first if all(found == first for found in lists) else None

    def _is_only(self, base: str, others: OtherUses) -> bool:
        """Whether a kernel that some branches declare is declared in no other way."""
        made = others.passed_on and self._text.directives.function_macros
        return not (self._foreign or made or self._text.joins_words or self._in_macros(base))

    def _in_macros(self, base: str) -> bool:
        return any(base in f"{macro} {body}" for macro, body in self._macros.items())

    def resolved(self, declared: str) -> str | None:
        """Return what a type stands for in this source; None if that is not known."""
        try:
            return self._type(self._expanded(declared), {}, _MOST_ALIASES)
        except _NotKnown:
            return None
        except SpecError:  # nothing declares it: it is what it was
            return declared

    def _check_is_there(self, base: str, name: str, others: OtherUses) -> None:
        unclear = others.doubtful or others.in_kernel
        if others.defined and not unclear and self._is_only(base, others):
            raise SpecError(f"{cut(base, SHOWN)} is a function without __global__, and no kernel")
        if not self._sees_all or self._in_macros(base) or self._text.mentions(base):
            return
        names = set(self._text.kernel_names())
        hint = kernels_hint(names, nearest_kernel(base, names))
        raise SpecError(f"the source has no kernel {cut(repr(name), SHOWN)}{hint}")

    def _list(self, found: KernelDeclaration, arguments: Sequence[str]) -> tuple[str, ...]:
        if "#" in found.params or len(found.params) > _LONGEST_LIST:
            raise _NotKnown
        replaced = self._bound(found.template or (), arguments)
        declarations = _ATTRIBUTES.sub(" ", found.params)
        if not declarations.strip() or declarations.strip() == "void":
            return ()
        types = []
        for declaration in split_list(self._expanded(declarations)):
            try:
                declared = declared_type(declaration)
            except SpecError:
                raise _NotKnown from None
            types.append(self._type(declared, replaced, _MOST_ALIASES))
        return tuple(types)

    def _expanded(self, text: str, depth: int = _MOST_ALIASES) -> str:
        """Replace macros by what they stand for."""
        bodies: dict[str, str] = {}
        for word in set(_WORD.findall(text)):
            if word in self._macros:
                body = self._macros[word]
                # Declared as well: which of the two is meant depends on the place.
                if body is None or set(",(){};#=") & set(body) or self._meaning(word):
                    raise _NotKnown
                bodies[word] = body
        if not bodies:
            return text
        if depth == 0:
            raise _NotKnown
        return self._expanded(self._replaced(text, bodies), depth - 1)

    def _replaced(self, text: str, words: Mapping[str, str]) -> str:
        """Replace words, unless that makes too much text: then it is not known.

        A macro of eight others, nine times over, is 349 bytes that stand for a gigabyte.
        """
        grown = sum(len(words[word]) - len(word) for word in _WORD.findall(text) if word in words)
        self._expandable -= len(text) + grown
        if len(text) + grown > _LONGEST_LIST or self._expandable < 0:
            raise _NotKnown
        return _WORD.sub(lambda match: words.get(match[0], match[0]), text)

    def _meaning(self, word: str) -> TypeMeaning | None:
        if word not in self._meanings:
            if len(self._meanings) >= _MOST_NAMES:
                raise _NotKnown
            self._meanings[word] = self._text.meaning(word)
        return self._meanings[word]

    def _bound(self, template: Sequence[str], arguments: Sequence[str]) -> dict[str, str]:
        """Template parameters to what an instance has in their places."""
        given = [argument for argument in arguments if argument]
        bound: dict[str, str] = {}
        for index, parameter in enumerate(template):
            declared, _, default = parameter.partition("=")
            words = _WORD.findall(declared)
            if "..." in declared or "<" in declared or parameter == "?" or not words:
                raise _NotKnown
            value = given[index] if index < len(given) else default.strip()
            if not value:
                raise _NotKnown
            bound[words[-1]] = self._replaced(value, bound)
        return bound

    def _type(self, declared: str, replaced: Mapping[str, str], depth: int) -> str:
        """Return a type as `parse_ctype` understands it."""
        if depth == 0:
            raise _NotKnown
        plain = declared.replace("typename ", "")
        substituted = self._replaced(plain, replaced) if replaced else plain
        if substituted != plain:
            substituted = self._expanded(substituted)
        ctype = parse_ctype(substituted)
        names = [word for word in _WORD.findall(substituted) if word not in _NOT_TYPES]
        if ctype.kind == "pointer":
            self._check_all(names, substituted)
            return substituted
        return self._by_value(substituted, ctype, names, depth)

    def _by_value(self, text: str, ctype: CType, names: list[str], depth: int) -> str:
        base = _base_name(text, names)
        if base is None:
            self._check_all(names, text)
            if names or ctype.kind == "struct":
                raise _NotKnown
            return text  # made of C's own words alone
        meaning = self._meaning(base)
        if meaning is None:
            self._check_type_name(base, text)
            if is_known_type(base) and "<" not in text:
                return text
            raise _NotKnown
        if meaning.kind == "alias" and "<" not in text:
            if base in _WORD.findall(meaning.text):  # using uint32_t = std::uint32_t
                if not is_known_type(base):
                    raise _NotKnown
                return meaning.text
            return self._type(self._expanded(meaning.text), {}, depth - 1)
        if meaning.kind == "unknown" or (meaning.kind != "struct" and ctype.kind == "struct"):
            raise _NotKnown
        return text

    def _check_all(self, names: Iterable[str], text: str) -> None:
        for name in names:
            self._check_type_name(name, text)

    def _check_type_name(self, word: str, text: str) -> None:
        """Raise if a word in a type is a name that nothing declares."""
        if not self._sees_all or "::" in text or "<" in text or word in self._macros:
            return
        if is_known_type(word) or self._meaning(word) is not None:
            return
        if any(body is None or _DECLARES.search(body) for body in self._macros.values()):
            return
        known = [*known_types(), *_NOT_TYPES]
        near = [f"{word}_t"] if f"{word}_t" in known else difflib.get_close_matches(word, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SpecError(
            f"the source uses the type {cut(repr(word), SHOWN)}, which nothing declares{hint}"
        )


def _parts_of(name: str) -> tuple[str | None, tuple[str, ...]]:
    """``"ns::scale<float, 4>"`` to ``("scale", ("float", "4"))``; None if it is another form."""
    head, angle, rest = name.lstrip("&").partition("<")
    base = head.split("::")[-1].strip()
    if not _WORD.fullmatch(base) or (angle and not rest.rstrip().endswith(">")):
        return None, ()
    return base, (tuple(split_list(rest.rstrip()[:-1])) or ("",)) if angle else ()


def _base_name(text: str, names: Sequence[str]) -> str | None:
    """The name that decides what a type by value is; None if that is not clear, or no name does."""
    if not names or re.search(r">\s*::", text):  # a member of a template
        return None
    if "<" in text or "::" in text:
        words = _WORD.findall(text.partition("<")[0])
        return words[-1] if words and words[-1] in names else None
    return names[0] if len(names) == 1 else None  # beside the type stands what may be a macro


def _fits(found: KernelDeclaration, arguments: Sequence[str]) -> bool:
    """Whether a declaration may be that of an instance with these arguments."""
    if found.arguments:
        spelt = [re.sub(r"\s", "", part) for part in split_list(found.arguments)]
        return spelt == [re.sub(r"\s", "", part) for part in arguments]
    return (found.template is not None) is bool(arguments) or found.template == ("?",)
