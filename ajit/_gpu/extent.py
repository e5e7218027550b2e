"""Shapes of memory: how many elements along which axis, parts of that, and other views of it."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from ajit._gpu.dtype import DTYPES, dtype_named
from ajit._gpu.shape import shown, whole_number
from ajit.errors import ArgumentError

__all__ = ["Array", "Extent", "Sizes", "extent", "part", "seen_as"]

Sizes: TypeAlias = int | Sequence[int]
"""A shape: a number of elements, or the sizes of several axes."""

_MOST_BYTES = 1 << 63


class Extent(NamedTuple):
    """What memory holds.

    Attributes:
        shape: Elements along each axis; in C order, without gaps.
        dtype: Name of their type.
        nbytes: Size of it all.
    """

    shape: tuple[int, ...]
    dtype: str
    nbytes: int


class Array:
    """Memory with a shape and a type, which do not change: `view` gives others."""

    __slots__ = ()

    _extent: Extent

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each axis."""
        return self._extent.shape

    @property
    def dtype(self) -> str:
        """Name of their type, as ``float32``."""
        return self._extent.dtype

    @property
    def nbytes(self) -> int:
        """Its size in bytes; may be 0."""
        return self._extent.nbytes


def extent(shape: Any, dtype: object, operation: str) -> Extent:
    """Return the extent that is asked for.

    Args:
        shape: A number of elements, or the sizes of several axes.
        dtype: Of the elements, see `dtype_named`; None: bytes.
        operation: For messages.

    Raises:
        ArgumentError: A size is no whole number, or below 0; they are too large for any memory; or
            the type is not known.
    """
    if dtype is None and type(shape) is int and 0 <= shape < _MOST_BYTES:
        return Extent((shape,), "uint8", shape)
    sizes = _sizes(shape, operation)
    name, itemsize = "uint8", 1
    if dtype is not None:
        found = dtype_named(dtype, operation)
        name, itemsize = found.name, found.itemsize
    nbytes = math.prod(sizes) * itemsize
    why = ""
    if min(sizes, default=0) < 0:
        why = "a size is below 0"
    elif nbytes >= _MOST_BYTES:
        why = f"{nbytes} bytes are too many"
    elif max(sizes, default=0) >= _MOST_BYTES:
        why = "a size is too many for any memory"
    if why:
        detail = f"shape {shown(shape)}: {why}"
        raise ArgumentError(operation=operation, detail=detail, index=0)
    return Extent(sizes, name, nbytes)


def _sizes(shape: Any, operation: str) -> tuple[int, ...]:
    if isinstance(shape, Sequence) and not isinstance(shape, str | bytes | bytearray):
        return tuple([whole_number(operation, "a size of the shape", size) for size in shape])
    return (whole_number(operation, "the shape", shape),)


def part(shape: tuple[int, ...], key: Any, what: object) -> tuple[int, int]:
    """Return the first element of a slice of the first axis, and how many there are.

    Args:
        shape: Of the whole.
        key: What stands in the brackets.
        what: The whole, for messages.

    Raises:
        TypeError: The key is no slice of whole numbers.
        IndexError: There is no axis, the slice has a step, or a bound outside of the axis.
    """
    if type(key) is not slice:
        raise TypeError(
            f"{what!r} takes slices of its first axis, as buffer[2:5], not {shown(key)}; to read "
            "elements: (await device.download(buffer))[...]"
        )
    if not shape:
        raise IndexError(f"{what!r} has no axis to slice")
    size = shape[0]
    start = 0 if key.start is None else operator.index(key.start)
    stop = size if key.stop is None else operator.index(key.stop)
    if key.step is not None and key.step != 1:
        raise IndexError(f"{shown(key)} of {what!r}: the step must be 1, parts have no gaps")
    if not (-size <= start <= size and -size <= stop <= size):
        raise IndexError(f"{shown(key)} is outside of the {size} elements of {what!r}")
    start += size if start < 0 else 0
    stop += size if stop < 0 else 0
    return start, max(0, stop - start)


def seen_as(old: Extent, dtype: object, shape: Any, what: object) -> Extent:
    """Return an extent of the same bytes with another type, other axes, or both.

    Args:
        old: What they are now.
        dtype: None keeps it.
        shape: None keeps it, but for the last axis where elements become smaller or larger. One
            size may be -1: what is left.
        what: Whose, for messages.

    Raises:
        ArgumentError: The bytes are more or less than that, or the type is not known.
    """
    operation = f"view {what!r}"
    found = DTYPES[old.dtype] if dtype is None else dtype_named(dtype, operation)
    if shape is None:
        sizes = _rescaled(old, found.itemsize, operation)
    else:
        sizes = _filled_in(_sizes(shape, operation), old.nbytes // found.itemsize)
    nbytes = math.prod(sizes) * found.itemsize
    if nbytes != old.nbytes or min(sizes, default=0) < 0:
        detail = f"shape {sizes} of {found.name} is {nbytes} bytes, not {old.nbytes}"
        raise ArgumentError(operation=operation, detail=detail)
    return Extent(sizes, found.name, nbytes)


def _rescaled(old: Extent, itemsize: int, operation: str) -> tuple[int, ...]:
    was = DTYPES[old.dtype].itemsize
    if itemsize == was:
        return old.shape
    if not old.shape or old.shape[-1] * was % itemsize:
        detail = f"its last axis is not a whole number of {itemsize}-byte elements; give a shape"
        raise ArgumentError(operation=operation, detail=detail)
    return (*old.shape[:-1], old.shape[-1] * was // itemsize)


def _filled_in(sizes: tuple[int, ...], count: int) -> tuple[int, ...]:
    if sizes.count(-1) != 1:
        return sizes
    others = -math.prod(sizes)
    return tuple(count // others if others and size == -1 else size for size in sizes)
