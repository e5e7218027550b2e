"""Operands of copies and fills: memory on the device or on the host, of ajit or another library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ajit._gpu import wire
from ajit._gpu.columns import pack_copies
from ajit._gpu.dlpack import foreign_array
from ajit._gpu.dtype import DTYPES
from ajit._gpu.extent import Extent
from ajit._gpu.hostarray import HostArray
from ajit._gpu.hostview import HostView
from ajit._gpu.memory import BufferSlice, DeviceBuffer, PinnedBuffer
from ajit._gpu.shape import whole_number
from ajit.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ajit._gpu.completion.thread import DeviceThread

__all__ = [
    "Operand",
    "check_fits",
    "copies_operation",
    "copy_operation",
    "fill_operation",
    "mark_used",
    "ranges_operation",
]


class _Typed(Protocol):
    """Memory with a shape and a type; the type may be None: none that ajit knows."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str | None: ...


class Operand:
    """One side of a copy.

    Attributes:
        on_device: Whether it is device memory.
        address: Of its first byte.
        nbytes: Its size in bytes.
        owner: Keeps the memory, and has its shape and dtype.
    """

    __slots__ = ("address", "nbytes", "on_device", "owner")

    def __init__(
        self, value: Any, thread: DeviceThread, lane: int, *, writable: bool, operation: str
    ) -> None:
        """Look at memory.

        Args:
            value: `DeviceBuffer`, a part of one, `PinnedBuffer`, an array of another library on the
                device (``__cuda_array_interface__`` or DLPack), or host memory: any contiguous
                object with the buffer protocol, ``__array_interface__`` or DLPack.
            thread: The device.
            lane: That will use it.
            writable: Whether it is written to.
            operation: For messages.

        Raises:
            ArgumentError: It is none of these, of another device, freed, not contiguous, or
                read-only.
        """
        self.owner: _Typed = value
        if isinstance(value, DeviceBuffer | BufferSlice | PinnedBuffer):
            if value._thread is not thread:  # noqa: SLF001  # one package, one secret
                raise ArgumentError(operation=operation, detail=f"{value!r} is of another device")
            self.on_device = not isinstance(value, PinnedBuffer)
            self.address, self.nbytes = value._used(lane), value.nbytes  # noqa: SLF001  # the same
            return
        try:
            foreign = foreign_array(value, thread.choice.kind)
        except ValueError as error:
            detail = f"a {type(value).__name__}: {error}"
            raise ArgumentError(operation=operation, detail=detail) from error
        host = HostView(value, writable=writable) if foreign is None else None
        found = foreign or host
        assert found is not None
        # To the CPU driver, memory that it did not allocate is host memory.
        self.on_device = host is None and thread.choice.kind == "cuda"
        self.address, self.nbytes, self.owner = found.address, found.nbytes, found

    @property
    def extent(self) -> Extent:
        """What it holds; bytes where the type is none of ajit's."""
        if self.owner.dtype is None:
            return Extent((self.nbytes,), "uint8", self.nbytes)
        return Extent(self.owner.shape, self.owner.dtype, self.nbytes)


def check_fits(out: HostView, source: Operand) -> None:
    """Check that a download fits into what it is to fill.

    Raises:
        ArgumentError: The sizes in bytes differ, or the types do, or the shapes do. Bytes (uint8,
            of one axis) on either side fit everything of their size.
    """
    extent, detail = source.extent, ""
    if out.nbytes != extent.nbytes:
        detail = f"the buffer has {extent.nbytes} bytes, out has {out.nbytes}"
    elif _types_differ(out, source.owner):
        detail = (
            f"the buffer is {extent.dtype}, out is {out.dtype or out.called}: no value is converted"
        )
    elif out.shape != extent.shape and not (_raw(out) or _raw(source.owner)):
        detail = f"the buffer has the shape {extent.shape}, out has {out.shape}"
    if detail:
        raise ArgumentError(operation="download", detail=detail, index=1)


def _raw(side: _Typed) -> bool:
    return side.dtype is None or (side.dtype == "uint8" and len(side.shape) == 1)


def _types_differ(one: _Typed, other: _Typed) -> bool:
    """Whether they are not of the same type. uint8 are bytes, which may be of any type."""
    return one.dtype != other.dtype and "uint8" not in (one.dtype, other.dtype)


def _called(side: Operand) -> str:
    return str(side.owner.dtype or getattr(side.owner, "called", "of a type that ajit has not"))


def _pair(
    target: Any, source: Any, thread: DeviceThread, lane: int, operation: str
) -> tuple[Operand, Operand]:
    into = Operand(target, thread, lane, writable=True, operation=operation)
    out_of = Operand(source, thread, lane, writable=False, operation=operation)
    if into.nbytes != out_of.nbytes:
        detail = f"the target has {into.nbytes} bytes, the source {out_of.nbytes}"
        raise ArgumentError(operation=operation, detail=f"{detail}: they differ in size")
    if _types_differ(into.owner, out_of.owner):
        detail = f"the target is {_called(into)}, the source {_called(out_of)}: a copy "
        detail += "converts no value; to copy the bytes, take x.view('uint8')"
        raise ArgumentError(operation=operation, detail=detail)
    if not into.on_device and not out_of.on_device:
        raise ArgumentError(operation=operation, detail="both sides are host memory")
    return into, out_of


def copy_operation(
    target: Any, source: Any, thread: DeviceThread, lane: int
) -> tuple[bytes, tuple[object, ...]]:
    """Return a copy as an operation, empty for 0 bytes, and what it uses.

    Raises:
        ArgumentError: A side cannot be used, the sizes or types differ, or both are host memory.
    """
    into, out_of = _pair(target, source, thread, lane, "copy")
    if not into.nbytes:
        return b"", ()
    opcode = wire.COPY_ON_DEVICE
    if not out_of.on_device:
        opcode = wire.COPY_TO_DEVICE
    elif not into.on_device:
        opcode = wire.COPY_TO_HOST
    packed = wire.COPY.pack(opcode, wire.COPY.size, into.address, out_of.address, into.nbytes)
    return packed, (into.owner, out_of.owner)


def copies_operation(
    pairs: Iterable[tuple[Any, Any]], thread: DeviceThread, lane: int
) -> tuple[bytes, tuple[object, ...]]:
    """Return many copies as one operation, and what they use. Raises what `copy_operation` does."""
    sides = [_pair(target, source, thread, lane, "copy") for target, source in pairs]
    sides = [pair for pair in sides if pair[0].nbytes]
    if not sides:
        return b"", ()
    numbers = [into.address for into, _ in sides]
    numbers += [out_of.address for _, out_of in sides]
    numbers += [into.nbytes for into, _ in sides]
    if len(numbers) % 2:
        numbers.append(0)  # an operation's size is a multiple of 16
    body = b"".join(number.to_bytes(8, "little") for number in numbers)
    packed = wire.SIMPLE.pack(wire.COPIES, wire.SIMPLE.size + len(body), len(sides)) + body
    return packed, tuple(side.owner for pair in sides for side in pair)


def ranges_operation(
    target: Any,
    source: Any,
    tables: tuple[Any, Any, Any],
    thread: DeviceThread,
    lane: int,
) -> tuple[bytes, tuple[object, ...]]:
    """Return copies of ranges as one operation, and what they use.

    Args:
        target: As for a copy; its size and type may differ from the source's.
        source: The same.
        tables: Offsets in the target, in the source, and sizes, all in bytes; see `Column`.
        thread: The device.
        lane: That will use it.

    Raises:
        ArgumentError: A side cannot be used, both are host memory, a table has no numbers, a range
            is outside of its side, or two of the target overlap.
    """
    into = Operand(target, thread, lane, writable=True, operation="copy ranges")
    out_of = Operand(source, thread, lane, writable=False, operation="copy ranges")
    if not into.on_device and not out_of.on_device:
        raise ArgumentError(operation="copy ranges", detail="both sides are host memory")
    sides = (into.address, into.nbytes), (out_of.address, out_of.nbytes)
    return pack_copies(*sides, *tables), (into.owner, out_of.owner)


def fill_operation(
    buffer: Any, value: int, thread: DeviceThread, lane: int
) -> tuple[bytes, tuple[object, ...]]:
    """Return a fill as an operation, empty for 0 bytes, and what it uses.

    Raises:
        ArgumentError: The value is no byte, a byte other than 0 would be written into elements that
            are larger, or the memory is not on the device.
    """
    if not 0 <= whole_number("fill", "value", value) <= 0xFF:
        raise ArgumentError(operation="fill", detail=f"{value} is not a byte", index=1)
    operand = Operand(buffer, thread, lane, writable=True, operation="fill")
    if not operand.on_device:
        raise ArgumentError(operation="fill", detail=f"{buffer!r} is host memory", index=0)
    dtype = operand.owner.dtype
    if value and dtype is not None and DTYPES[dtype].itemsize > 1:
        detail = f"{value} is a byte, the elements are {dtype}; fill buffer.view('uint8')"
        raise ArgumentError(operation="fill", detail=detail, index=1)
    if value > 1 and dtype == "bool":
        raise ArgumentError(operation="fill", detail=f"{value} is neither true nor false", index=1)
    if not operand.nbytes:
        return b"", ()
    size = wire.FillLayout.size
    packed = wire.FillLayout.pack(wire.FILL, size, operand.address, operand.nbytes, value)
    return packed, (operand.owner,)


def is_freed(used: object) -> bool:
    """Whether something that a recorded operation uses was freed, or its device closed."""
    memory = used.owner if isinstance(used, HostView) else used
    if isinstance(memory, HostArray):
        return memory._freed()  # noqa: SLF001  # one package
    return isinstance(memory, DeviceBuffer | BufferSlice | PinnedBuffer) and memory.freed


def mark_used(args: Iterable[object], lane: int) -> None:
    """Note that the buffers among some arguments are used in a lane that is not the first."""
    for arg in args:
        if isinstance(arg, DeviceBuffer | BufferSlice):
            arg._used(lane)  # noqa: SLF001  # one package, one secret
