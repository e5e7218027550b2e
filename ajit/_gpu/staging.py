"""Staging: large copies go through page-locked memory.

A driver copies from pageable memory by staging it itself, on the calling thread: a large upload
would keep the CUDA thread, and with it every launch, waiting for milliseconds. So the bytes are
moved into page-locked memory by a helper thread, with the GIL released, and the CUDA thread only
starts the copy. The memory comes from a bounded pool; what does not fit into the pool is copied
without.

Owned by the loop's thread. The CPU driver needs none of this, its copies run on a thread of their
own.
"""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING

import anyio

from ajit._system.in_thread import run_in_thread
from ajit._system.loop import LoopHandle
from ajit.errors import OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ajit._gpu.memory import PinnedBuffer

__all__ = ["STAGED_FROM_BYTES", "Staged", "StagingPool"]

STAGED_FROM_BYTES = 64 * 1024
"""Up to this size a driver takes pageable memory into its own buffers and returns at once."""
_MOVERS = 2
"""Helper threads that move bytes at once. Arbitrary: one already reaches the memory's speed."""


class Staged:
    """Page-locked memory on loan. It goes back to the pool when nothing refers to it any more.

    So a ticket that refers to it keeps it until the device is done, also if no task waits any more.

    Attributes:
        address: Of its first byte.
    """

    __slots__ = ("_buffer", "_pool", "address")

    def __init__(self, pool: StagingPool, buffer: PinnedBuffer) -> None:
        self._pool, self._buffer = pool, buffer
        self.address = buffer.pointer

    def __del__(self) -> None:
        self._pool._give_back(self._buffer)  # noqa: SLF001  # the pool's other half


class StagingPool:
    """A bounded pool of page-locked memory, in sizes that are powers of two.

    Attributes:
        limit_bytes: What it may hold in all, on loan or not.
        held_bytes: What it holds now.
    """

    def __init__(
        self, allocate: Callable[[int], Awaitable[PinnedBuffer]], limit_bytes: int
    ) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._loop = LoopHandle.current()
        self._allocate = allocate
        self._free: dict[int, list[PinnedBuffer]] = {}
        self._returned = anyio.Event()
        self._movers = anyio.CapacityLimiter(_MOVERS)

    async def lend(self, nbytes: int) -> Staged | None:
        """Lend memory of at least that size; waits for loans to come back when all is lent.

        Returns:
            None if it can never be had: the copy then goes without.
        """
        size = 1 << (nbytes - 1).bit_length()
        if size > self.limit_bytes:
            return None
        while True:
            if self._free.get(size):
                return Staged(self, self._free[size].pop())
            if self.held_bytes + size <= self.limit_bytes:
                return await self._grow(size)
            if not self._shrink():
                if self._returned.is_set():
                    self._returned = anyio.Event()
                await self._returned.wait()

    async def move(self, target: int, source: int, nbytes: int) -> None:
        """Copy host memory, in a helper thread. Cancelling waits for the end: milliseconds."""
        await run_in_thread(ctypes.memmove, target, source, nbytes, limiter=self._movers)

    def close(self) -> None:
        """Free what is not on loan."""
        while self._shrink():
            pass

    async def _grow(self, size: int) -> Staged | None:
        self.held_bytes += size
        try:
            return Staged(self, await self._allocate(size))
        except BaseException as error:
            self.held_bytes -= size
            self._returned.set()
            if isinstance(error, OutOfMemory):
                return None
            raise

    def _shrink(self) -> bool:
        """Free one piece that is not on loan; returns whether there was one."""
        for size, buffers in self._free.items():
            if buffers:
                buffers.pop().free()
                self.held_bytes -= size
                return True
        return False

    def _give_back(self, buffer: PinnedBuffer) -> None:
        if threading.get_ident() != self._loop.thread_id:  # the collector ran in another thread
            self._loop.call_soon(self._give_back, buffer)
            return
        self._free.setdefault(buffer.nbytes, []).append(buffer)
        self._returned.set()

    def __repr__(self) -> str:
        return f"<StagingPool {self.held_bytes} of {self.limit_bytes} bytes>"
