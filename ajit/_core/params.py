"""C parameter types: their names, sizes and how a Python value becomes their bytes.

A kernel's parameters are declared by their C types, ``("float", "const float*", "int")``. This
table says what is known of each; a type that is not in it is taken for a struct that is passed by
value, and its argument is given as bytes of the exact size. Sizes are those of 64-bit Linux, on the
host and in CUDA alike.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "CType",
    "ParamKind",
    "bfloat16_bits",
    "is_known_type",
    "known_types",
    "parse_ctype",
    "pointed_to",
]

ParamKind = Literal["bool", "int", "float", "half", "bfloat16", "pointer", "struct"]


@dataclass(frozen=True, slots=True)
class CType:
    """One parameter type.

    Attributes:
        name: The type as it was declared.
        kind: What values it takes.
        size_bytes: Its size; 0 for a struct, whose size only the loaded kernel knows.
        code: Format character of the `struct` module; "" for a struct.
    """

    name: str
    kind: ParamKind
    size_bytes: int
    code: str


_INTEGERS = {
    "char": "b", "signed char": "b", "unsigned char": "B",
    "short": "h", "unsigned short": "H",
    "int": "i", "unsigned int": "I",
    "long": "q", "unsigned long": "Q",
    "long long": "q", "unsigned long long": "Q",
    "int8_t": "b", "uint8_t": "B", "int16_t": "h", "uint16_t": "H",
    "int32_t": "i", "uint32_t": "I", "int64_t": "q", "uint64_t": "Q",
    "size_t": "Q", "ssize_t": "q", "ptrdiff_t": "q", "intptr_t": "q", "uintptr_t": "Q",
    "uchar": "B", "ushort": "H", "uint": "I", "ulong": "Q",
    "wchar_t": "i", "char8_t": "B", "char16_t": "H", "char32_t": "I",
    "cudaTextureObject_t": "Q", "cudaSurfaceObject_t": "Q", "CUtexObject": "Q", "CUsurfObject": "Q",
}  # fmt: skip
_OTHERS: dict[str, tuple[ParamKind, str]] = {
    "bool": ("bool", "?"),
    "float": ("float", "f"),
    "double": ("float", "d"),
    "half": ("half", "e"),
    "__half": ("half", "e"),
    "nv_bfloat16": ("bfloat16", "H"),
    "__nv_bfloat16": ("bfloat16", "H"),
    "CUdeviceptr": ("pointer", "Q"),
}
_STRUCTS = frozenset({
    "dim3", "half2", "nv_bfloat162", "CUtensorMap",
    *(f"{scalar}{count}" for count in range(1, 5) for scalar in (
        "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong", "longlong", "ulonglong",
        "float", "double",
    )),
})  # fmt: skip
_OF_CUDA = re.compile(r"__\w+|_\w+|cuda[A-Z]\w*|CU\w+|nv\w+|(?:u?long|u?longlong|double)4_\w+")
_NAMESPACES = re.compile(r"^(?:::)?(?:cuda::)?(?:std::)?")
"""Namespaces in front of a type of the standard library."""
_KNOWN = frozenset({*_INTEGERS, *_OTHERS, *_STRUCTS})
_QUALIFIERS = frozenset({"const", "volatile", "__restrict__", "__restrict", "restrict"})
# Words of an integer type that may stand in any order; "int" and "signed" then say nothing new.
_INTEGER_WORDS = frozenset({"unsigned", "signed", "char", "short", "int", "long"})


def parse_ctype(declared: str) -> CType:
    """Return what is known of a C type, from its declaration.

    Args:
        declared: Such as ``float``, ``const __half*``, ``unsigned``, ``std::int32_t``, ``Params``.
    """
    text = declared.replace("*", " * ").replace("&", " & ").replace("[", " [ ")
    words = [_NAMESPACES.sub("", word) for word in text.split() if word not in _QUALIFIERS]
    if "*" in words or "&" in words or "[" in words:
        return CType(declared, "pointer", 8, "Q")
    name = _integer_name(words) if words and _INTEGER_WORDS.issuperset(words) else " ".join(words)
    if name in _INTEGERS:
        return _made(declared, "int", _INTEGERS[name])
    if name in _OTHERS:
        return _made(declared, *_OTHERS[name])
    return CType(declared, "struct", 0, "")


def pointed_to(ctype: CType) -> CType | None:
    """Return what a pointer parameter points to, if that is one of C's or CUDA's plain types."""
    if ctype.kind != "pointer" or ctype.name.count("*") != 1 or "[" in ctype.name:
        return None
    target = parse_ctype(ctype.name.partition("*")[0])
    return None if target.kind in ("struct", "pointer") else target


def is_known_type(name: str) -> bool:
    """Whether a name is a type of C++ or CUDA, or looks like one that CUDA may declare."""
    return name in known_types() or _OF_CUDA.fullmatch(name) is not None


def known_types() -> frozenset[str]:
    """Names of the types that need no declaration in a source."""
    return _KNOWN


def bfloat16_bits(value: float) -> int:
    """Return the bits of the bfloat16 nearest to a value, ties to even; NaN stays NaN.

    Raises:
        OverflowError: A finite value is above what a float can hold.
    """
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    if bits & 0x7FFFFFFF > 0x7F800000:
        return 0x7FFF
    return int((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)


def _made(declared: str, kind: ParamKind, code: str) -> CType:
    return CType(declared, kind, struct.calcsize("<" + code), code)


def _integer_name(words: list[str]) -> str:
    """One spelling: ``long unsigned int`` becomes ``unsigned long``."""
    longs = words.count("long")
    base = next((word for word in ("char", "short") if word in words), "")
    base = base or {0: "int", 1: "long", 2: "long long"}.get(longs, "no such type")
    if "unsigned" in words:
        return f"unsigned {base}"
    # Plain char is signed on the host's x86-64 and in CUDA on it.
    return base
