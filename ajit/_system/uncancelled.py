"""Waiting that no cancellation cuts short: for closing, which has to be complete.

A shielded cancel scope keeps off what other scopes of anyio cancel. It does not keep off
``Task.cancel()`` of asyncio, which `asyncio.run` calls for every task at its end, and
`asyncio.wait_for` and ``asyncio.TaskGroup`` call for theirs. Such a cancellation interrupts one
await and is over. So the wait goes on, or the step is done again, and then the cancellation is
raised.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["uncancelled", "wait_uncancelled"]

CANCELLATIONS = 100
"""So many in one step do not come from a loop that ends. Pretty arbitrary."""


async def uncancelled(step: Callable[[], Awaitable[None]]) -> None:
    """Do a step to its end, however often the task is cancelled; then raise the cancellation.

    Args:
        step: Called again after each cancellation of the task. A cancel scope around this call
            that is cancelled, and not shielded off, does end it.
    """
    cancelled: BaseException | None = None
    for _ in range(CANCELLATIONS):
        try:
            await step()
            break
        except anyio.get_cancelled_exc_class() as exc:
            if anyio.current_effective_deadline() == -math.inf:
                raise
            cancelled = exc
    if cancelled is not None:
        raise cancelled


async def wait_uncancelled(event: anyio.Event) -> None:
    """Wait for an event that always comes; then raise the cancellation that came meanwhile.

    In a forked child a cancellation is raised at once: what sets the event may be a thread, which
    stayed with the parent.
    """
    cancelled: BaseException | None = None
    pid = os.getpid()
    with anyio.CancelScope(shield=True):
        while not event.is_set():
            try:
                await event.wait()
            except anyio.get_cancelled_exc_class() as exc:
                if os.getpid() != pid:
                    raise
                cancelled = exc
    if cancelled is not None:
        raise cancelled
