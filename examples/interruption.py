"""How the demos end when they are interrupted: in good order, however often."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["interruptible"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@asynccontextmanager
async def interruptible(tell: Callable[[str], None]) -> AsyncIterator[None]:
    """Cancel the body at a SIGINT or SIGTERM, and let it end its processes and remove its files.

    Those that follow change nothing: a second Ctrl-C in the middle of the ending would leave
    processes behind. After the body they are ignored, for what is left is to clean up and to end.

    Args:
        tell: Told ``broken off by SIGINT``, once.
    """
    with anyio.open_signal_receiver(*SIGNALS) as signals:
        async with anyio.create_task_group() as tasks:

            async def cancel_at_signal() -> None:
                async for number in signals:
                    tell(f"broken off by {number.name}")
                    tasks.cancel_scope.cancel()
                    return

            tasks.start_soon(cancel_at_signal)
            yield
            tasks.cancel_scope.cancel()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
