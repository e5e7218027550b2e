"""The kernels of one runtime: what is loaded, and how one spec gets loaded.

Three steps are shared tasks in the runtime's task group (`ajit._system.shared_tasks`): resolving a
spec, loading it, and loading the module of a key. Specs that differ only in their labels share that
module. A request promotes the work that a warm-up has begun for the same spec.

Belongs to the runtime's event loop. The runtime itself checks whether it is open.
"""

from __future__ import annotations

import os
import time
import weakref
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ajit._core.events import FallbackUsed, ModuleLoaded
from ajit._core.spec import is_cpu_arch, validate_arch
from ajit._gpu.capturing import refuse_in_capture
from ajit._gpu.inner import inner
from ajit._resolve.late import caller_stack
from ajit._resolve.request import Urgency
from ajit._runtime.statistics import Counts, RuntimeStatistics
from ajit._runtime.work import Ready
from ajit.errors import AjitError, NoDevice, SpecError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from ajit._core.build import Build
    from ajit._core.entry import Artifact
    from ajit._core.events import Tier
    from ajit._core.spec import EntryPoint, Spec
    from ajit._gpu.device import Device
    from ajit._gpu.kernel import Kernel
    from ajit._gpu.module import LoadedModule
    from ajit._resolve.request import Resolution
    from ajit._resolve.resolver import Resolver
    from ajit._resolve.services import Services
    from ajit._runtime.builds import Builds
    from ajit._runtime.recorder import Recorder
    from ajit._system.shared_tasks import SharedTasks

__all__ = ["Kernels"]

DEVICE_HINT = (
    "this runtime was opened with device='none': it compiles, but has nothing to load or launch on"
)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A module on the device, and where its artifact came from.

    Without the artifact: the device has its code, and this object lives as long as the server.
    """

    module: LoadedModule
    base: str
    tier: Tier


class Kernels:
    """Finds, compiles and loads what specs ask for, one spec at a time.

    Args:
        resolver: Finds artifacts.
        device: What to load on, if anything.
        tasks: Where the work runs.
        log_failed_behind: Called where a fallback serves and the wanted kernel failed: with its
            name, its key or "", the fallback's name, and the error.
        recorder: Writes down what is used, if anything does.

    Attributes:
        counts: How requests ended.
        ready: By spec, the kernel of its one entry point, for `Runtime.kernel` to look at first.
        builds: The builds of the same runtime; set by who opens it.
    """

    builds: Builds

    def __init__(
        self,
        resolver: Resolver,
        device: Device | None,
        tasks: SharedTasks,
        log_failed_behind: Callable[[str, str, str, AjitError], None],
        recorder: Recorder | None = None,
    ) -> None:
        self.recorder = recorder
        self._resolver = resolver
        self._device = device
        self._tasks = tasks
        self.counts = Counts()
        self.ready: dict[Spec, Kernel] = {}
        self._log_failed_behind = log_failed_behind
        # By spec that failed while its fallback served: its key, or "" if there was none yet.
        self._failed_behind: dict[Spec, str] = {}
        self._modules: dict[Spec, _Loaded] = {}
        self._modules_by_key: dict[tuple[str, tuple[EntryPoint, ...]], LoadedModule] = {}

    @property
    def services(self) -> Services:
        """What specs are resolved with."""
        return self._resolver.services

    @property
    def arch(self) -> str:
        """The device's; "" if there is none."""
        return "" if self._device is None else self._device.arch

    @property
    def device(self) -> Device:
        """The device.

        Raises:
            NoDevice: There is none.
        """
        if self._device is None:
            raise NoDevice(operation="use a device", detail=DEVICE_HINT)
        return self._device

    def loaded(self, spec: Spec) -> LoadedModule | None:
        """Return the module of a spec if it is loaded, and was not unloaded by hand since."""
        loaded = self._modules.get(spec)
        return None if loaded is None or loaded.module.unloaded else loaded.module

    def keep_ready(self, spec: Spec, kernel: Kernel) -> None:
        """Keep a kernel for the hot path."""
        self.ready[spec] = kernel
        if kernel.module.unloaded:  # by another thread, before it was there to be dropped
            self.ready.pop(spec, None)

    async def module(self, spec: Spec, *, recache: bool) -> LoadedModule:
        """Return the loaded module of a spec, from any tier.

        Raises:
            AjitError: As `Runtime.module`.

        Cancelling only leaves.
        """
        loaded = self.loaded(spec)
        if loaded is not None and not recache:
            self.counts.memory += 1
            return loaded
        return (await self._tasks.join(*self._loading(spec, self._asked(), recache=recache))).module

    async def resolve(
        self, spec: Spec, arch: str | None, *, recache: bool = False, urgency: Urgency | None = None
    ) -> Resolution:
        """Return the artifact of a spec, from any tier.

        Args:
            spec: What to find.
            arch: For which architecture; None takes the spec's, else the device's.
            recache: Compile it again even if it is cached, and replace the entry.
            urgency: Whether a request waits for it; None means that one does.

        Raises:
            AjitError: As `Runtime.compile`.

        Cancelling only leaves.
        """
        urgency = urgency or self._asked()
        target_arch = self._arch_for(spec, arch)
        target = spec if spec.arch == target_arch else spec.with_(arch=target_arch)
        name = ("resolve", target, recache)
        self._follow(name, urgency)
        resolve = partial(self._resolve, target, recache=recache, urgency=urgency)
        return await self._tasks.join(name, resolve, urgency)

    def note_use(self, spec: Spec, arch: str | None, begun: float) -> None:
        """Let the record have a request that was answered just now, if anything is recorded.

        Args:
            spec: What was asked for.
            arch: For which arch, if the request said so.
            begun: When it came, by the monotonic clock.
        """
        if self.recorder is not None:
            loaded = arch is None and self._modules.get(spec) is not None
            waited = time.monotonic() - begun
            self.recorder.used(spec, self._arch_for(spec, arch), waited, loaded=loaded)

    def note_build(self, build: Build, peer: str, waited_seconds: float) -> None:
        """Let the record have a build that was asked for, if anything is recorded."""
        if self.recorder is not None:
            self.recorder.used_build(build, peer, self.arch, waited_seconds)

    async def warm(self, spec: Spec, on_wait: Callable[[], None], arch: str | None = None) -> Ready:
        """Make a spec ready in the background: loaded if it is for the device, else compiled.

        Args:
            spec: What to make ready.
            on_wait: Called when it begins to wait for another compile of the same key.
            arch: For which arch; None takes the spec's, else the device's.
        """
        urgency = Urgency(foreground=False, on_wait=on_wait)
        if self._device is None or arch not in (None, self._device.arch):
            resolution = await self.resolve(spec, arch, urgency=urgency)
            return Ready(resolution.artifact.base, resolution.tier)
        if self.loaded(spec) is not None:
            return Ready(self._modules[spec].base, "memory")
        loaded = await self._tasks.join(*self._loading(spec, urgency))
        return Ready(loaded.base, loaded.tier)

    def begin(self, name: Hashable, do: Callable[[], Awaitable[None]]) -> None:
        """Start work that goes on in the runtime, whether or not anybody waits for it."""
        self._tasks.begin(name, do)

    def stand_in(self, spec: Spec, fallback: Spec, entry: str | None) -> Kernel | None:
        """Return the fallback if only that is loaded, and start on the wanted kernel."""
        ready = self.loaded(fallback)
        if ready is None or self.loaded(spec) is not None:
            return None
        name, load, urgency = self._loading(spec, self._asked())
        self._tasks.begin(name, partial(self._load_behind, load, spec, fallback.name), urgency)
        self.counts.fallbacks += 1
        emitter = self.services.emitter
        if emitter.listening:
            key = self._known_key(spec) or self._failed_behind.get(spec, "")
            emitter.emit(FallbackUsed(name=spec.name, key=key, fallback=fallback.name))
        kernel = ready.kernel(fallback.entry_point(entry).name)
        kernel.stands_in_for = spec
        return kernel

    def progress(self, spec: Spec, waited_seconds: float, *, recache: bool) -> str:
        """Say how far the work that loads a spec has come, for the message of a timeout."""
        key = self._known_key(spec, recache=recache)
        shown = f" ({key[:16]})" if key else ""
        after = f"kernel {spec.name!r}{shown} is not ready after {waited_seconds:.2f} s"
        return (
            f"{after}: {self._phase(key)}; the work goes on, unless the setting abandoned is cancel"
        )

    def _known_key(self, spec: Spec, *, recache: bool = False) -> str:
        """The key of a spec that is being loaded; empty if it is not made yet."""
        urgency = self._tasks.tag(("load", spec, recache))
        return urgency.known_key if isinstance(urgency, Urgency) else ""

    def _phase(self, key: str) -> str:
        services = self.services
        waiting = services.waits.get(key)
        if waiting is not None:
            return f"waiting for {waiting.holder or 'another process'}"
        phase = services.pool.phase(key) if key else None
        if phase == "queued" and services.pool.held_back == "permit":
            record = services.permits.holder
            held = f", of which {record.holder()} has one" if record else ""
            return f"queued for a compile permit of this machine{held}"
        if phase == "queued":
            return "queued for a compile slot of this process"
        if phase == "compiling":
            return f"compiling in this process (pid {os.getpid()})"
        return "about to be compiled or loaded" if key else "reading headers and cache"

    def statistics(self) -> RuntimeStatistics:
        """Return what was done and what is in progress."""
        counts, services = self.counts, self.services
        tally = services.tally
        return RuntimeStatistics(
            from_memory=counts.memory,
            from_disk=counts.disk,
            compiled=counts.compiled,
            failed=counts.failed,
            waited=counts.waited,
            fallbacks=counts.fallbacks,
            handovers=tally.handovers,
            compile_seconds=tally.compile_seconds,
            queue_seconds=tally.queue_seconds,
            saved_seconds=tally.saved_seconds,
            cache_entries=tally.cache_entries,
            cache_bytes=tally.cache_bytes,
            cache_limit_bytes=services.settings.cache_limit_bytes,
            evicted_entries=tally.evicted_entries,
            evicted_bytes=tally.evicted_bytes,
            background_errors=tally.background_errors,
            events_dropped=services.emitter.failed,
            in_progress=len(self._tasks),
            waiting=tuple(services.waits.values()),
            layers=services.layers.statistics(),
            late=services.freeze.late,
            making_keys=tuple(services.making.values()),
            loaded_modules=self._loaded_count(),
            cache_problem=services.guard.reason or services.store.directory.problem,
            disk=services.store.statistics(),
            pool=services.pool.statistics(),
            credits=services.credits.statistics(),
            device=self._device.statistics() if self._device else None,
        )

    def __repr__(self) -> str:
        device = self._device.name if self._device else "none"
        modules, works = self._loaded_count(), len(self._tasks)
        return f"<Kernels device={device} modules={modules} in_progress={works}>"

    # --- in tasks of the group ---

    async def _resolve(self, spec: Spec, *, recache: bool, urgency: Urgency) -> Resolution:
        try:
            resolution = await self._resolver.resolve(
                spec, self._arch_for(spec, None), recache=recache, urgency=urgency
            )
        except AjitError:
            self.counts.failed += 1
            raise
        if resolution.tier == "disk":
            self.counts.disk += 1
        else:
            self.counts.compiled += 1
        self.counts.waited += resolution.waited_for is not None
        return resolution

    def _loading(
        self, spec: Spec, urgency: Urgency, *, recache: bool = False
    ) -> tuple[Hashable, Callable[[], Awaitable[_Loaded]], Urgency]:
        """Return name, function and urgency of the work that loads a spec, to start or join it.

        Raises:
            CaptureMiss: The current task is inside a capture. Nothing is compiled or awaited.
        """
        if self._device is not None:
            refuse_in_capture(spec.name)
        name = ("load", spec, recache)
        self._follow(name, urgency)
        return name, partial(self._load, spec, recache=recache, urgency=urgency), urgency

    async def _load(self, spec: Spec, *, recache: bool, urgency: Urgency) -> _Loaded:
        arch = self._arch_to_load(spec)
        resolution = await self.resolve(spec, arch, recache=recache, urgency=urgency)
        module = await self._load_artifact(spec, resolution, recache=recache)
        base = resolution.artifact.base
        loaded = self._modules[spec] = _Loaded(module, base, resolution.tier)
        return loaded

    async def _load_behind(
        self, load: Callable[[], Awaitable[_Loaded]], spec: Spec, fallback: str
    ) -> _Loaded:
        """Load a spec while its fallback serves: an error reaches no caller, so it is logged."""
        begun = time.monotonic()
        try:
            loaded = await load()
        except AjitError as exc:
            key = self._failed_behind[spec] = getattr(exc, "key", "")
            self._log_failed_behind(spec.name, key, fallback, exc)
            raise
        self._failed_behind.pop(spec, None)
        self.note_use(spec, None, begun)
        return loaded

    async def _load_artifact(
        self, spec: Spec, resolution: Resolution, *, recache: bool
    ) -> LoadedModule:
        # Specs that differ only in their declared parameters have one key and two modules.
        name = (resolution.artifact.key, spec.entries)
        module = self._modules_by_key.get(name)
        if module is None or module.unloaded or recache:
            load = partial(self._load_module, spec, resolution.artifact)
            # Specs that differ only in their labels share a module.
            module = await self._tasks.join(("module", name), load)
            self._modules_by_key[name] = module
            inner(module).on_unload = partial(_drop_unloaded, weakref.ref(self))
            if recache:
                self._forget_loaded(resolution.artifact.key)
        return module

    async def _load_module(self, spec: Spec, artifact: Artifact) -> LoadedModule:
        begun = time.monotonic()
        module = await self.device.load(artifact, spec.entries)
        emitter = self.services.emitter
        if emitter.listening:
            emitter.emit(
                ModuleLoaded(
                    name=spec.name,
                    entry=", ".join(spec.entry_names),
                    key=artifact.base,
                    entry_key=artifact.key,
                    seconds=time.monotonic() - begun,
                    size_bytes=artifact.size_bytes,
                )
            )
        return module

    # --- helpers ---

    def _asked(self) -> Urgency:
        """The urgency of a request; with its origin, if a compile would be late."""
        frozen = self.services.freeze.mode is not None
        return Urgency(stack=caller_stack()) if frozen else Urgency()

    def _loaded_count(self) -> int:
        return sum(not module.unloaded for module in self._modules_by_key.values())

    def _follow(self, name: Hashable, urgency: Urgency) -> None:
        """If that work was begun before, note that this one waits for it."""
        ahead = self._tasks.tag(name)
        if isinstance(ahead, Urgency):
            urgency.follow(ahead, self.services)

    def _forget_loaded(self, key: str) -> None:
        """A key was loaded again: drop its former module, so that no spec gets it any more."""
        for spec in [spec for spec, known in self._modules.items() if known.module.key == key]:
            del self._modules[spec]
            self.ready.pop(spec, None)

    def drop_unloaded(self) -> None:
        """A module was unloaded by hand: the hot path has to look for it. Any thread calls this.

        The rest sees by itself that a module was unloaded. The hot path has no time for that.
        """
        for spec, kernel in list(self.ready.items()):
            if kernel.module.unloaded:
                self.ready.pop(spec, None)

    def _arch_to_load(self, spec: Spec) -> str:
        device, arch = self.device, self._arch_for(spec, None)
        if is_cpu_arch(arch) != is_cpu_arch(device.arch):
            raise SpecError(
                f"spec {spec.name!r} is for arch {arch}, and the device {device.name} is "
                f"{device.arch}; leave the spec's arch open, or use compile()"
            )
        return arch

    def _arch_for(self, spec: Spec, arch: str | None) -> str:
        wanted = spec.arch if arch is None else arch
        if wanted is not None:
            return validate_arch(wanted)
        if self._device is None:
            raise SpecError(
                f"spec {spec.name!r} names no arch, and this runtime has no device to take it "
                f"from; give arch='sm_90a' or the like (on the command line, --arch sm_90a)"
            )
        return self._device.arch


def _drop_unloaded(kernels: weakref.ref[Kernels]) -> None:
    # Without a reference from a module to what keeps it: a cycle would wait for the collector.
    alive = kernels()
    if alive is not None:
        alive.drop_unloaded()
