"""The memory that the executor and a port share: made by the executor, mapped by Python."""

from __future__ import annotations

import ctypes

from ajit._gpu import wire

__all__ = ["PortMemory"]


class PortMemory:
    """The executor's part of a port. Owned by the loop's thread.

    Attributes:
        handle: Its address; 0 once it was released.
        event_fd: What the executor writes when tickets are settled.
        looking: Two words: the number of the ticket that is looked for, and for how many
            nanoseconds tasks have been looking.
        records: Settled tickets, after `drain`; `wire.RECORD` each.
    """

    __slots__ = ("_library", "event_fd", "handle", "looking", "records")

    def __init__(self, executor: int, spin_ns: int, hog_ns: int) -> None:
        """Let the executor make it.

        Args:
            executor: The executor's address.
            spin_ns: How long a look lasts.
            hog_ns: How long looks may last in a row.

        Raises:
            OSError: No memory or no file descriptor is left.
        """
        self._library = wire.library()
        self.handle = int(self._library.port_create(executor, spin_ns, hog_ns) or 0)
        if not self.handle:
            raise OSError("no memory or no file descriptor is left for an event loop's eventfd")
        layout = self._library.layout
        size = layout["port_records"] + wire.RECORDS * wire.RECORD.size
        memory = memoryview((ctypes.c_ubyte * size).from_address(self.handle)).cast("B")
        self.event_fd = int.from_bytes(memory[layout["port_event_fd"] :][:4], "little")
        self.looking = memory[layout["port_wanted"] :][:16].cast("Q")
        self.records = memory[layout["port_records"] :]

    def drain(self) -> int:
        """Take settled tickets from the executor; returns how many `records` there are."""
        count: int = self._library.port_drain(self.handle)
        return count

    def release(self) -> None:
        """Give it back. The executor keeps it for as long as it has tickets of it."""
        handle, self.handle = self.handle, 0
        if handle:
            self.looking.release()
            self.records.release()
            self._library.port_release(handle)
