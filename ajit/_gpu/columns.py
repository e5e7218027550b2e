"""Tables of numbers from users: checked and packed in C, without a loop in Python.

What is packed is a copy: a table may change as soon as the call has returned.
"""

from __future__ import annotations

import array
import ctypes
from typing import Any

from ajit._gpu import wire
from ajit._gpu.hostview import HostView
from ajit._gpu.shape import whole_number
from ajit.errors import ArgumentError

__all__ = ["Column", "pack_copies", "pack_ids"]

_TYPES = {"int32": (4, 1), "uint32": (4, 0), "int64": (8, 1), "uint64": (8, 0)}
"""Types of numbers: their bytes, and whether they have a sign."""


class Column:
    """Whole numbers, as an array in host memory, a list, or one number that stands for all.

    Attributes:
        count: How many; None: any number of times the same.
        packed: As the executor takes it. Good while this object is referred to.
    """

    __slots__ = ("_keep", "count", "packed")

    def __init__(self, values: Any, operation: str, name: str) -> None:
        """Look at numbers.

        Args:
            values: Anything contiguous on the host of int32, int64, uint32 or uint64 (numpy,
                `array.array`, a tensor on the CPU), a list, or a number.
            operation: For messages.
            name: Of the argument, for messages.

        Raises:
            ArgumentError: They are none of these.
        """
        self.count: int | None = None
        if hasattr(values, "__index__") and not hasattr(values, "__len__"):
            number = whole_number(operation, name, values)
            if not 0 <= number < 1 << 63:
                raise ArgumentError(operation=operation, detail=f"{name} is {number}")
            self._keep: object = None
            self.packed = wire.COLUMN.pack(number, 0, 0)
            return
        if _has_gaps(values):
            detail = f"{name} must be contiguous; pass numpy.ascontiguousarray({name})"
            raise ArgumentError(operation=operation, detail=detail)
        view = HostView(_as_array(values, operation, name))
        if view.dtype not in _TYPES or len(view.shape) != 1:
            detail = f"{name} is {view.dtype or view.called} {view.shape}; it has to be one axis "
            detail += "of int32, int64, uint32 or uint64"
            raise ArgumentError(operation=operation, detail=detail)
        self._keep, self.count = view, view.shape[0]
        self.packed = wire.COLUMN.pack(view.address, *_TYPES[view.dtype])


def _has_gaps(values: Any) -> bool:
    """Whether it is an array whose numbers do not lie side by side: a column, every second one."""
    if callable(asked := getattr(values, "is_contiguous", None)):  # torch
        return not asked()
    try:
        return not memoryview(values).c_contiguous
    except (TypeError, ValueError, BufferError):
        return False


def _as_array(values: Any, operation: str, name: str) -> Any:
    if not isinstance(values, list | tuple | range):
        return values
    try:
        return array.array("q", values)
    except (TypeError, OverflowError) as error:
        raise ArgumentError(operation=operation, detail=f"{name}: {error}") from error


def pack_ids(
    values: Any, limit: int, operation: str, name: str, *, unique: bool
) -> tuple[int, int, bytes]:
    """Return how many numbers there are, how many are not negative, and all as int32.

    Negative ones become -1.

    Args:
        values: See `Column`, but for a single number.
        limit: They have to be below this.
        operation: For messages.
        name: Of the argument, for messages.
        unique: Whether none may come twice, but for negative ones.

    Raises:
        ArgumentError: One is too large, or comes twice.
    """
    column = Column(values, operation, name)
    if column.count is None:
        raise ArgumentError(operation=operation, detail=f"{name} is a number, no list of numbers")
    out, at = (ctypes.c_int32 * column.count)(), ctypes.c_uint64()
    verdict = wire.library().table_ids(
        out, column.packed, column.count, limit, unique, ctypes.byref(at)
    )
    if verdict == wire.OUTSIDE:
        detail = f"{name}[{at.value}] is not below {limit}"
    elif verdict == wire.TWICE:
        detail = f"{name}[{at.value}] is {out[at.value]}, which is there already: both would be "
        detail += "written to"
    elif verdict:
        raise MemoryError(f"no memory to check {column.count} numbers")
    else:
        return column.count, at.value, bytes(out)
    raise ArgumentError(operation=operation, detail=detail)


def pack_copies(
    target: tuple[int, int],
    source: tuple[int, int],
    target_offsets: Any,
    source_offsets: Any,
    sizes: Any,
) -> bytes:
    """Return copies of ranges as an operation; empty if there is nothing to copy.

    Args:
        target: Address and bytes.
        source: The same.
        target_offsets: See `Column`.
        source_offsets: The same.
        sizes: The same.

    Raises:
        ArgumentError: They differ in number, a range is outside, or two targets overlap.
    """
    operation = "copy ranges"
    columns = [
        Column(values, operation, name)
        for values, name in (
            (target_offsets, "target_offsets"), (source_offsets, "source_offsets"),
            (sizes, "sizes"),
        )
    ]  # fmt: skip
    counts = {column.count for column in columns if column.count is not None}
    if len(counts) != 1:
        detail = f"the tables have {sorted(counts)} numbers" if counts else "no table has a length"
        raise ArgumentError(operation=operation, detail=detail)
    (count,) = counts
    asked = wire.RANGES.pack(count, *target, *source, *(column.packed for column in columns))
    out, at = (ctypes.c_uint64 * (3 * count))(), ctypes.c_uint64()
    verdict = wire.library().table_copies(out, asked, ctypes.byref(at))
    if verdict == wire.NO_ROOM:
        raise MemoryError(f"no memory to check {count} ranges")
    if verdict:
        said = {
            wire.OUTSIDE: f"is outside of the target, which has {target[1]} bytes",
            wire.SOURCE_OUTSIDE: f"is outside of the source, which has {source[1]} bytes",
            wire.TWICE: "overlaps another one in the target",
        }[verdict]
        raise ArgumentError(operation=operation, detail=f"range {at.value} {said}")
    return _copies(at.value, memoryview(out))


def _copies(count: int, numbers: memoryview) -> bytes:
    if not count:
        return b""
    body = bytes(numbers[: 3 * count])
    body += bytes(len(body) % 16)  # an operation's size is a multiple of 16
    return wire.SIMPLE.pack(wire.COPIES, wire.SIMPLE.size + len(body), count) + body
