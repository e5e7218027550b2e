"""Staging: large copies go through page-locked memory.

A driver copies from pageable memory by staging it itself, on the calling thread: a large upload
would keep the CUDA thread, and with it every launch, waiting for milliseconds. So the bytes are
moved into page-locked memory by a helper thread, with the GIL released, and the CUDA thread only
starts the copy. The memory comes from a pool of the loop, and all pools of a device have one limit;
what does not fit into that, or waits for too long, is copied without.

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
    from ajit._gpu.pinned_budget import PinnedBudget, PinnedWaiter

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
    """A loop's pool of page-locked memory, in sizes that are powers of two.

    Attributes:
        held_bytes: What it holds, on loan or not.
    """

    def __init__(
        self,
        allocate: Callable[[int], Awaitable[PinnedBuffer]],
        budget: PinnedBudget,
        patience_seconds: float,
    ) -> None:
        self.held_bytes = 0
        self._budget, self._patience_seconds = budget, patience_seconds
        self._loop = LoopHandle.current()
        self._allocate = allocate
        self._free: dict[int, list[PinnedBuffer]] = {}
        self._closed = False
        self._movers = anyio.CapacityLimiter(_MOVERS)
        budget.add_pool(self)

    async def lend(self, nbytes: int) -> Staged | None:
        """Lend memory of at least that size; waits in line for loans to come back.

        Returns:
            None if it cannot be had, or not in time: the copy then goes without.
        """
        budget, size = self._budget, 1 << (nbytes - 1).bit_length()
        if size > budget.limit_bytes:
            return None
        if not budget.crowded:
            if self._free.get(size):
                return Staged(self, self._free[size].pop())
            if budget.take(size):
                return await self._grow(size)
        waiter = budget.stand_in_line(self, size)
        try:
            with anyio.move_on_after(self._patience_seconds):
                await waiter.told.wait()
        except BaseException:
            if budget.leave(waiter):
                self._return(waiter)
            raise
        if not budget.leave(waiter):
            return None
        if self._closed:
            self._return(waiter)
            return None
        return Staged(self, waiter.buffer) if waiter.buffer else await self._grow(size)

    async def move(self, target: int, source: int, nbytes: int) -> None:
        """Copy host memory, in a helper thread. Cancelling waits for the end: milliseconds."""
        await run_in_thread(ctypes.memmove, target, source, nbytes, limiter=self._movers)

    def make_room(self) -> None:
        """Free what is not on loan, as long as someone waits. Any thread."""
        if threading.get_ident() != self._loop.thread_id:
            self._loop.call_soon(self.make_room)
            return
        while self._budget.crowded and self._shrink():
            pass

    def close(self) -> None:
        """Free all: the device is done with the loans as well."""
        while self._shrink():
            pass
        self._closed = True
        held, self.held_bytes = self.held_bytes, 0
        self._budget.leave_all(self)
        self._budget.give_back(held)

    async def _grow(self, size: int) -> Staged | None:
        """Allocate memory for which there is room."""
        self.held_bytes += size
        try:
            return Staged(self, await self._allocate(size))
        except BaseException as error:
            self._let_go(size)
            if isinstance(error, OutOfMemory):
                return None
            raise

    def _return(self, waiter: PinnedWaiter) -> None:
        """Give back what was granted to a task that was cancelled."""
        if waiter.buffer is not None:
            self._give_back(waiter.buffer)
        else:
            self._budget.give_back(waiter.size)

    def _let_go(self, size: int) -> None:
        if not self._closed:
            self.held_bytes -= size
            self._budget.give_back(size)

    def _shrink(self) -> bool:
        """Free one piece that is not on loan; returns whether there was one."""
        for size, buffers in self._free.items():
            if buffers:
                buffers.pop().free()
                self._let_go(size)
                return True
        return False

    def _give_back(self, buffer: PinnedBuffer) -> None:
        """Take a loan back. The collector may run this in another thread, or under the lock."""
        lock = self._budget.lock
        elsewhere = threading.get_ident() != self._loop.thread_id
        if elsewhere or not lock.acquire(blocking=False):
            self._loop.call_soon(self._give_back, buffer)
            return
        try:
            taken = True if self._closed else self._budget.take_back(self, buffer)
        finally:
            lock.release()
        if taken is None:
            self._free.setdefault(buffer.nbytes, []).append(buffer)
        elif not taken:
            buffer.free()
            self._let_go(buffer.nbytes)

    def __repr__(self) -> str:
        return f"<StagingPool {self.held_bytes} bytes of {self._budget!r}>"
