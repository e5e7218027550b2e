"""Slabs as they come and go, for those that follow them: a driver has to know its memory.

A store adds a slab when it has mapped it, and says when it lets it go; who follows has a view of
it then, and the mapping stays as long as that view. Belongs to one event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ajit._system.loop import LoopHandle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ajit.kv.memory import Slab

__all__ = ["SlabFeed", "SlabFollower"]


class SlabFollower(Protocol):
    """Who is told. Neither waits, nor raises."""

    def slab_came(self, slab: Slab) -> None:
        """A slab is mapped."""
        ...

    def slab_goes(self, slab: Slab) -> None:
        """It is about to be unmapped, and is when nothing has a view of it any more."""
        ...


class SlabFeed:
    """The slabs of one store that this process has mapped.

    Attributes:
        loop: Of the store.
        slabs: Those that are there now, in the order in which they came.
    """

    def __init__(self) -> None:
        self.loop = LoopHandle.current()
        self.slabs: list[Slab] = []
        self._followers: list[SlabFollower] = []

    def add(self, slab: Slab) -> None:
        """A slab is mapped."""
        self.slabs.append(slab)
        for follower in list(self._followers):
            follower.slab_came(slab)

    def close(self, slabs: Iterable[Slab]) -> None:
        """Close slabs, of which some may not be here."""
        for slab in slabs:
            if slab in self.slabs:
                self.slabs.remove(slab)
                for follower in list(self._followers):
                    follower.slab_goes(slab)
            slab.close()

    def follow(self, follower: SlabFollower) -> Callable[[], None]:
        """Tell of all slabs from now on, those that are there included; returns what ends that."""
        self._followers.append(follower)
        for slab in list(self.slabs):
            follower.slab_came(slab)
        return lambda: self._followers.remove(follower)
