"""Opening a runtime in a loop that runs, without holding it up.

What a runtime needs takes 0.1 to 0.2 s to import. A server that opens one at its start, or with
its first request, has tasks that would wait for that. So the public name is in this module, which
imports next to nothing, and all else is imported in a thread.
"""

from __future__ import annotations

import importlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from typing import Unpack

    from ajit._core.events import Subscriber
    from ajit._runtime.runtime import Runtime
    from ajit.settings import Settings, SettingsOptions

__all__ = ["open_runtime"]


@asynccontextmanager
async def open_runtime(
    settings: Settings | None = None,
    *,
    subscribers: Iterable[Subscriber] = (),
    **arguments: Unpack[SettingsOptions],
) -> AsyncIterator[Runtime]:
    """Open a runtime in this event loop.

    Args:
        settings: Settings made beforehand; None makes them from the arguments and the environment.
        subscribers: Functions that get every event, from the first on.
        **arguments: Any setting by name, such as ``device="auto"`` or ``cache_dir=...``.

    Raises:
        SettingsError: A setting cannot be used; nothing was started.
        CacheError: The cache directory is a file, or others could put code there; nothing is left.
        NoDevice: There is no GPU here, and none of the ways around it was chosen; nothing is left.

    Leaving the context, also by cancellation, ends compiles and compilers, gives leases back, waits
    for the device work in flight and ends the CUDA thread. Waiters of unfinished requests get
    `RuntimeClosed`.
    """
    # A limiter of its own, for opening and closing: those 40 threads of the default one are shared
    # with the whole process, and may be used up.
    limiter = anyio.CapacityLimiter(1)
    runtime = await anyio.to_thread.run_sync(
        importlib.import_module, "ajit._runtime.runtime", limiter=limiter
    )
    async with runtime.open_here(settings, subscribers, arguments, limiter) as opened:
        yield opened
