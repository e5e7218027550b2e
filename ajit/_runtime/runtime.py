"""The runtime: everything that lives between ``open_runtime()`` and its end.

A task of its own (`ajit._runtime.open`) opens and closes it (`ajit._runtime.opening`), so that any
task may ask for that. It owns one task group. Every resolution and load is a task in that group and
never in a caller's scope, so a cancelled caller only leaves. It also owns the compile pool and the
device. Closing goes in this order: refuse new requests; cancel the tasks, which kills their
compiles and releases their leases; end the compile workers; close the device, which first waits for
the tickets in flight; end the idle threads. After that no thread, process, lock or temporary file
is left.

One runtime belongs to one event loop. If a process has several loops in several threads, each
opens its own runtime. They share the flights, so a key is still compiled once.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import anyio

from ajit._core.factory import FactoryMade
from ajit._core.spec import Spec
from ajit._runtime.builds import Builds
from ajit._runtime.kernels import Kernels
from ajit._runtime.terms import (
    check_build,
    check_fallback,
    check_spec,
    check_subscriber,
    check_timeout,
    checked_work,
)
from ajit._runtime.warmer import Warmer
from ajit._system.loop import LoopHandle
from ajit._system.own_task import OwnTask
from ajit._system.weakly import weakly
from ajit.errors import (
    ForkedRuntime,
    RuntimeClosed,
    UsageError,
    WouldBlock,
    WrongLoop,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ajit._core.build import Build
    from ajit._core.entry import Artifact
    from ajit._core.events import Subscriber, WarmupProgress
    from ajit._gpu.device import Device
    from ajit._gpu.kernel import Kernel
    from ajit._gpu.module import LoadedModule
    from ajit._resolve.late import FreezeMode
    from ajit._resolve.request import Resolution
    from ajit._runtime.builds import Bundle
    from ajit._runtime.statistics import RuntimeStatistics
    from ajit._runtime.warmup import WarmupReport
    from ajit._runtime.work import Work

__all__ = ["Runtime"]


class Runtime(metaclass=FactoryMade, factory="ajit.open_runtime()"):
    """An open runtime. Get one from `ajit.open_runtime`, or from `ajit.start_runtime`.

    Its coroutines may be awaited by any task of the event loop that opened it. None of them blocks
    the loop. All raise `RuntimeClosed`, `ForkedRuntime` or `WrongLoop` where the runtime cannot be
    used; then nothing was started.

    Attributes:
        settings: The settings that are in force.
    """

    _own: OwnTask[Runtime]
    """What holds it open; set by who opens it."""

    def __init__(self, kernels: Kernels, builds: Builds) -> None:
        self.settings = kernels.services.settings
        self._kernels = kernels
        self._builds = builds
        builds.check_usable = weakly(self._check_usable)
        self._emitter = kernels.services.emitter
        self._loop = LoopHandle.current()
        self._state = "open"
        self._counts = kernels.counts
        # The hot path is one look into this dictionary, so closing and forking empty it.
        self._ready = kernels.ready
        self._recorder = kernels.recorder
        self._warmer = Warmer(kernels, weakly(self._check_usable))
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
                if self._recorder is not None:
                    self._recorder.again(spec)
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
        return await self._module(spec, None, recache=recache)

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

    async def build(
        self, build: Build, *, recache: bool = False, background: bool = False
    ) -> Bundle:
        """Return the files that a build makes, from the cache, another process, or by running it.

        Args:
            build: What to run, and what is kept of it.
            recache: Run it again even if it is cached, and replace the entry.
            background: Whether no request waits for it: then it starts after all that are waited
                for, until a request asks for the same build without this.

        Raises:
            SpecError: The build is not well formed; nothing was started.
            CompileError: The command failed, or the function raised; every waiter gets this error.
            CompilerError: It could not be run to its end; trying again is safe.
            CompileForbidden: It is not cached, and the runtime is frozen; nothing was run.

        Cancelling only ends this wait: the build goes on and is cached, unless the setting
        ``abandoned`` says otherwise.
        """
        self._check_usable()
        check_build(build)
        return await self._builds.build(build, recache=recache, background=background)

    async def resolve(
        self, spec: Spec, *, arch: str | None = None, recache: bool = False
    ) -> Resolution:
        """As `compile`; also returns the tier, the time taken and the process waited for."""
        self._check_usable()
        check_spec(spec)
        begun = time.monotonic()
        resolution = await self._kernels.resolve(spec, arch, recache=recache)
        self._kernels.note_use(spec, arch, begun)
        return resolution

    async def warmup(
        self,
        specs: Iterable[Spec | Work] | Work,
        *,
        on_progress: Callable[[WarmupProgress], None] | None = None,
    ) -> WarmupReport:
        """Make kernels ready in the background of requests; return what was done.

        With a device the kernels are loaded, without one they are compiled. Run it in a separate
        task to serve requests meanwhile. A kernel that fails is reported and does not stop the
        others.

        Args:
            specs: What to make ready: specs, records (`ajit.replay`), families (`ajit.families`).
                If these are for several ranks, each rank does a share, waits for those of the
                others, and then has everything; what a dead rank should have done, the others do.
            on_progress: Called in the event loop after each kernel; must not block.

        Raises:
            RecordError: A record cannot be read; nothing was started.
            SpecError: Something is neither of these; nothing was started.

        Cancelling stops the queue; what was made ready stays ready.
        """
        self._check_usable()
        return await self._warmer.warm_up(checked_work(specs), on_progress)

    def freeze(self, mode: FreezeMode = "warn") -> AbstractContextManager[None]:
        """Say that everything is warm: from now on a compile is late, and is told or refused.

        It holds for own kernels, and for those of the adapters in this process. With the setting
        ``mode=frozen`` all of them are refused already, and ``warn`` does not loosen that.

        Args:
            mode: ``warn`` lets a late compile go on, with the event `events.CompiledLate` and a
                line in the log: its name, the nearest cached kernel, what differs, and where it was
                asked for. ``error`` refuses it: `CompileForbidden`, with the same fields.

        Returns:
            A context, for a block that is to be frozen: its end thaws the runtime. Without one, it
            stays frozen until `thaw`.

        Raises:
            UsageError: There is no such mode; nothing was changed.
        """
        self._check_usable()
        if mode not in ("warn", "error"):
            raise UsageError(f"freeze takes 'warn' or 'error', got {mode!r:.80}")
        self._kernels.services.freeze.set(mode)
        return _Frozen(self)

    def thaw(self) -> None:
        """Let it compile again.

        Raises:
            UsageError: The setting ``mode=frozen`` freezes it for its whole life; it stays so.
        """
        if self._kernels.services.settings.mode == "frozen":
            raise UsageError(
                "the runtime cannot be thawed: the setting mode=frozen (AJIT_MODE) freezes it for "
                "its whole life; use freeze() instead of that setting"
            )
        self._kernels.services.freeze.set(None)

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
            module = await self._kernels.module(spec, recache=recache)
            self._kernels.note_use(spec, None, begun)
            return module
        waited = time.monotonic() - begun
        raise TimeoutError(self._kernels.progress(spec, waited, recache=recache))

    # --- life ---

    async def aclose(self) -> None:
        """Close the runtime. Any task of its event loop may, as often as it likes.

        New requests get `RuntimeClosed` from now on, and so do tasks that wait for unfinished ones.
        Compiles and compilers are ended, leases released; work of the device that was submitted
        before is waited for, and the CUDA thread ends. Later and simultaneous calls wait for the
        same end, and return.

        In a forked child this does nothing: everything is the parent's.

        Raises:
            WrongLoop: The runtime was opened in another event loop; nothing was done.
            Exception: Closing failed. The runtime is closed as far as possible.

        Cancelling only ends this wait: the runtime goes on closing in a task of its own.
        """
        if self._closes_here():
            await self._own.aclose()

    async def _close_completely(self) -> None:
        """As `aclose`, but a cancellation waits until everything is closed."""
        if self._closes_here():
            await self._own.aclose_uncancelled()

    def _closes_here(self) -> bool:
        if self._state == "forked":
            return False
        self._check_loop()
        self._refuse_requests()
        return True

    def _refuse_requests(self) -> None:
        self._state = "closed"
        self._ready.clear()

    def _check_usable(self) -> None:
        if self._state == "forked":
            raise ForkedRuntime(
                "this runtime was opened before a fork; open one in the child process"
            )
        self._check_loop()
        if self._state != "open":
            raise RuntimeClosed(f"this runtime is {self._state}")

    def _check_loop(self) -> None:
        if self._loop.thread_id != threading.get_ident() or not self._in_its_loop():
            raise WrongLoop("this runtime was opened in another event loop; open one in each loop")

    def _in_its_loop(self) -> bool:
        try:
            return self._loop == LoopHandle.current()
        except anyio.NoEventLoopError:  # after the loop, or before the next one
            return False

    def _poison(self) -> None:
        self._state = "forked"
        self._ready = {}


class _Frozen(AbstractContextManager[None]):
    """The block of a frozen runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __exit__(self, *_: object) -> None:
        self._runtime._kernels.services.freeze.set(None)  # noqa: SLF001  # its other half


_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _poison_after_fork() -> None:
    for runtime in list(_runtimes):
        runtime._poison()  # noqa: SLF001  # its other half


os.register_at_fork(after_in_child=_poison_after_fork)
