"""How stores, services, clients and exporters are open for the time of a block.

Each lives in a task of its own (`ajit._system.own_task`): so the block may be entered and left by
different tasks, an error in it is raised as it is and not as a group, and a cancellation of the
block does not reach what is open.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from ajit._system.own_task import OwnTask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

__all__ = ["open_in_own_task"]

T = TypeVar("T")


@asynccontextmanager
async def open_in_own_task(
    opening: Callable[[], AbstractAsyncContextManager[T]], name: str
) -> AsyncIterator[T]:
    """Hold a context open in a task of its own, as long as the block lasts.

    Raises:
        Exception: What entering or leaving it raised.
    """
    own = await OwnTask.open(opening, name=name)
    own.warns = False  # the end of the block closes it
    try:
        yield own.value
    finally:
        await own.aclose_uncancelled()
