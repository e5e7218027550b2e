"""Opening and closing of one runtime: what it is made of, in which order, and undone in the other.

`open_here` does both in one task, which is the runtime's own (`ajit._runtime.open`).
"""

from __future__ import annotations

import importlib
import os
import platform
import time
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import anyio

from ajit._cache.files.trust import load_trust
from ajit._core.event import Emitter, Stamp
from ajit._core.spec import is_cpu_arch
from ajit._resolve.flight import flights
from ajit._resolve.resolver import Resolver
from ajit._resolve.services import look_ahead, open_services, shielded
from ajit._resolve.upkeep import Upkeep
from ajit._runtime.board import Board
from ajit._runtime.builds import Builds
from ajit._runtime.device_watch import DeviceWatch
from ajit._runtime.history import History
from ajit._runtime.kernels import Kernels
from ajit._runtime.log import LogLines
from ajit._runtime.recorder import Recorder, close_recorder, keep_counts
from ajit._runtime.runtime import Runtime
from ajit._runtime.terms import checked_subscribers
from ajit._runtime.trace import Trace
from ajit._system.in_thread import run_in_thread
from ajit._system.scarce import named
from ajit._system.shared_tasks import SharedTasks
from ajit._system.warn import warn_only
from ajit._system.weakly import weakly
from ajit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from anyio.abc import TaskGroup

    from ajit._core.events import Subscriber
    from ajit._core.seal import Trust
    from ajit._gpu.device import Device
    from ajit._resolve.services import Services

__all__ = ["open_here"]


@asynccontextmanager
async def open_here(
    settings: Settings | None,
    subscribers: Iterable[Subscriber],
    arguments: dict[str, Any],
    limiter: anyio.CapacityLimiter,
) -> AsyncIterator[Runtime]:
    """Open a runtime and close it, in one task; blocking calls run in threads under the limiter."""
    if settings is not None and arguments:
        raise TypeError("give settings or arguments, not both")
    first = checked_subscribers(subscribers)
    read = partial(_read_settings, settings, arguments)
    in_force, trust = await run_in_thread(read, limiter=limiter)
    emitter = Emitter(_report_subscriber, _stamper())
    for subscriber in first:
        emitter.subscribe(subscriber)
    try:
        async with AsyncExitStack() as stack:
            lines = LogLines(limiter)
            emitter.subscribe(lines)
            stack.push_async_callback(shielded, lines.aclose)
            trace = _open_trace(stack, in_force, emitter, limiter)
            device = await _open_device(stack, in_force, limiter)
            if trace is not None and device is not None:
                device._watch_tickets(trace.take_ticket)  # noqa: SLF001  # a runtime's own
            services = await open_services(stack, in_force, trust, emitter, limiter)
            recorder = _open_recorder(stack, services)
            board = _open_board(stack, services, limiter)
            history = _open_history(stack, services)
            group = await stack.enter_async_context(anyio.create_task_group())
            runtime = _runtime_of(services, device, group, lines, recorder)
            if trace is not None:
                group.start_soon(trace.run, runtime.statistics)
            if history is not None:
                group.start_soon(history.run)
            if board is not None:
                group.start_soon(board.run, ref(runtime._kernels))  # noqa: SLF001  # its other half
            stack.push_async_callback(shielded, runtime._warmer.aclose)  # noqa: SLF001  # its other half
            try:
                yield runtime
            finally:
                runtime._refuse_requests()  # noqa: SLF001  # its other half
                services.begin_closing()  # from here on no call takes long
                group.cancel_scope.cancel()
    except Exception as exc:  # noqa: BLE001  # raised, by its name
        raise named(exc)  # noqa: B904 - it has its own cause


def _runtime_of(
    services: Services,
    device: Device | None,
    group: TaskGroup,
    lines: LogLines,
    recorder: Recorder | None,
) -> Runtime:
    """Start what goes on beside requests, and return the runtime over it all."""
    group.start_soon(Upkeep(services).run)
    if device is not None:
        group.start_soon(DeviceWatch(device, services.emitter).run)
    if device is None or not is_cpu_arch(device.arch):
        group.start_soon(look_ahead, services)
    if recorder is not None:
        group.start_soon(keep_counts, services, recorder)
    tasks = SharedTasks(group, cancel_abandoned=services.settings.abandoned == "cancel")
    resolver = Resolver(services, flights, tasks)
    kernels = Kernels(resolver, device, tasks, lines.failed_behind, recorder)
    builds = kernels.builds = Builds(resolver, tasks, kernels.counts, weakly(kernels.note_build))
    return Runtime.make(kernels, builds)


def _open_trace(
    stack: AsyncExitStack, settings: Settings, emitter: Emitter, limiter: anyio.CapacityLimiter
) -> Trace | None:
    if not settings.trace:
        return None
    trace = Trace(settings.trace)
    emitter.subscribe(trace)
    close = partial(run_in_thread, trace.close, limiter=limiter)
    stack.push_async_callback(shielded, close)
    return trace


def _open_board(
    stack: AsyncExitStack, services: Services, limiter: anyio.CapacityLimiter
) -> Board | None:
    if services.settings.board == "off":
        return None
    board = Board(services)
    services.emitter.subscribe(board)
    stack.push_async_callback(shielded, partial(run_in_thread, board.close, limiter=limiter))
    return board


def _open_history(stack: AsyncExitStack, services: Services) -> History | None:
    if not services.settings.history_limit_bytes:
        return None
    history = History(services)
    services.emitter.subscribe(history)
    stack.push_async_callback(shielded, history.aclose)
    return history


def _open_recorder(stack: AsyncExitStack, services: Services) -> Recorder | None:
    settings = services.settings
    if not settings.record:
        return None
    unsafe = settings.allow_unsafe_cache
    recorder = Recorder(settings.record, allow_unsafe=unsafe, trust=services.trust)
    stack.push_async_callback(shielded, partial(close_recorder, services, recorder))
    return recorder


def _read_settings(settings: Settings | None, arguments: dict[str, Any]) -> tuple[Settings, Trust]:
    """Return the settings and what they trust. Reads files: keys, and limits of cgroups."""
    if settings is None:
        settings = Settings(**arguments)
    return settings, load_trust(settings)


async def _open_device(
    stack: AsyncExitStack, settings: Settings, limiter: anyio.CapacityLimiter
) -> Device | None:
    if settings.device == "none":
        return None
    # Imported here, so that a process that only compiles (`ajit compile`) never loads the driver
    # layer; and in a thread, because loading takes tens of milliseconds.
    load = partial(importlib.import_module, "ajit._gpu.device")
    layer = await run_in_thread(load, limiter=limiter)
    device: Device = await stack.enter_async_context(layer.open_device(settings))
    return device


def _stamper() -> Callable[[], Stamp]:
    pid, host = os.getpid(), platform.node()
    return lambda: Stamp(time.time(), time.monotonic(), pid, host)


def _report_subscriber(subscriber: Callable[..., object], error: Exception) -> None:
    warn_only(f"subscriber {subscriber!r} raised {type(error).__name__}: {error}", stacklevel=2)
