"""The runtime: everything that lives between ``open_runtime()`` and its end.

It owns one task group. Every resolution and load is a task in that group and never in a caller's
scope, so a cancelled caller only leaves. It also owns the compile pool and the device. Closing
goes in this order: refuse new requests; cancel the tasks, which kills their compiles and releases
their leases; end the compile workers; close the device, which first waits for the tickets in
flight. After that no thread, process, lock or temporary file is left.

One runtime belongs to one event loop. If a process has several loops in several threads, each
opens its own runtime. They share the flights, so a key is still compiled once.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
import weakref
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from ajit._cache.files.secret import load_secret
from ajit._core.events import Emitter
from ajit._core.factory import FactoryMade
from ajit._core.spec import Spec, is_cpu_arch
from ajit._resolve.flight import flights
from ajit._resolve.resolver import Resolver
from ajit._resolve.services import keep_cache_small, look_ahead, open_services, shielded
from ajit._runtime.kernels import Kernels
from ajit._runtime.log import LogLines
from ajit._runtime.terms import (
    check_fallback,
    check_spec,
    check_subscriber,
    check_timeout,
    checked_specs,
    checked_subscribers,
)
from ajit._runtime.warmup import run_warmup
from ajit._system.loop import LoopHandle
from ajit._system.shared_tasks import SharedTasks
from ajit._system.warn import warn_only
from ajit.errors import (
    ForkedRuntime,
    RuntimeClosed,
    WouldBlock,
    WrongLoop,
)
from ajit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from anyio.abc import TaskGroup

    from ajit._core.entry import Artifact
    from ajit._core.events import Subscriber, WarmupProgress
    from ajit._gpu.device import Device
    from ajit._gpu.kernel import Kernel
    from ajit._gpu.module import LoadedModule
    from ajit._resolve.request import Resolution
    from ajit._resolve.services import Services
    from ajit._runtime.statistics import RuntimeStatistics
    from ajit._runtime.warmup import Ready, WarmupReport

__all__ = ["Runtime", "open_here"]


class Runtime(metaclass=FactoryMade, factory="ajit.open_runtime()"):
    """An open runtime. Get one from `ajit.open_runtime`.

    Its coroutines may be awaited by any task of the event loop that opened it. None of them blocks
    the loop. All raise `RuntimeClosed`, `ForkedRuntime` or `WrongLoop` where the runtime cannot be
    used; then nothing was started.

    Attributes:
        settings: The settings that are in force.
    """

    def __init__(self, kernels: Kernels) -> None:
        self.settings = kernels.services.settings
        self._kernels = kernels
        self._emitter = kernels.services.emitter
        self._loop = LoopHandle.current()
        self._state = "open"
        self._counts = kernels.counts
        # The hot path is one look into this dictionary, so closing and forking empty it.
        self._ready = kernels.ready
        _runtimes.add(self)

    # --- what users call ---

    async def kernel(
        self,
        spec: Spec,
        *,
        entry: str | None = None,
        fallback: Spec | None = None,
        timeout: float | None = None,
        recache: bool = False,
    ) -> Kernel:
        """Return a loaded kernel, from any tier.

        A kernel that is loaded already costs one dictionary look-up and no task switch; one whose
        module was unloaded (`LoadedModule.unload`) is loaded anew. Otherwise
        this waits for the disk, for another process that compiles the same key, or for the
        compiler, which may be seconds; the event loop is never blocked.

        Args:
            spec: What to compile; its ``arch`` must be the device's, or None.
            entry: Which entry point, if the spec has several.
            fallback: A spec to use meanwhile: if it is loaded and the wanted one is not, its kernel
                is returned at once, with ``stands_in_for`` set, and the wanted one is made ready in
                the background. It has to take arguments of the same number, kinds and sizes. It
                serves for as long as the wanted kernel fails: each request begins an attempt,
                unless one is under way, which within the setting ``failure_seconds`` only finds
                the compiler's recorded error. A failed attempt is a warning in the log, at most
                every 10 s for a kernel, and is counted in ``statistics().failed``; each request
                is an event, `events.FallbackUsed`, whose key is "" until it is known.
            timeout: Seconds to wait at most.
            recache: Compile again even if it is loaded or cached, and replace both.

        Raises:
            SpecError: The spec is not well formed, or the fallback is none for it; nothing was
                started.
            CompileError: The compiler rejected the source; every waiter gets this error.
            CompilerError: No compiler, or it could not do its work; trying again is safe.
            CompileForbidden: It is not cached, and the runtime is frozen; nothing was compiled.
            LoadError: The device did not take the artifact, which stays in the cache.
            CaptureMiss: It is not loaded, and the task is in a block of `Device.capture`; nothing
                was started, and no `fallback` is used.
            NoDevice: The runtime has no device.
            TimeoutError: `timeout` has passed; the message has the key, the phase, and the process
                that it waits for. The rest is as with cancelling.

        Cancelling only ends this wait: the compile goes on and is cached, unless the setting
        ``abandoned`` says otherwise.
        """
        if entry is None and not recache and self._loop.thread_id == threading.get_ident():
            try:
                kernel = self._ready.get(spec)
            except TypeError:  # a list of specs has no hash; it is refused below
                kernel = None
            if kernel is not None:
                self._counts.memory += 1
                return kernel
        # First of all: a forked child has no event loop that could set a deadline.
        self._check_usable()
        check_spec(spec)
        point = spec.entry_point(entry)
        if fallback is not None:
            check_fallback(spec, fallback, entry)
            stand_in = self._kernels.stand_in(spec, fallback, entry)
            if stand_in is not None:
                return stand_in
        kernel = (await self._module(spec, timeout, recache=recache)).kernel(point.name)
        # The runtime may have closed between the end of the work and this task's turn.
        if entry is None and self._state == "open":
            self._kernels.keep_ready(spec, kernel)
        return kernel

    def kernel_nowait(self, spec: Spec, *, entry: str | None = None) -> Kernel:
        """Return a kernel that is loaded already.

        Raises:
            WouldBlock: It is not; nothing was started.
        """
        self._check_usable()
        check_spec(spec)
        point = spec.entry_point(entry)
        module = self._kernels.loaded(spec)
        if module is None:
            raise WouldBlock(f"kernel {point.name!r} of spec {spec.name!r} is not loaded")
        self._counts.memory += 1
        return module.kernel(point.name)

    async def module(self, spec: Spec, *, recache: bool = False) -> LoadedModule:
        """Return a loaded module with all entry points of a spec. As `kernel` in all else."""
        self._check_usable()
        check_spec(spec)
        return await self._kernels.module(spec, recache=recache)

    async def compile(
        self, spec: Spec, *, arch: str | None = None, recache: bool = False
    ) -> Artifact:
        """Return the compiled artifact of a spec. Needs no device.

        Args:
            spec: What to compile.
            arch: For which architecture; None takes the spec's, else the device's.
            recache: Compile again even if it is cached, and replace the entry.

        Raises:
            SpecError: The spec is not well formed, or names no arch and there is no device.
            CompileError: The compiler rejected the source.
            CompilerError: No compiler, or it could not do its work; trying again is safe.

        Cancelling only ends this wait: the compile goes on and is cached.
        """
        return (await self.resolve(spec, arch=arch, recache=recache)).artifact

    async def resolve(
        self, spec: Spec, *, arch: str | None = None, recache: bool = False
    ) -> Resolution:
        """As `compile`; also returns the tier, the time taken and the process waited for."""
        self._check_usable()
        check_spec(spec)
        return await self._kernels.resolve(spec, arch, recache=recache)

    async def warmup(
        self,
        specs: Iterable[Spec],
        *,
        on_progress: Callable[[WarmupProgress], None] | None = None,
    ) -> WarmupReport:
        """Make specs ready in the background of requests; return what was done.

        With a device the kernels are loaded, without one they are compiled. Run it in a separate
        task to serve requests meanwhile. A spec that fails is reported and does not stop the
        others.

        Args:
            specs: What to make ready.
            on_progress: Called in the event loop after each spec; must not block.

        Cancelling stops the queue; what was made ready stays ready.
        """
        self._check_usable()
        return await run_warmup(
            checked_specs(specs),
            self._warm,
            at_once=max(1, self.settings.compile_slots),
            on_progress=partial(self._progress, on_progress),
        )

    @property
    def device(self) -> Device:
        """The device.

        Raises:
            NoDevice: The runtime was opened without one.
        """
        self._check_usable()
        return self._kernels.device

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call a function with every event, in the event loop. Returns a function that stops it.

        A subscriber must not block; one that raises is reported by an `AjitWarning`.

        Raises:
            TypeError: It cannot be called.
        """
        check_subscriber(subscriber)
        return self._emitter.subscribe(subscriber)

    def statistics(self) -> RuntimeStatistics:
        """Return what the runtime has done and is doing."""
        return self._kernels.statistics()

    def __repr__(self) -> str:
        return f"<Runtime {self._state} {self._kernels!r}>"

    async def _module(self, spec: Spec, timeout: float | None, *, recache: bool) -> LoadedModule:
        check_timeout(timeout)
        begun = time.monotonic()
        with anyio.move_on_after(timeout):
            return await self._kernels.module(spec, recache=recache)
        waited = time.monotonic() - begun
        raise TimeoutError(self._kernels.progress(spec, waited, recache=recache))

    # --- warm-up ---

    async def _warm(self, spec: Spec, on_wait: Callable[[], None]) -> Ready:
        self._check_usable()
        return await self._kernels.warm(spec, on_wait)

    def _progress(
        self, on_progress: Callable[[WarmupProgress], None] | None, event: WarmupProgress
    ) -> None:
        if on_progress is not None:
            try:
                on_progress(event)
            except Exception as exc:  # noqa: BLE001  # as for a subscriber
                _report_subscriber(on_progress, exc)
        self._emitter.emit(event)

    # --- life ---

    def _refuse_requests(self) -> None:
        self._state = "closed"
        self._ready.clear()

    def _check_usable(self) -> None:
        if self._state == "forked":
            raise ForkedRuntime(
                "this runtime was opened before a fork; open one in the child process"
            )
        if self._loop.thread_id != threading.get_ident() or not self._in_its_loop():
            raise WrongLoop("this runtime was opened in another event loop; open one in each loop")
        if self._state != "open":
            raise RuntimeClosed(f"this runtime is {self._state}")

    def _in_its_loop(self) -> bool:
        try:
            return self._loop == LoopHandle.current()
        except anyio.NoEventLoopError:  # after the loop, or before the next one
            return False

    def _poison(self) -> None:
        self._state = "forked"
        self._ready = {}


@asynccontextmanager
async def open_here(
    settings: Settings | None,
    subscribers: Iterable[Subscriber],
    arguments: dict[str, Any],
    limiter: anyio.CapacityLimiter,
) -> AsyncIterator[Runtime]:
    """Implement `ajit.open_runtime`; blocking calls run in threads under the limiter."""
    if settings is not None and arguments:
        raise TypeError("give settings or arguments, not both")
    first = checked_subscribers(subscribers)
    read = partial(_read_settings, settings, arguments)
    in_force, secret = await anyio.to_thread.run_sync(read, limiter=limiter)
    emitter = Emitter(_report_subscriber)
    for subscriber in first:
        emitter.subscribe(subscriber)
    raised: BaseException | None = None
    try:
        async with AsyncExitStack() as stack:
            lines = LogLines(limiter)
            emitter.subscribe(lines)
            stack.push_async_callback(shielded, lines.aclose)
            device = await _open_device(stack, in_force, limiter)
            services = await open_services(stack, in_force, secret, emitter, limiter)
            group = await stack.enter_async_context(anyio.create_task_group())
            runtime = _runtime_of(services, device, group, lines)
            try:
                yield runtime
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as exc:  # noqa: BLE001  # raised below
                # Raised below, outside of the task groups, which would wrap it in an
                # ExceptionGroup that callers do not expect.
                raised = exc
            finally:
                runtime._refuse_requests()  # noqa: SLF001  # its other half
                group.cancel_scope.cancel()
    except Exception as exc:
        if raised is None:
            raise
        raised.add_note(f"closing the runtime failed as well: {type(exc).__name__}: {exc}")
    if raised is not None:
        raise raised


def _runtime_of(
    services: Services, device: Device | None, group: TaskGroup, lines: LogLines
) -> Runtime:
    """Start what goes on beside requests, and return the runtime over it all."""
    group.start_soon(keep_cache_small, services)
    if device is None or not is_cpu_arch(device.arch):
        group.start_soon(look_ahead, services)
    tasks = SharedTasks(group, cancel_abandoned=services.settings.abandoned == "cancel")
    resolver = Resolver(services, flights, tasks)
    return Runtime.make(Kernels(resolver, device, tasks, lines.failed_behind))


def _read_settings(
    settings: Settings | None, arguments: dict[str, Any]
) -> tuple[Settings, bytes | None]:
    """Return the settings and their secret. Reads files: the secret's, and limits of cgroups."""
    if settings is None:
        settings = Settings(**arguments)
    return settings, load_secret(settings)


async def _open_device(
    stack: AsyncExitStack, settings: Settings, limiter: anyio.CapacityLimiter
) -> Device | None:
    if settings.device == "none":
        return None
    # Imported here, so that a process that only compiles (`ajit compile`) never loads the driver
    # layer; and in a thread, because loading takes tens of milliseconds.
    load = partial(importlib.import_module, "ajit._gpu.device")
    layer = await anyio.to_thread.run_sync(load, limiter=limiter)
    device: Device = await stack.enter_async_context(layer.open_device(settings))
    return device


_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _poison_after_fork() -> None:
    for runtime in list(_runtimes):
        runtime._poison()  # noqa: SLF001  # its other half


def _report_subscriber(subscriber: Callable[..., object], error: Exception) -> None:
    warn_only(f"subscriber {subscriber!r} raised {type(error).__name__}: {error}", stacklevel=2)


os.register_at_fork(after_in_child=_poison_after_fork)
