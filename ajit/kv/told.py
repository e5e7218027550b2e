"""Tells a runtime's subscribers of the ends of copies, where the runtime writes a trace.

Not else: a task for each copy would cost every engine what nobody looks at.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio

from ajit._core.events import PagesCopied
from ajit.errors import AjitError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import TaskGroup

    from ajit._gpu.completion.ticket import Ticket
    from ajit._runtime.runtime import Runtime

__all__ = ["CopyTeller"]


class CopyTeller:
    """Emits an event at the end of each copy of some pages. Belongs to their event loop.

    Args:
        runtime: Whose subscribers are told.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._emitter = runtime._emitter  # noqa: SLF001  # its other half
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def telling(self) -> AsyncGenerator[None, None]:
        """Tell of copies that are submitted in the block; its end waits for theirs."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            yield
            self._tasks = None  # the group waits for what is under way

    def tell(self, ticket: Ticket[None], nbytes: int, *, to_host: bool) -> None:
        """Tell of a copy, once it has ended. Does not block."""
        if self._tasks is not None:
            self._tasks.start_soon(self._wait, ticket, nbytes, to_host)

    async def _wait(self, ticket: Ticket[None], nbytes: int, to_host: bool) -> None:  # noqa: FBT001  # private
        with suppress(AjitError):  # who awaits the copy gets it
            await ticket
            self._emitter.emit(
                PagesCopied(
                    name="save" if to_host else "load",
                    key="",
                    seconds=ticket.seconds or 0.0,
                    size_bytes=nbytes,
                )
            )
