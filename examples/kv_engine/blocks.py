"""The pages of the cache on the device: who has which."""

from __future__ import annotations

import anyio

__all__ = ["Blocks", "NoRoom"]


class NoRoom(RuntimeError):
    """A request needs more pages than there are. Nothing was taken."""


class Blocks:
    """Numbers of pages, free or taken. Belongs to one event loop.

    The last one that came back is the next one to go: so a request soon has pages that lie
    anywhere, in any order, and nothing can come to rely on anything else.
    """

    def __init__(self, count: int) -> None:
        self._free = list(range(count))
        self._turn, self._freed = anyio.Lock(), anyio.Event()
        self.count = count

    @property
    def free(self) -> int:
        """How many nobody has."""
        return len(self._free)

    async def take(self, count: int) -> list[int]:
        """Take pages; wait for those of other requests, and in turn.

        Raises:
            NoRoom: There are not so many.

        Cancelling takes nothing.
        """
        if count > self.count:
            raise NoRoom(f"the request needs {count} pages; there are {self.count}")
        async with self._turn:
            while len(self._free) < count:
                self._freed = anyio.Event()
                await self._freed.wait()
            return [self._free.pop() for _ in range(count)]

    def give_back(self, blocks: list[int]) -> None:
        """Give pages back, once: nothing on the device may use them any more."""
        self._free += blocks
        self._freed.set()
