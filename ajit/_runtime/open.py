"""Opening a runtime without blocking the event loop.

The modules of a runtime take 0.1 to 0.2 s to import. A server that opens one at its start, or with
its first request, has other tasks that would wait. So this module has the public name and imports
next to nothing; everything else is imported in a thread.
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
        subscribers: Functions that are called with every event from the first one.
        **arguments: Any setting by name, such as ``device="auto"`` or ``cache_dir=...``.

    Raises:
        SettingsError: A setting cannot be used; nothing was started.
        CacheError: It is a file, or other users could put code into the cache; nothing is open.
        NoDevice: There is no GPU here, and no other device was chosen; nothing is open.

    Leaving the context, also by cancellation, ends compiles and compilers, releases leases, waits
    for the device work in flight and ends the CUDA thread. Tasks that wait for unfinished requests
    get `RuntimeClosed`.
    """
    # A separate limiter for opening and closing: the 40 threads of the default one are shared with
    # the whole process, and may be used up.
    limiter = anyio.CapacityLimiter(1)
    runtime = await anyio.to_thread.run_sync(
        importlib.import_module, "ajit._runtime.runtime", limiter=limiter
    )
    async with runtime.open_here(settings, subscribers, arguments, limiter) as opened:
        yield opened
