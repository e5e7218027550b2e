"""Elements as numbers of Python, for those who have no array library at hand."""

from __future__ import annotations

import functools
import math
import struct
from typing import Any, NamedTuple

from ajit._gpu.dtype import COMPLEX, DTYPES

__all__ = ["nested", "unpacked"]


class _Float8(NamedTuple):
    """An 8-bit float.

    Attributes:
        exponent_bits: How many; one bit is the sign, the others are the mantissa.
        bias: Of the exponent.
        special: ``ieee``: the last exponent is infinity and NaN; ``fn``: all ones are NaN;
            ``fnuz``: what would be minus zero is NaN.
    """

    exponent_bits: int
    bias: int
    special: str


# As ml_dtypes has them, a test compares every pattern.
_FLOAT8 = {
    "float8_e4m3fn": _Float8(4, 7, "fn"),
    "float8_e4m3fnuz": _Float8(4, 8, "fnuz"),
    "float8_e5m2": _Float8(5, 15, "ieee"),
    "float8_e5m2fnuz": _Float8(5, 16, "fnuz"),
}
_NAN_OF_E8M0 = 0xFF


def unpacked(dtype: str, data: memoryview) -> list[Any]:
    """Return elements as bool, int, float or complex.

    Args:
        dtype: Name of their type.
        data: Their bytes.
    """
    itemsize, letter, code = DTYPES[dtype].itemsize, DTYPES[dtype].letter, DTYPES[dtype].code
    count = len(data) // itemsize
    if letter:
        return list(struct.unpack(f"={count}{letter}", data))
    if code == COMPLEX:
        parts = struct.unpack(f"={2 * count}{'f' if itemsize == 8 else 'd'}", data)
        return [complex(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
    if dtype == "bfloat16":  # the upper half of a float32
        words = struct.unpack(f"={count}H", data)
        widened = struct.pack(f"={count}I", *(word << 16 for word in words))
        return list(struct.unpack(f"={count}f", widened))
    values = _values(dtype)
    return [values[byte] for byte in data]


def nested(items: list[Any], shape: tuple[int, ...]) -> Any:
    """Return elements as lists in lists, or the only one if there are no axes."""
    if not shape:
        return items[0]
    for axis in range(len(shape) - 1, 0, -1):
        size = shape[axis]
        items = [items[i * size : i * size + size] for i in range(math.prod(shape[:axis]))]
    return items


@functools.cache
def _values(dtype: str) -> tuple[float, ...]:
    """Return the values of all patterns of an 8-bit float."""
    if dtype == "float8_e8m0fnu":  # powers of two, for scales
        powers = (2.0 ** (bits - 127) for bits in range(256))
        return tuple(math.nan if i == _NAN_OF_E8M0 else value for i, value in enumerate(powers))
    return tuple(_value(bits, _FLOAT8[dtype]) for bits in range(256))


def _value(bits: int, kind: _Float8) -> float:
    mantissa_bits = 7 - kind.exponent_bits
    exponent, mantissa = (bits & 0x7F) >> mantissa_bits, bits & ((1 << mantissa_bits) - 1)
    last = (1 << kind.exponent_bits) - 1
    if kind.special == "ieee" and exponent == last:
        value = math.nan if mantissa else math.inf
    elif (kind.special == "fn" and bits & 0x7F == 0x7F) or (
        kind.special == "fnuz" and bits == 0x80
    ):
        value = math.nan
    else:
        fraction = mantissa / (1 << mantissa_bits) + (exponent > 0)
        value = fraction * 2.0 ** (max(exponent, 1) - kind.bias)
    return -value if bits & 0x80 else value
