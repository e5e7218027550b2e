"""Turns what a user writes into the plain values of a spec.

Python accepts a string where a sequence of strings is meant, and a compiler stops reading at a NUL:
both would build something other than what was asked for. So each function here returns values that
reach a compiler unchanged, or raises `SpecError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from ajit._core.short_repr import cut
from ajit.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "SHOWN",
    "declared_type",
    "kernel_name",
    "label",
    "macros",
    "parameter_types",
    "paths",
    "source_text",
    "text",
    "texts",
    "virtual_headers",
]

SHOWN = 80
"""Characters of a value in a message: the value may be a source by mistake."""

_BYTE_ORDER_MARK = "\ufeff"
"""Some editors begin a file with it. NVRTC refuses it, and after a line of ajit every compiler."""

_MACRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SPACES = re.compile(r"\s+")
_AROUND_MARKS = re.compile(r" ?([<>,]|::) ?")
_BEFORE_STARS = re.compile(r"(?<=[\w>*]) (?=[*&])")
_AFTER_COMMAS = re.compile(r",(?! )")
_FILE_NAME = re.compile(r"[^\n{};#]{1,4096}\.(?:cu|cuh|c|cc|cpp|cxx|h|hh|hpp|hxx|inl)")
_CHARACTER = re.compile(r"'[A-Za-z0-9_]'")
_NOT_IN_A_NAME = re.compile(r"""[;{}"'\\#]|//|/\*""")


def source_text(source: object) -> str:
    """Return source text, given as text or as its UTF-8 bytes."""
    if isinstance(source, bytes | bytearray):
        try:
            source = source.decode()
        except UnicodeDecodeError as exc:
            line = exc.object[: exc.start].count(b"\n") + 1
            raise SpecError(
                f"source is not UTF-8: byte {exc.start}, line {line}: {exc.reason}"
            ) from None
    if not isinstance(source, str):
        hint = " (use Spec.from_file)" if hasattr(source, "__fspath__") else ""
        raise SpecError(f"source must be str or bytes, got {type(source).__name__}{hint}")
    if _FILE_NAME.fullmatch(source):
        raise SpecError(
            f"source is the name of a file, {cut(repr(source), SHOWN)}; use Spec.from_file"
        )
    return text(source, "source").removeprefix(_BYTE_ORDER_MARK)


def text(value: object, what: str) -> str:
    """Return a text that can be sent to a compiler: UTF-8 can write it, and it has no NUL."""
    if not isinstance(value, str):
        raise SpecError(f"{what} must be str, got {type(value).__name__}")
    if "\0" in value:
        raise SpecError(f"{what} contains a NUL character, where a compiler would stop reading")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise SpecError(f"{what} cannot be written as UTF-8: {exc}") from None
    return value


def texts(values: Iterable[object], what: str) -> tuple[str, ...]:
    """Return a sequence of texts, and refuse one text, whose letters are a sequence as well."""
    return tuple(
        text(value, f"{what}[{index}]") for index, value in enumerate(_iterated(values, what))
    )


def paths(values: Iterable[object], what: str) -> tuple[str, ...]:
    """Return a sequence of paths as texts."""
    made = [
        value.__fspath__() if hasattr(value, "__fspath__") else value
        for value in _iterated(values, what)
    ]
    return texts(made, what)


def label(name: object) -> str:
    """Return a name for logs, tables and file names: one line."""
    name = text(name, "name")
    if not name.isprintable():
        raise SpecError(f"name {cut(repr(name), SHOWN)} is not one printable line")
    return name


def kernel_name(name: object) -> str:
    """Fold the white space of a name expression, so that it has one spelling and one key."""
    folded = _SPACES.sub(" ", name).strip() if isinstance(name, str) else ""
    if not folded or not folded.isprintable() or _NOT_IN_A_NAME.search(_CHARACTER.sub("", folded)):
        hint = ""
        if "'" in folded:
            hint = (
                ": a character in it is a letter or a digit; write the number of any other, k<44>"
            )
        raise SpecError(f"{cut(repr(name), SHOWN)} is not the name of a kernel{hint}")
    close = _BEFORE_STARS.sub("", _AROUND_MARKS.sub(r"\1", folded))
    return text(_AFTER_COMMAS.sub(", ", close), "the name of a kernel")


def macros(
    defines: Mapping[str, object] | Iterable[str | tuple[str, object]],
) -> tuple[tuple[str, str | None], ...]:
    """Return macros sorted by name; None stands for a bare ``-DNAME``."""
    made: dict[str, str | None] = {}
    for item in _pairs(defines, "defines"):
        name, value = (item, None) if isinstance(item, str) else _pair(item, "a macro")
        if not isinstance(name, str) or not _MACRO_NAME.match(name):
            raise SpecError(f"{cut(repr(name), SHOWN)} is not the name of a macro")
        if name in made:
            raise SpecError(f"macro {cut(name, SHOWN)} is defined twice")
        made[name] = None if value is None else _macro_value(name, value)
    return tuple(sorted(made.items()))


def virtual_headers(
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
) -> tuple[tuple[str, str], ...]:
    """Return virtual headers sorted by include name."""
    made: dict[str, str] = {}
    for item in _pairs(headers, "headers"):
        name, content = _pair(item, "a header")
        name = text(name, "the name of a header")
        if not name.strip() or not name.isprintable() or name.startswith("/"):
            raise SpecError(
                f"header {cut(repr(name), SHOWN)} needs an include name that is not absolute"
            )
        if name in made:
            raise SpecError(f"header {cut(name, SHOWN)} is given twice")
        written = text(content, f"the text of header {cut(name, SHOWN)}")
        made[name] = written.removeprefix(_BYTE_ORDER_MARK)
    return tuple(sorted(made.items()))


def _iterated(values: Iterable[object], what: str) -> Iterable[object]:
    if isinstance(values, str | bytes):
        raise SpecError(
            f"{what} must be a list, got one {type(values).__name__}: [{cut(repr(values), SHOWN)}]?"
        )
    if not isinstance(values, Iterable):
        raise SpecError(f"{what} must be a list, got {type(values).__name__}")
    return values


def _pairs(values: Mapping[str, object] | Iterable[object], what: str) -> Iterable[object]:
    return values.items() if isinstance(values, Mapping) else _iterated(values, what)


def _pair(item: object, what: str) -> tuple[object, object]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise SpecError(f"{what} must be a pair of name and value, got {cut(repr(item), SHOWN)}")
    return item[0], item[1]


def _macro_value(name: str, value: object) -> str:
    if not isinstance(value, str):
        # numpy.bool_ is no bool, and "True" means nothing in C++.
        value = {"True": "1", "False": "0"}.get(str(value), str(value))
    if "\n" in value:
        raise SpecError(
            f"the value of macro {cut(name, SHOWN)} has a line break; a macro is one line"
        )
    return text(value, f"the value of macro {cut(name, SHOWN)}")


# --- parameters ----------------------------------------------------------------------------------

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_NOT_PART_OF_A_TYPE = re.compile(r"\b(?:__restrict__|__restrict|__grid_constant__)\b")
_DECLARATION = re.compile(r"(.*[\s*&>])([^\W\d]\w*)")
_ARRAY = re.compile(r"([^\[\]]+)\[[^\[\]]*\]")
_TYPE = re.compile(r"(?:::)?[^\W\d][\w :<>,*&+\-/%]*")
_QUALIFIERS = frozenset({"const", "volatile", "struct", "class", "union", "enum", "typename"})
_LAST_WORDS_OF_TYPES = _QUALIFIERS | frozenset(
    {"int", "long", "short", "char", "unsigned", "signed", "float", "double", "bool"}
)


def parameter_types(params: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return C types in one spelling, from types or from a parameter list as in the source."""
    if params is None:
        return None
    if isinstance(params, str):
        return _declared_types(params)
    types = []
    for index, item in enumerate(_iterated(params, "params")):
        type_ = _tidy(item) if isinstance(item, str) and item.isprintable() else ""
        if not type_:
            got = cut(repr(item), SHOWN) if isinstance(item, str) else type(item).__name__
            raise SpecError(f'params[{index}] must be a C type name such as "float", got {got}')
        types.append(text(type_, f"params[{index}]"))
    return tuple(types)


@lru_cache(maxsize=256)  # a server writes the same kernel's list for every shape
def _declared_types(declarations: str) -> tuple[str, ...]:
    """``"float a, const float* __restrict__ x"`` to ``("float", "const float*")``."""
    bare = _tidy(_COMMENT.sub(" ", declarations))
    if bare in ("", "void"):
        return ()
    return tuple(declared_type(part) for part in _split(bare))


def _split(declarations: str) -> Iterable[str]:
    """Split at the commas that stand in no template's argument list."""
    depth = start = 0
    for position, char in enumerate(declarations):
        depth += (char == "<") - (char == ">")
        if char == "," and depth == 0:
            yield declarations[start:position]
            start = position + 1
    yield declarations[start:]


def declared_type(declaration: str) -> str:
    """Return the type of one parameter, from its declaration.

    Raises:
        SpecError: The declaration is not of a form that is understood.
    """
    declared = _tidy(declaration.partition("=")[0])  # what follows is a default argument
    if array := _ARRAY.fullmatch(declared):
        return declared_type(array[1]) + "*"
    named = _DECLARATION.fullmatch(declared)
    # "unsigned int" and "const half" have no parameter name: the last word belongs to the type.
    if named and named[2] not in _LAST_WORDS_OF_TYPES and set(named[1].split()) - _QUALIFIERS:
        declared = named[1].strip()
    if not _TYPE.fullmatch(declared) or declared.count("<") != declared.count(">"):
        raise SpecError(
            f"parameter {cut(repr(declaration.strip()), SHOWN)} is not understood; "
            "give a sequence of C types"
        )
    return declared


def _tidy(declaration: str) -> str:
    """``"const  float * __restrict__"`` to ``"const float*"``."""
    folded = _SPACES.sub(" ", _NOT_PART_OF_A_TYPE.sub(" ", declaration)).strip()
    return re.sub(r"([*&])(?=\w)", r"\1 ", re.sub(r" (?=[*&])", "", folded))
