"""Types of elements: their names, and what each protocol calls them.

The one table of them. A type is known to users by its name, which is that of numpy, torch and
`ml_dtypes`. Pure: it imports none of these.
"""

from __future__ import annotations

import difflib
import functools
import sys
from typing import Any, NamedTuple

from ajit.errors import ArgumentError

__all__ = [
    "COMPLEX",
    "DTYPES",
    "DType",
    "dtype_named",
    "name_of_dlpack",
    "name_of_format",
    "name_of_typestr",
]

_INT, _UINT, _FLOAT, _BFLOAT, COMPLEX, _BOOL = 0, 1, 2, 4, 5, 6
"""Type codes of DLPack, ``DLDataTypeCode``; those of 8-bit floats stand in the table."""


class DType(NamedTuple):
    """A type of elements.

    Attributes:
        name: What users call it.
        itemsize: Bytes of one element.
        letter: Of the `struct` module, or empty: it has none.
        kind: Of ``__array_interface__``; ``V`` for what numpy itself does not have.
        code: Of DLPack; its bits are 8 times the size.
    """

    name: str
    itemsize: int
    letter: str
    kind: str
    code: int

    @property
    def typestr(self) -> str:
        """The type string of ``__array_interface__``."""
        return f"{'|' if self.itemsize == 1 else _ORDER}{self.kind}{self.itemsize}"

    @property
    def in_numpy(self) -> bool:
        """Whether numpy itself has the type."""
        return self.kind != "V"


_ORDER = "<" if sys.byteorder == "little" else ">"

DTYPES = {
    each.name: each
    for each in (
        DType("bool", 1, "?", "b", _BOOL),
        DType("int8", 1, "b", "i", _INT),
        DType("int16", 2, "h", "i", _INT),
        DType("int32", 4, "i", "i", _INT),
        DType("int64", 8, "q", "i", _INT),
        DType("uint8", 1, "B", "u", _UINT),
        DType("uint16", 2, "H", "u", _UINT),
        DType("uint32", 4, "I", "u", _UINT),
        DType("uint64", 8, "Q", "u", _UINT),
        DType("float16", 2, "e", "f", _FLOAT),
        DType("float32", 4, "f", "f", _FLOAT),
        DType("float64", 8, "d", "f", _FLOAT),
        DType("complex64", 8, "", "c", COMPLEX),
        DType("complex128", 16, "", "c", COMPLEX),
        DType("bfloat16", 2, "", "V", _BFLOAT),
        DType("float8_e4m3fn", 1, "", "V", 10),
        DType("float8_e4m3fnuz", 1, "", "V", 11),
        DType("float8_e5m2", 1, "", "V", 12),
        DType("float8_e5m2fnuz", 1, "", "V", 13),
        DType("float8_e8m0fnu", 1, "", "V", 14),
    )
}
"""By name."""

_KINDS = {**dict.fromkeys("bhilqn", "int"), **dict.fromkeys("BHILQN", "uint"),
          **dict.fromkeys("efd", "float"), "Zf": "complex", "Zd": "complex"}  # fmt: skip
"""What the letters of the buffer protocol stand for. How large they are, the buffer says."""
_FORMATS = {"?": "bool", "c": "uint8"}
_OF_TYPESTR = {each.typestr: each.name for each in DTYPES.values() if each.in_numpy}
_OF_DLPACK = {(each.code, 8 * each.itemsize): each.name for each in DTYPES.values()}
_NATIVE = ("@", "=", _ORDER)


def dtype_named(dtype: Any, operation: str) -> DType:
    """Return the type that something names.

    Args:
        dtype: A name, or what numpy, torch and `ml_dtypes` have for one: ``np.float32``,
            ``np.dtype("float32")``, ``torch.bfloat16``, ``ml_dtypes.bfloat16``.
        operation: For messages.

    Raises:
        ArgumentError: It names none of the table's; says the nearest.
    """
    if isinstance(dtype, type):
        name = dtype.__name__
    else:  # jax has scalar types that are no types, and have a dtype
        name = str(dtype if isinstance(dtype, str) else getattr(dtype, "dtype", dtype))
    name = name.removeprefix("torch.")
    found = DTYPES.get(name)
    if found is None:
        detail = f"dtype {_shown(name)} is not known; {_nearest(name)}"
        raise ArgumentError(operation=operation, detail=detail)
    return found


def _shown(name: str) -> str:
    return repr(name) if len(name) <= 40 else f"{name[:40]!r}..."


def _nearest(name: str) -> str:
    both = {"int": "int32 or int64", "float": "float32 or float64", "half": "float16",
            "double": "float64", "fp8": "float8_e4m3fn or float8_e5m2"}  # fmt: skip
    near = both.get(name) or next(iter(difflib.get_close_matches(name, DTYPES, 1)), "")
    return f"did you mean {near}?" if near else f"known are {', '.join(DTYPES)}"


@functools.lru_cache(256)
def name_of_format(letters: str, itemsize: int) -> str | None:
    """Return the type of a format of the buffer protocol, or None: structures, strings, others."""
    plain = letters[1:] if letters[:1] in _NATIVE else letters
    kind = _KINDS.get(plain)
    return f"{kind}{8 * itemsize}" if kind is not None else _FORMATS.get(plain)


def name_of_typestr(typestr: str) -> str | None:
    """Return the type of a type string of ``__array_interface__``, or None."""
    return _OF_TYPESTR.get(typestr)


def name_of_dlpack(code: int, bits: int) -> str | None:
    """Return the type that DLPack has under a code and a number of bits, or None."""
    return _OF_DLPACK.get((code, bits))
