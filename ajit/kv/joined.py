"""Several leases or reservations as one: chunks of a window, each of which is found by itself."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit.kv.handles import Handle, Hold
    from ajit.kv.keys import Namespace

__all__ = ["JoinedChunks"]


class JoinedChunks:
    """Chunks of several handles, in order: what `Pages.load` and `Pages.save` take for one.

    Attributes:
        namespace: Of all of them.
    """

    __slots__ = ("_parts", "namespace")

    def __init__(self, namespace: Namespace, parts: Sequence[tuple[Handle, int]]) -> None:
        """Join handles, of each of which so many chunks count, from its first on."""
        self.namespace, self._parts = namespace, tuple(parts)

    def __len__(self) -> int:
        return sum(count for _, count in self._parts)

    def views(self) -> list[memoryview]:
        """The bytes of each chunk, in order.

        Raises:
            UsageError: One of the handles has ended.
        """
        return [handle.view(index) for handle, count in self._parts for index in range(count)]

    def hold(self) -> JoinedHold:
        """Keep the memory of all until the hold is released.

        Raises:
            UsageError: One of the handles has ended. Nothing is held.
        """
        with ExitStack() as taken:
            holds = []
            for handle, _ in self._parts:
                holds.append(handle.hold())
                taken.callback(holds[-1].release)
            taken.pop_all()
            return JoinedHold(holds)


class JoinedHold:
    """Holds of several handles."""

    __slots__ = ("_holds",)

    def __init__(self, holds: Sequence[Hold]) -> None:
        self._holds = tuple(holds)

    def follow(self, copy: Any) -> None:
        """Say that it is the hold of a copy, see `Hold.follow`."""
        for hold in self._holds:
            hold.follow(copy)

    def release(self) -> None:
        """Give all back; twice is nothing."""
        for hold in self._holds:
            hold.release()
