"""Host memory that another part of the program has made, page-locked for the device.

A `mmap`, a memfd that several processes map: memory that `Device.alloc_pinned` cannot give. The
driver learns of it in pieces, on the second lane of the CUDA thread, so launches go between them.
The memory stays as long as the driver knows it: the CUDA thread sets a number when it has let it
go, and until then Python holds it.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio

from ajit._core.factory import FactoryMade
from ajit._gpu import wire
from ajit._gpu.completion.port import CompletionPort
from ajit._gpu.hostview import HostView
from ajit._gpu.owned import Owned
from ajit._gpu.wire import Resource
from ajit.errors import ArgumentError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ajit._gpu.completion.thread import DeviceThread
    from ajit._gpu.completion.ticket import Ticket
    from ajit._gpu.device import Device

__all__ = [
    "RegisteredMemory",
    "are_registered",
    "forget_ended",
    "open_registration",
    "register_host",
]

PIECE_BYTES = 64 << 20
"""Registered at once: some 10 ms. Arbitrary."""
LOOK_SECONDS = 0.005
"""Between looks whether the driver has let memory go."""


_held: list[tuple[ctypes.c_uint64, HostView]] = []
"""Memory that a driver knows, or may know, and what says that it does not any more. Of all devices:
it outlives a device that hangs."""
_known: weakref.WeakSet[RegisteredMemory] = weakref.WeakSet()


class _Piece(Owned):
    """A part that the driver knows.

    Attributes:
        ended: Set when it knows it no more.
        nbytes: Its size.
        own_bytes: The same, or 0 if another registration has told it, and may give it back.
    """

    __slots__ = ("ended", "nbytes", "own_bytes")

    _called = "registered memory"

    def __init__(
        self, port: CompletionPort, resource: int, ended: ctypes.c_uint64, nbytes: int
    ) -> None:
        super().__init__(port, resource, wire.ALL_LANES)
        self.ended, self.nbytes = ended, nbytes
        self.own_bytes = int(Resource.from_address(resource).size)


class RegisteredMemory(metaclass=FactoryMade, factory="await device.register_host()"):
    """Host memory that the device copies from and to without a detour.

    Get it with `Device.register_host`. It holds the memory that it was made of.

    Attributes:
        address: Of its first byte.
        nbytes: Its size.
        piece_bytes: The driver knows it in pieces of that size. Copies across them are cut.
    """

    __slots__ = ("__weakref__", "_pieces", "_port", "_view", "address", "nbytes", "piece_bytes")

    def __init__(self, port: CompletionPort, view: HostView, piece_bytes: int) -> None:
        """Made by `register_host`."""
        self._port = port
        self._view: HostView | None = view
        self._pieces: list[_Piece] = []
        self.address, self.nbytes, self.piece_bytes = view.address, view.nbytes, piece_bytes

    @property
    def own_bytes(self) -> int:
        """What this registration has told the driver of, and no other one."""
        return 0 if self.freed else sum(piece.own_bytes for piece in self._pieces)

    @property
    def told_bytes(self) -> int:
        """What the driver was told of by any registration, as far as is known here."""
        return 0 if self.freed else sum(piece.nbytes for piece in self._pieces)

    @property
    def ended(self) -> bool:
        """Whether it was given back, and the driver does not know it any more."""
        return self._view is None and all(piece.ended.value for piece in self._pieces)

    async def register(self, *, shared: bool) -> None:
        """Tell the driver of what it does not know yet, piece by piece. Cancelling leaves a part.

        Args:
            shared: Whether it is no error that another registration has told it already. Call this
                again when that one is given back.

        Raises:
            DeviceError: The driver does not take it.
        """
        view, size = self._view, self.piece_bytes
        if view is None:  # it was given back
            return
        for index, offset in enumerate(range(0, view.nbytes, size)):
            known = self._pieces[index] if index < len(self._pieces) else None
            if known is not None and known.own_bytes:
                continue
            where = view.address + offset, min(size, view.nbytes - offset)
            piece = await _register_piece(self._port, view, where, shared)
            self._pieces[index : index + 1] = [piece]
            if known is not None:
                known.free()
            if self._view is None:  # it was given back meanwhile
                piece.free()
                return
        if self.own_bytes == self.nbytes:
            _known.add(self)

    @property
    def freed(self) -> bool:
        """Whether it was given back, or its device was closed."""
        return self._port.closed or not self._pieces or self._pieces[0].freed

    def of(self, thread: DeviceThread) -> bool:
        """Whether it is this device's, and not given back."""
        return self._port.thread is thread and not self.freed

    def covers(self, address: int, nbytes: int) -> bool:
        """Whether a range lies in it."""
        return 0 <= address - self.address <= self.nbytes - nbytes

    def free(self) -> None:
        """Give it back. May be called more than once; submitted work may still use it."""
        for piece in self._pieces:
            piece.free()
        self._view = None
        _known.discard(self)

    async def aclose(self) -> None:
        """Give it back, and wait until the driver does not know it any more.

        Then the memory may be unmapped. Cancelling only leaves.
        """
        self.free()
        while not (self._port.closed or self.ended):  # noqa: ASYNC110  # the CUDA thread sets a number and no event
            await anyio.sleep(LOOK_SECONDS)
        forget_ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.free()

    def __repr__(self) -> str:
        state = "freed" if self.freed else f"at {self.address:#x}"
        return f"<RegisteredMemory of {self.nbytes} bytes {state}>"


async def register_host(
    port: CompletionPort, memory: Any, piece_bytes: int = PIECE_BYTES
) -> RegisteredMemory:
    """Page-lock memory. See `Device.register_host`."""
    registered = open_registration(port, memory, piece_bytes)
    try:
        await registered.register(shared=False)
    except BaseException:
        registered.free()
        raise
    return registered


def open_registration(
    where: Device | CompletionPort, memory: Any, piece_bytes: int = PIECE_BYTES
) -> RegisteredMemory:
    """Return memory that the driver is told of by `RegisteredMemory.register`.

    Raises:
        ArgumentError: It does not begin and end with a page.
    """
    view = HostView(memory, writable=True)
    if fault := _fault(view, piece_bytes):
        raise ArgumentError(operation="register host memory", detail=fault)
    forget_ended()
    port = where if isinstance(where, CompletionPort) else where._port  # noqa: SLF001  # one package
    registered: RegisteredMemory = RegisteredMemory.make(port, view, piece_bytes)
    return registered


async def _register_piece(
    port: CompletionPort,
    view: HostView,
    where: tuple[int, int],
    shared: bool,  # noqa: FBT001  # private
) -> _Piece:
    held = ended, _ = ctypes.c_uint64(), view
    region = (*where, ctypes.addressof(ended), shared, 0)
    packed = wire.REGION.pack(wire.REGISTER, wire.REGION.size, *region)

    def submit() -> Ticket[_Piece]:
        name = f"register {where[1]} bytes of host memory"
        state = port.new_state(name, held, lambda resource: _Piece(port, resource, ended, where[1]))
        return port.submit_operations(packed, state)

    _held.append(held)  # whatever becomes of the task: the CUDA thread writes there in the end
    try:
        ticket = await port.patiently(submit)
    except BaseException:
        _held.remove(held)
        raise
    return await ticket


def _fault(view: HostView, piece_bytes: int) -> str:
    page = mmap.PAGESIZE
    if not view.nbytes or view.address % page or view.nbytes % page:
        return f"it has to begin and end with a page of {page} bytes, as a mmap does"
    if piece_bytes < page or piece_bytes % page:
        return f"piece_bytes is {piece_bytes}, no multiple of a page of {page} bytes"
    return ""


def forget_ended() -> None:
    """Let go of the memory that the driver has let go."""
    for held in list(_held):
        if held[0].value:
            with suppress(ValueError):  # another loop's thread was faster
                _held.remove(held)


def are_registered(thread: DeviceThread, addresses: list[int], nbytes: int) -> bool:
    """Whether each of these ranges lies in memory that the driver knows."""
    known = [memory for memory in _known if memory.of(thread)]
    return all(any(memory.covers(at, nbytes) for memory in known) for at in addresses)
