"""The memory of a store, told to a driver: slab by slab, in the background, as slabs come.

A driver copies from and to memory that it knows without a detour. So all slabs that a store has
mapped here are registered with it, in pieces, while launches and copies go on; what is not
registered yet is copied by way of the driver's own buffers, and as right.

A mapping can be registered once in a process. Where several engines of one share a store, each
registers what no other has; when one leaves, the others register its part anew. A slab that the
store lets go is given back first, and stays mapped until the driver knows it no more.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import anyio

from ajit._gpu.registered import LOOK_SECONDS, PIECE_BYTES, forget_ended, open_registration
from ajit._system.loop import LoopHandle
from ajit._system.own_block import open_in_own_task
from ajit.errors import AjitError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskGroup

    from ajit._gpu.device import Device
    from ajit._gpu.registered import RegisteredMemory
    from ajit.kv.feed import SlabFeed
    from ajit.kv.memory import Slab

__all__ = ["RegisteredStatistics", "RegisteredStore", "SlabSource", "register"]

CLOSE_SECONDS = 5.0
"""How long leaving waits for the driver. What it knows then stays mapped. As long as a device."""


class SlabSource(Protocol):
    """A store, as registering it sees it.

    Attributes:
        slabs: Its memory.
    """

    slabs: SlabFeed


@dataclass(frozen=True, kw_only=True)
class RegisteredStatistics:
    """What a driver knows of a store's memory.

    Attributes:
        slabs: How many the store has mapped here.
        slab_bytes: What they have.
        registered_bytes: What the driver was told of here.
        shared_bytes: What it knows by another engine of this process.
        problem: Why it does not know the rest, if not for want of time; "" if all is well.
    """

    slabs: int
    slab_bytes: int
    registered_bytes: int
    shared_bytes: int
    problem: str


class RegisteredStore:
    """A store whose memory a driver knows, or will soon. Get it with `register`."""

    def __init__(self, device: Device, group: TaskGroup) -> None:
        self.loop = LoopHandle.current()
        self._device, self._group = device, group
        self._known: dict[Slab, RegisteredMemory] = {}
        self._leaving: dict[Slab, RegisteredMemory] = {}
        self._waiting: deque[Slab] = deque()
        self._registering: Slab | None = None
        self._came, self._idle = anyio.Event(), anyio.Event()
        self._problem = ""

    # --- told by the store ---

    def slab_came(self, slab: Slab) -> None:
        """Register it, when it is its turn."""
        try:
            self._known[slab] = open_registration(self._device, slab.view, PIECE_BYTES)
        except AjitError as error:  # pages of memory that are larger than what it is cut into
            self._problem = str(error)
        else:
            self._put(slab)

    def slab_goes(self, slab: Slab) -> None:
        """Give it back. It stays mapped until the driver knows it no more."""
        if slab in self._known:
            self._free(slab)
            self._group.start_soon(self._leave, slab)

    def take_over(self, address: int) -> None:
        """Another engine has given a mapping back: register what it had registered."""
        for slab, memory in self._known.items():
            if memory.address == address and slab not in self._waiting:
                self._put(slab)

    # --- asked by users ---

    async def wait_registered(self) -> None:
        """Wait until no slab waits to be registered. Cancelling only leaves."""
        while self._waiting or self._registering:
            await self._idle.wait()

    def statistics(self) -> RegisteredStatistics:
        """Return what the driver knows."""
        memories = list(self._known.values())
        own, told = sum(m.own_bytes for m in memories), sum(m.told_bytes for m in memories)
        return RegisteredStatistics(
            slabs=len(memories), slab_bytes=sum(memory.nbytes for memory in memories),
            registered_bytes=own, shared_bytes=told - own, problem=self._problem,
        )  # fmt: skip

    # --- its task ---

    async def run(self) -> None:
        """Register slab after slab, until cancelled."""
        while True:
            while self._waiting:
                self._registering = self._waiting.popleft()
                await self._register(self._registering)
                self._registering = None
            self._idle.set()
            await self._came.wait()

    def _put(self, slab: Slab) -> None:
        self._waiting.append(slab)
        if self._idle.is_set():
            self._idle = anyio.Event()
        self._came.set()
        self._came = anyio.Event()

    async def _register(self, slab: Slab) -> None:
        memory = self._known.get(slab)
        if memory is None:  # it has gone while it waited
            return
        _join(memory.address, self)
        try:
            await memory.register(shared=True)
        except AjitError as error:
            self._problem = str(error)

    def _free(self, slab: Slab) -> None:
        memory = self._leaving[slab] = self._known.pop(slab)
        memory.free()

    async def _leave(self, slab: Slab) -> None:
        """Wait until the driver does not know a slab, and let others register it."""
        memory = self._leaving.get(slab)
        if memory is None:
            return
        while slab is self._registering or not memory.ended:  # noqa: ASYNC110  # the CUDA thread sets a number and no event
            await anyio.sleep(LOOK_SECONDS)
        self._leaving.pop(slab, None)
        forget_ended()
        slab.unmap_if_closed()
        _part(memory.address, self)

    async def give_back(self) -> None:
        """Give all back, and wait for the driver, but not for ever."""
        for slab in list(self._known):
            self._free(slab)
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await self.wait_registered()  # the piece that the driver is told of just now
            for slab in list(self._leaving):
                await self._leave(slab)

    def __repr__(self) -> str:
        told = self.statistics()
        return f"<RegisteredStore of {told.registered_bytes} of {told.slab_bytes} bytes>"


def register(device: Device, store: SlabSource) -> AbstractAsyncContextManager[RegisteredStore]:
    """Let a driver know the memory of a store, in an ``async with`` block.

    The block begins at once; slabs are registered in the background, those that are there and those
    that come. Until then copies from and to them are right, and slower. Leaving gives them back.

    Args:
        device: Whose driver.
        store: From `open_store` or `connect`, in the same event loop.

    Raises:
        UsageError: The store belongs to another event loop. Nothing was registered.
    """
    return open_in_own_task(partial(_registered, device, store), "a registered KV store")


@asynccontextmanager
async def _registered(device: Device, store: SlabSource) -> AsyncGenerator[RegisteredStore, None]:
    if store.slabs.loop != LoopHandle.current():
        raise UsageError(f"{store!r} was opened in another event loop; open one in this one")
    async with anyio.create_task_group() as group:
        registered = RegisteredStore(device, group)
        group.start_soon(registered.run)
        unfollow = store.slabs.follow(registered)
        try:
            yield registered
        finally:
            unfollow()
            await registered.give_back()
            group.cancel_scope.cancel()


# --- who has registered which mapping, in all loops of this process ---

_lock = threading.Lock()
_engines: dict[int, list[RegisteredStore]] = {}


def _join(address: int, engine: RegisteredStore) -> None:
    with _lock:
        engines = _engines.setdefault(address, [])
        if engine not in engines:
            engines.append(engine)


def _part(address: int, engine: RegisteredStore) -> None:
    with _lock:
        engines = _engines.get(address, [])
        if engine in engines:
            engines.remove(engine)
        if not engines:
            _engines.pop(address, None)
        others = list(engines)
    for other in others:
        other.loop.call_soon(other.take_over, address)
