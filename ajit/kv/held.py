"""What a copy holds of a store: the memory of a lease or a reservation, until its ticket is over.

A handle of a store is known by what it does, so pages import neither a store nor a client. The copy
takes a hold before anything else is waited for. The ticket keeps it like the memory of both sides:
it goes when the device is done, whichever task was cancelled, and never for a ticket whose device
was closed while it hung, since that may wake up and write.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from ajit._system.loop import LoopHandle
from ajit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit.kv.keys import Namespace
    from ajit.kv.layout import Layout

__all__ = ["CopyHold", "StoredChunks", "hold_chunks", "is_stored", "part_of", "refuse_gaps"]


class _Hold(Protocol):
    def follow(self, copy: Any) -> None: ...

    def release(self) -> None: ...


class StoredChunks(Protocol):
    """What pages need of a lease or a reservation. All of it returns at once.

    Attributes:
        namespace: Of its chunks.
    """

    namespace: Namespace

    def __len__(self) -> int:
        """How many chunks."""
        ...

    def views(self) -> Sequence[Any]:
        """The bytes of each chunk."""
        ...

    def hold(self) -> _Hold:
        """Keep the memory until the hold is released, also if the handle is released before."""
        ...


class CopyHold:
    """A hold of a copy. It is released when nothing refers to it any more, or by hand.

    Made in the loop of the store, and released in it: the garbage collector may run elsewhere.
    """

    __slots__ = ("_hold", "_loop")

    def __init__(self, hold: _Hold) -> None:
        self._hold: _Hold | None = hold
        self._loop = LoopHandle.current()

    def follow(self, ticket: object) -> None:
        """Say what tells when the copy has ended, and whether it was done."""
        if self._hold is not None:
            self._hold.follow(ticket)

    def release(self) -> None:
        """Give it back; twice is nothing."""
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()

    def __del__(self) -> None:
        hold, self._hold = self._hold, None
        if hold is None:
            return
        if threading.get_ident() == self._loop.thread_id:
            hold.release()
        else:
            self._loop.call_soon(hold.release)


def hold_chunks(chunks: Any, layout: Layout, *, to_host: bool) -> tuple[Any, CopyHold | None]:
    """Return chunks as a copy takes them, and a hold of them if they are a store's.

    Raises:
        UsageError: They are a handle that has ended, a lease that is to be written, or chunks of
            another layout.
    """
    if not is_stored(chunks):
        return chunks, None
    layout.check_namespace(chunks.namespace)
    if to_host and not getattr(chunks, "writable", True):
        raise UsageError(f"{chunks!r} can only be read; reserve() gives memory to save into")
    if not len(chunks):  # nothing is leased or reserved, so there is nothing to hold
        return [], None
    hold = CopyHold(chunks.hold())
    return chunks.views(), hold


def part_of(table: Any, chunks: Any, each: int, *, to_host: bool) -> Any:
    """Return of a whole prompt's table what is for the chunks of a handle.

    Args:
        table: Numbers of pages, or slots, of the prompt from its start.
        chunks: The handle.
        each: How many numbers a chunk has.
        to_host: Whether the chunks are to be written: then none may be missing, for what is not
            written would be found, with what was there before.

    Raises:
        UsageError: The table is too short, or has a gap where chunks are to be written.
    """
    first = getattr(chunks, "first", None)
    if first is None or not hasattr(table, "__len__"):
        return table  # of chunks that were put together, or what will be refused by its type
    begin, end = first * each, (first + len(chunks)) * each
    if not len(chunks):
        return table[:0]
    if len(table) < end:
        raise UsageError(
            f"the table has {len(table)} numbers, and {end} are needed, of the whole prompt from "
            f"its start: these are chunks {first} to before {first + len(chunks)}, of {each} each"
        )
    part = table[begin:end]
    if to_host:
        refuse_gaps(part)
    return part


def refuse_gaps(part: Any) -> None:
    """Refuse numbers that leave a place of a stored chunk unwritten.

    Raises:
        UsageError: One is negative.
    """
    if not len(part):
        return
    least = part.min() if hasattr(part, "min") else min(part)
    if least < 0:
        raise UsageError(
            "a negative number is a gap, and a chunk that is stored has none: others would find "
            "what was in this memory before; save only whole chunks"
        )


def is_stored(chunks: Any) -> TypeGuard[StoredChunks]:
    """Whether they are a handle of a store."""
    return hasattr(chunks, "hold") and hasattr(chunks, "views")
