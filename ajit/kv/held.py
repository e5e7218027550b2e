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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit.kv.keys import Namespace
    from ajit.kv.layout import Layout

__all__ = ["CopyHold", "StoredChunks", "hold_chunks"]


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


def hold_chunks(chunks: Any, layout: Layout) -> tuple[Any, CopyHold | None]:
    """Return chunks as a copy takes them, and a hold of them if they are a store's.

    Raises:
        UsageError: They are a handle that has ended, or chunks of another layout.
    """
    if not _is_stored(chunks):
        return chunks, None
    layout.check_namespace(chunks.namespace)
    if not len(chunks):  # nothing is leased or reserved, so there is nothing to hold
        return [], None
    hold = CopyHold(chunks.hold())
    return chunks.views(), hold


def _is_stored(chunks: Any) -> TypeGuard[StoredChunks]:
    return hasattr(chunks, "hold") and hasattr(chunks, "views")
