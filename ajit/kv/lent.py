"""What a transfer borrows: events for its steps, device memory for its tables.

Both go back to their pool when nothing refers to them any more: neither the ticket nor the
transfer, also where its task was cancelled. They may be let go by any thread, for a list is
appended to in one step.

A stream that waits for an event waits for what was recorded when the wait was submitted. So an
event may be recorded anew while streams still wait for the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from ajit._gpu.device import Device
    from ajit._gpu.memory import DeviceBuffer
    from ajit._gpu.stream import Event

__all__ = ["EventPool", "LentEvents", "LentTable", "TablePool"]

SMALLEST_TABLE_BYTES = 4096
"""A page of host memory; pretty arbitrary."""


class EventPool:
    """Events that are not lent now. It grows to what was lent at once."""

    __slots__ = ("_device", "free")

    def __init__(self, device: Device) -> None:
        self._device = device
        self.free: list[Event] = []

    async def lend(self, count: int) -> LentEvents:
        """Lend events; makes those that are missing."""
        lent = LentEvents(self)
        while len(lent.events) < count:
            known = self.free.pop() if self.free else None
            lent.events.append(known or await self._device.create_event(timing=False))
        return lent


class LentEvents(Sequence["Event"]):
    """Events on loan."""

    __slots__ = ("_pool", "events")

    def __init__(self, pool: EventPool) -> None:
        self._pool = pool
        self.events: list[Event] = []

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Event]: ...

    def __getitem__(self, index: int | slice) -> Event | Sequence[Event]:
        """Return one of them, or several."""
        return self.events[index]

    def __len__(self) -> int:
        return len(self.events)

    def __del__(self) -> None:
        self._pool.free += self.events


class TablePool:
    """Device memory for tables that is not lent now, in sizes that are powers of two."""

    __slots__ = ("_device", "free")

    def __init__(self, device: Device) -> None:
        self._device = device
        self.free: list[DeviceBuffer] = []

    async def lend(self, nbytes: int) -> LentTable:
        """Lend memory of at least that size; allocates where none is free.

        Raises:
            OutOfMemory: There is not enough device memory.
        """
        size = max(SMALLEST_TABLE_BYTES, 1 << (nbytes - 1).bit_length())
        for index, buffer in enumerate(self.free):
            if buffer.nbytes == size:
                return LentTable(self, self.free.pop(index))
        return LentTable(self, await self._device.alloc(size))


class LentTable:
    """Device memory on loan."""

    __slots__ = ("_pool", "buffer")

    def __init__(self, pool: TablePool, buffer: DeviceBuffer) -> None:
        self._pool, self.buffer = pool, buffer

    def __del__(self) -> None:
        self._pool.free.append(self.buffer)
