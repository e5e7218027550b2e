"""Arguments of launches: packed by their declared C types, checked before the driver sees them.

What can be prepared is prepared when the kernel is made: one `struct.Struct` packs the header, the
launch and all arguments at once. The quick way through tries that, and looks closer only when it
fails, to say which argument was wrong.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from ajit._core.params import CType, bfloat16_bits, parse_ctype, pointed_to
from ajit._gpu import wire
from ajit._gpu.dlpack import foreign_array
from ajit._gpu.hostarray import HostArray
from ajit._gpu.memory import BufferSlice, DeviceBuffer
from ajit._gpu.shape import shown
from ajit.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ajit._gpu.completion.thread import DeviceThread

__all__ = ["Signature"]

_OPERATION_BYTES = struct.calcsize("<" + wire.LaunchLayout)
_UNFIT = (TypeError, ValueError, OverflowError, AttributeError, struct.error)
"""What converting a value that does not fit raises."""
_ALIGNMENT = 16
"""Of operations in a submission."""
_LOWEST_ADDRESS = 1 << 16
"""Linux maps nothing below: ``vm.mmap_min_addr``. Small numbers are other arguments, misplaced."""


class Signature:
    """How the arguments of one kernel become bytes.

    Attributes:
        operation: For messages, such as ``launch saxpy``.
    """

    __slots__ = (
        "_before", "_before_operation", "_converters", "_mismatch", "_pack", "_pack_operation",
        "_types", "operation",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        params: Sequence[str] | None,
        address: int,
        sizes: Sequence[tuple[int, int]],
        thread: DeviceThread,
    ) -> None:
        """Prepare.

        Args:
            name: The kernel's.
            params: Declared C types, or None.
            address: Of the executor's record of the function.
            sizes: Offset and size of every parameter, as the driver says.
            thread: The device that buffers must belong to.
        """
        self.operation = f"launch {name}"
        self._types = [parse_ctype(param) for param in params or ()]
        self._mismatch = _mismatch(params, self._types, sizes)
        self._converters: list[tuple[int, Callable[[Any], Any]]] = []
        if not self._mismatch:
            body = _body_format(self._types, sizes)
            nbytes = _OPERATION_BYTES + struct.calcsize("<" + body)
            argument_bytes = nbytes - _OPERATION_BYTES
            self._before = wire.LAUNCH_FIXED.pack(
                1, nbytes, wire.LAUNCH, nbytes, address, argument_bytes
            )
            self._before_operation = self._before[-wire.LAUNCH_FIXED_BYTES :]
            self._pack = struct.Struct(wire.LAUNCH_SUBMISSION + body).pack
            self._pack_operation = struct.Struct(wire.LAUNCH_OPERATION + body).pack
            made = [_converter(*pair, thread) for pair in zip(self._types, sizes, strict=True)]
            self._converters = [(i, convert) for i, convert in enumerate(made) if convert]

    def pack(
        self, where: tuple[int, int, int, int, int], shape: bytes, args: tuple[Any, ...]
    ) -> bytes:
        """Return the submission of one launch.

        Args:
            where: CompletionPort, number, stream, deadline in nanoseconds, and lane.
            shape: From `ajit._gpu.shape`.
            args: Of the kernel.

        Raises:
            ArgumentError: The arguments do not fit the parameters; says which and why.
        """
        values = self._converted(args)
        try:
            return self._pack(*where, self._before, shape, *values)
        except _UNFIT as error:
            raise self._explained(args, error) from error

    def pack_operation(self, shape: bytes, args: tuple[Any, ...]) -> bytes:
        """Return the launch alone, for a batch. Raises what `pack` does."""
        values = self._converted(args)
        try:
            return self._pack_operation(self._before_operation, shape, *values)
        except _UNFIT as error:
            raise self._explained(args, error) from error

    def _converted(self, args: tuple[Any, ...]) -> Sequence[Any]:
        if self._mismatch or len(args) != len(self._types):
            raise self._wrong(self._mismatch or self._wrong_number(args))
        if not self._converters:
            return args
        values = list(args)
        try:
            for index, convert in self._converters:
                values[index] = convert(values[index])
        except _UNFIT as error:
            raise self._explained(args, error) from error
        return values

    def _explained(self, args: tuple[Any, ...], error: Exception) -> ArgumentError:
        """Find the argument that cannot be packed, by packing each by itself."""
        converters = dict(self._converters)
        for index, (ctype, value) in enumerate(zip(self._types, args, strict=True)):
            try:
                converted = converters[index](value) if index in converters else value
                if ctype.code:
                    struct.pack("<" + ctype.code, converted)
            except _UNFIT as reason:
                return self._wrong(
                    f"argument {index} ({ctype.name}) cannot be {shown(value)}: {reason}", index
                )
        return self._wrong(str(error))

    def _wrong_number(self, args: tuple[Any, ...]) -> str:
        declared = ", ".join(ctype.name for ctype in self._types)
        return f"takes {len(self._types)} arguments ({declared}), {len(args)} were given"

    def _wrong(self, detail: str, index: int | None = None) -> ArgumentError:
        return ArgumentError(operation=self.operation, detail=detail, index=index)


def _mismatch(
    params: Sequence[str] | None, types: list[CType], sizes: Sequence[tuple[int, int]]
) -> str:
    """Why the declaration cannot be that of the loaded function, or ""."""
    if params is None:
        return (
            f"its {len(sizes)} parameters are not declared; give the entry point their C types, "
            'such as params="float a, const float* x, int n"'
        )
    if len(types) != len(sizes):
        return f"declared with {len(types)} parameters, but the compiled kernel has {len(sizes)}"
    for index, (ctype, (_, size)) in enumerate(zip(types, sizes, strict=True)):
        if ctype.size_bytes not in (0, size):
            return (
                f"parameter {index} is declared {ctype.name}, of {ctype.size_bytes} bytes, but has "
                f"{size} bytes in the compiled kernel"
            )
    return ""


def _body_format(types: list[CType], sizes: Sequence[tuple[int, int]]) -> str:
    parts, at = [], 0
    for ctype, (offset, size) in zip(types, sizes, strict=True):
        parts.append(f"{offset - at}x{ctype.code or f'{size}s'}")
        at = offset + size
    return "".join(parts) + f"{-at % _ALIGNMENT}x"


def _converter(
    ctype: CType, size: tuple[int, int], thread: DeviceThread
) -> Callable[[Any], Any] | None:
    """What makes a value fit for `struct`; None if it is fit as it is."""
    if ctype.kind == "pointer":
        return _pointer_converter(thread, _element_types(ctype))
    if ctype.kind == "struct":
        return _struct_converter(size[1])
    return {"bool": _to_bool, "bfloat16": _to_bfloat16}.get(ctype.kind)


def _element_types(ctype: CType) -> frozenset[str | None] | None:
    """Return the types that elements may have behind a pointer; None: any.

    Memory of bytes (``uint8``), and elements of a type that ajit does not know, may be anything.
    """
    target = pointed_to(ctype)
    if target is None or target.size_bytes == 1:  # void*, char*, structures
        return None
    bits = 8 * target.size_bytes
    names = {
        "int": {f"int{bits}", f"uint{bits}"},
        "float": {f"float{bits}", f"complex{2 * bits}"},
        "half": {"float16"},
        "bfloat16": {"bfloat16"},
    }[target.kind]
    return frozenset({*names, "uint8", None})


def _pointer_converter(
    thread: DeviceThread, types: frozenset[str | None] | None
) -> Callable[[Any], int]:
    """Two of a kind: the quick way through is a matter of tens of nanoseconds."""

    def to_pointer(value: Any) -> int:
        if (
            type(value) is DeviceBuffer
            and value._thread is thread  # noqa: SLF001  # the quick way
            and not value._freed  # noqa: SLF001  # the same
            and value._port.refusal is None  # noqa: SLF001  # the same
        ):
            return value._pointer  # noqa: SLF001  # the same
        return _address(value, thread, None)

    def to_typed_pointer(value: Any) -> int:
        if (
            type(value) is DeviceBuffer
            and value._extent[1] in known  # noqa: SLF001  # the quick way
            and value._thread is thread  # noqa: SLF001  # the quick way
            and not value._freed  # noqa: SLF001  # the same
            and value._port.refusal is None  # noqa: SLF001  # the same
        ):
            return value._pointer  # noqa: SLF001  # the same
        return _address(value, thread, known)

    known = types or frozenset()
    return to_typed_pointer if types else to_pointer


def _address(value: Any, thread: DeviceThread, types: frozenset[str | None] | None) -> int:
    """Return the address that a pointer argument stands for."""
    if value is None:
        return 0
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 < value < _LOWEST_ADDRESS:
            raise ValueError(f"{value} is no address; are arguments in another order?")
        return value
    if isinstance(value, DeviceBuffer | BufferSlice):
        if value._thread is not thread:  # noqa: SLF001  # one package
            raise ValueError("the buffer belongs to another device")
        if value.freed:
            raise ValueError("the buffer was freed")
        dtype: str | None = value.dtype
        address = value._used(0)  # noqa: SLF001  # one package
    else:
        foreign = foreign_array(value, thread.choice.kind)
        if foreign is None:
            raise TypeError(_no_pointer(value))
        dtype, address = foreign.dtype, foreign.address
    if types is not None and dtype not in types:
        raise TypeError(
            f"its elements are {dtype}, and a launch converts nothing. Upload {_first(types)} "
            f"elements; or, if the memory is meant as it is, pass x.view('uint8')"
        )
    return address


def _first(types: frozenset[str | None]) -> str:
    """The plainest of them: ``float32`` before ``complex64``, ``int32`` before ``uint32``."""
    names = [name for name in types if name not in (None, "uint8")]
    return min(map(str, names), key=lambda name: (len(name), name))


def _no_pointer(value: Any) -> str:
    try:
        is_host_memory = memoryview(value) is not None
    except (TypeError, ValueError, BufferError):
        is_host_memory = isinstance(value, HostArray) or hasattr(value, "__array_interface__")
    if is_host_memory:
        return "it is host memory; copy it first: x = await device.upload(x)"
    return "not a DeviceBuffer of this device, an address, or None"


def _struct_converter(size: int) -> Callable[[Any], bytes]:
    def to_bytes(value: Any) -> bytes:
        data = _bytes_of(value, size)
        if len(data) != size:
            raise ValueError(f"{len(data)} bytes; the struct has {size}")
        return data

    return to_bytes


def _bytes_of(value: Any, size: int) -> bytes:
    """Return the bytes of a struct, never that many zeros, as `bytes` makes of a number."""
    try:
        return memoryview(value).tobytes()
    except TypeError:
        is_number = hasattr(value, "__index__") and not hasattr(value, "__bytes__")
        if is_number or isinstance(value, str):
            raise TypeError(f"a struct is given as its {size} bytes") from None
    return bytes(value)


def _to_bool(value: Any) -> bool:
    if value is True or value is False:
        return value
    if _is_bool_of_array_library(value):
        return bool(value)
    if value.__index__() in (0, 1):
        return bool(value)
    raise ValueError("neither true nor false")


def _is_bool_of_array_library(value: Any) -> bool:
    """Whether it is numpy's own bool, or an array of one without axes. Neither is an index."""
    return str(getattr(value, "dtype", "")) == "bool" and getattr(value, "shape", None) == ()


def _to_bfloat16(value: Any) -> int:
    return bfloat16_bits(float(value))
