"""Opening a runtime without blocking the event loop, and the task that it lives in.

The modules of a runtime take 0.1 to 0.2 s to import. A server that opens one at its start, or with
its first request, has other tasks that would wait. So this module has the public names and imports
next to nothing; everything else is imported in a thread.

A runtime belongs to no task of its user: a task of its own opens it, owns its task group, and
closes it (`ajit._system.own_task`). So it may be opened by one task and closed by another.
"""

from __future__ import annotations

import importlib
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio

from ajit._system.in_thread import run_in_thread
from ajit._system.own_task import OwnTask
from ajit._system.patched import check_unpatched
from ajit._system.threads import kept_threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from typing import Unpack

    from ajit._core.events import Subscriber
    from ajit._runtime.runtime import Runtime
    from ajit.settings import Settings, SettingsOptions

__all__ = ["open_runtime", "start_runtime"]


async def start_runtime(
    settings: Settings | None = None,
    *,
    subscribers: Iterable[Subscriber] = (),
    **arguments: Unpack[SettingsOptions],
) -> Runtime:
    """Open a runtime in this event loop, to be closed by `Runtime.aclose`, from any of its tasks.

    For code that starts at one place and stops at another: an engine with ``start()`` and
    ``stop()``, a fixture, the cells of a notebook. Where both are in one function, `open_runtime`
    is simpler.

    Args:
        settings: Settings made beforehand; None makes them from the arguments and the environment.
        subscribers: Functions that are called with every event from the first one.
        **arguments: Any setting by name, such as ``device="auto"`` or ``cache_dir=...``.

    Raises:
        PatchedThreads: gevent or eventlet has replaced this process's threads; nothing was started.
        SettingsError: A setting cannot be used; nothing was started.
        CacheError: It is a file, or other users could put code into the cache; nothing is open.
        LimitReached: This process may have no more threads or files; nothing is open.
        NoDevice: There is no GPU here, and no other device was chosen; nothing is open.

    Cancelling waits until what was opened by then is closed again: nothing is open afterwards.

    A runtime that was not closed is closed when its event loop ends, with an `AjitWarning`:
    `asyncio.run` cancels all tasks at its end, the runtime's own among them, and trio does the
    same. A loop that is closed by hand, without that, leaves it open.
    """
    return await _start(settings, subscribers, arguments)


@asynccontextmanager
async def open_runtime(
    settings: Settings | None = None,
    *,
    subscribers: Iterable[Subscriber] = (),
    **arguments: Unpack[SettingsOptions],
) -> AsyncIterator[Runtime]:
    """Open a runtime in this event loop, and close it at the end of the block.

    Args:
        settings: Settings made beforehand; None makes them from the arguments and the environment.
        subscribers: Functions that are called with every event from the first one.
        **arguments: Any setting by name, such as ``device="auto"`` or ``cache_dir=...``.

    Raises:
        PatchedThreads: gevent or eventlet has replaced this process's threads; nothing was started.
        SettingsError: A setting cannot be used; nothing was started.
        CacheError: It is a file, or other users could put code into the cache; nothing is open.
        LimitReached: This process may have no more threads or files; nothing is open.
        NoDevice: There is no GPU here, and no other device was chosen; nothing is open.

    Leaving the context, also by cancellation, ends compiles and compilers, releases leases, waits
    for the device work in flight and ends the CUDA thread; then the cancellation or the error of
    the block goes on. Tasks that wait for unfinished requests get `RuntimeClosed`.

    It may be entered and left by different tasks, and in the block `Runtime.aclose` may be called.
    """
    runtime = await _start(settings, subscribers, arguments)
    runtime._own.warns = False  # noqa: SLF001  # its other half; the end of the block closes it
    try:
        yield runtime
    except BaseException as exc:
        try:
            await runtime._close_completely()  # noqa: SLF001  # its other half
        except Exception as failure:  # noqa: BLE001  # a second failure is a note
            exc.add_note(f"closing the runtime failed as well: {_told(failure)}")
        raise
    await runtime._close_completely()  # noqa: SLF001  # its other half


async def _start(
    settings: Settings | None, subscribers: Iterable[Subscriber], arguments: SettingsOptions
) -> Runtime:
    check_unpatched()
    opening = partial(_opened, settings, subscribers, arguments)
    own = await OwnTask.open(opening, name="an ajit runtime")
    own.value._own = own  # noqa: SLF001  # its other half
    return own.value


@asynccontextmanager
async def _opened(
    settings: Settings | None, subscribers: Iterable[Subscriber], arguments: SettingsOptions
) -> AsyncIterator[Runtime]:
    # A separate limiter for opening and closing: the 40 threads of the default one are shared with
    # the whole process, and may be used up.
    limiter = anyio.CapacityLimiter(1)
    async with kept_threads():
        try:
            opening = await run_in_thread(
                importlib.import_module, "ajit._runtime.opening", limiter=limiter
            )
        except (RuntimeError, OSError) as exc:
            from ajit._system.scarce import named  # noqa: PLC0415 - not in the loop's thread

            raise named(exc)  # noqa: B904 - it has its own cause
        async with opening.open_here(settings, subscribers, arguments, limiter) as opened:
            yield opened


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
