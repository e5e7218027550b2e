"""From a spec to its base key, and from that to its flight.

`Resolver.resolve` finds the toolchain, makes the base key and looks at the disk
(`ajit._resolve.lookup`), all in one hop to a thread, together with other specs of the same moment
(`ajit._system.batched_calls`). A disk that does not answer in time counts as a miss. On a miss it
joins the one flight of that base in this process: the first to join leads and walks the plan
(`ajit._resolve.walk`), the others wait for what it finds.

A base key says nothing of files. So a flight is of specs with the same directories only; and before
the others are given what the leader found, it makes sure that files are now, when all of them have
asked, what they were for it. If not, one of the others leads next.

It must run in a task of the runtime and never in a caller's, so that a cancelled caller only
leaves.
"""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from ajit._cache.entries.disk import Found, Missing
from ajit._compile.recorder.flags import native_option, plugin_option
from ajit._compile.recorder.modes import contradiction
from ajit._compile.toolchains.identity import Toolchain
from ajit._compile.toolchains.machine import this_machine
from ajit._core import events
from ajit._core.build import Build, contents_of, placeholder_texts
from ajit._core.build_key import make_build_key
from ajit._core.key import ToolchainId, make_base_key
from ajit._core.spec import is_cpu_arch
from ajit._resolve.budget import Budget
from ajit._resolve.late import note_refused
from ajit._resolve.lookup import Wanted, places_for, places_for_build
from ajit._resolve.making import Making
from ajit._resolve.nearest import nearest_cached
from ajit._resolve.request import Request, Resolution, Urgency
from ajit._resolve.walk import PlanRunner
from ajit._system.batched_calls import BatchedCalls
from ajit._system.guarded_calls import NoAnswer
from ajit._system.timed import Timed
from ajit.errors import AjitError, CompileForbidden, SpecError, UnknownArch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ajit._core.job import CompilerName
    from ajit._core.spec import Spec
    from ajit._resolve.flight import Flights, Membership
    from ajit._resolve.in_place import Made
    from ajit._resolve.lookup import Look
    from ajit._resolve.services import Services
    from ajit._system.batched_calls import Moment
    from ajit._system.shared_tasks import SharedTasks
    from ajit.settings import Settings

__all__ = ["Resolver", "compiler_for"]


def compiler_for(spec: Spec, arch: str) -> CompilerName:
    """Return the compiler that a spec's ``auto`` means for an arch.

    Raises:
        UnknownArch: The compiler that the spec names does not build for this arch.
    """
    if spec.compiler == "auto":
        return "host" if is_cpu_arch(arch) else "nvrtc"
    if is_cpu_arch(arch) != (spec.compiler == "host"):
        raise UnknownArch(arch=arch, compiler=spec.compiler)
    if spec.compiler == "host" and arch != platform.machine():
        raise UnknownArch(arch=arch, compiler="host", known=[platform.machine()])
    return spec.compiler


def _sandbox_of(settings: Settings) -> str:
    """What confines the compilers, as the base key has it."""
    if settings.sandbox == "off":
        return ""
    paths = sorted(set(filter(None, settings.sandbox_paths.split(os.pathsep))))
    return os.pathsep.join([settings.sandbox, *paths])


def _refuse_options(spec: Spec, compiler: CompilerName) -> None:
    """Refuse options that cannot be meant, or that nothing is known about.

    Raises:
        SpecError: One asks for another arch or another output than the request does; or one loads
            code into the compiler, whose reads no record shows, and no ``extra_digest`` stands for
            the code.
    """
    if why := contradiction(compiler, spec.options):
        raise SpecError(f"an option of spec {spec.name!r} contradicts the request, {why}")
    if spec.extra_digest is None and (option := plugin_option(spec.options)):
        raise SpecError(
            f"option {option!r} of spec {spec.name!r} loads code into the compiler, which ajit "
            "cannot follow (give the spec an extra_digest that changes whenever the code does)"
        )


_Place: TypeAlias = "tuple[str, tuple[tuple[str, str], ...], bool]"


def prepare_build(
    build: Build,
    sandbox: str,
    budget: Budget,
    *,
    recache: bool = False,
    urgency: Urgency | None = None,
) -> Request:
    """Make the base key of a build. In a thread."""
    urgency = urgency or Urgency()
    texts = (*placeholder_texts(build.run), *contents_of(build.run))
    machine = this_machine() if native_option(texts) else platform.machine()
    places = places_for_build(build)
    base = make_build_key(build, machine, sandbox, nesting=places.nesting())
    # What it runs is found out by recording it: there is no toolchain that a key could name.
    program = build.run.program
    toolchain = Toolchain(
        kind="build",
        version=program,
        path="",
        command=(program,),
        identity=ToolchainId("build", program, ""),
    )
    sought = Wanted(base, places)
    return Request(build, sought, "build", "", toolchain, budget, recache=recache, urgency=urgency)


def _peer_of(request: Request) -> str:
    """Whose build it is, as its adapter has put it into the key; "" is the server's own."""
    if not isinstance(request.spec, Build):
        return ""
    parts = dict(request.spec.key_parts)
    return (parts.get("peer") or parts.get("adapter", "")).partition(" ")[0]


def _place(request: Request, *, other: bool = False) -> _Place:
    """What flights are told apart by in one cache; of the other kind, if a recache is one."""
    wanted = request.wanted
    return wanted.base.hex, wanted.places.dirs, request.recache is not other


class Resolver:
    """Finds or compiles artifacts for one runtime, in its event loop."""

    def __init__(
        self, services: Services, flights: Flights[Resolution], tasks: SharedTasks
    ) -> None:
        self.services = services
        self._flights = flights
        self._tasks = tasks
        # By base key, directories and recache: the urgency of the work that leads in this runtime.
        self._led: dict[_Place, Urgency] = {}
        patience = services.settings.patience_seconds
        self._calls = BatchedCalls(tasks, services.guard, patience)

    @property
    def sandbox(self) -> str:
        """What confines the compilers, as base keys have it."""
        return _sandbox_of(self.services.settings)

    async def resolve(
        self, spec: Spec, arch: str, *, recache: bool = False, urgency: Urgency | None = None
    ) -> Resolution:
        """Return the verified artifact of a spec, from any tier.

        Args:
            spec: What is asked for.
            arch: For which architecture.
            recache: Compile it again even if it is cached, and replace the entry.
            urgency: Whether a request waits for it; None means that one does.

        Raises:
            SpecError: The spec cannot be compiled as it is; nothing was started.
            CompileError: The source was rejected; nothing was published.
            CompilerError: The compiler could not do its work; trying again is safe.
            CompileForbidden: It is not cached, and the runtime is frozen.

        Cancelling releases the lease and ends the compile. Another runtime of this process that
        waits for the same key takes over.
        """
        budget = Budget(self.services.settings.patience_seconds)
        urgency = urgency or Urgency()
        prepare = partial(self._prepare, spec, arch, budget, recache=recache, urgency=urgency)
        return await self._resolve(prepare, budget, spec.name)

    async def resolve_build(
        self,
        build: Build,
        *,
        recache: bool = False,
        urgency: Urgency | None = None,
        perform: Callable[[], Awaitable[Made]] | None = None,
    ) -> Resolution:
        """Return the bundle of a build, from any tier. Its artifact is a `BundleArtifact`.

        Args:
            build: What is asked for.
            recache: Run it again even if it is cached, and replace the entry.
            urgency: Whether a request waits for it; None means that one does.
            perform: Waits for the caller to make it, instead of running it, once it has the lease.

        Raises:
            CompileError: The build failed; nothing was published.
            CompilerError: It could not be run to its end; trying again is safe.
            CompileForbidden: It is not cached, and the runtime is frozen.

        Cancelling is as for `resolve`.
        """
        budget = Budget(self.services.settings.patience_seconds)
        urgency = urgency or Urgency()
        made = partial(prepare_build, build, self.sandbox, budget, recache=recache, urgency=urgency)
        prepare = made if perform is None else lambda: replace(made(), perform=perform)
        return await self._resolve(prepare, budget, build.name)

    async def find_build(self, build: Build) -> Resolution | None:
        """Return the bundle of a build if the cache or a layer has it. Nothing is run."""
        begun = time.monotonic()
        budget = Budget(self.services.settings.patience_seconds)
        prepare = partial(prepare_build, build, self.sandbox, budget)
        making = Making(self.services, build.name)
        try:
            request, look = await self._calls.call(
                prepare, self._look, missed=budget.take, slow=making.tell
            )
        finally:
            making.end()
        if look is None and self.services.layers:
            look = await self._look_below(request)
        if not isinstance(look, Found):
            return None
        return Resolution(artifact=look.artifact, tier="disk", seconds=time.monotonic() - begun)

    async def _resolve(
        self, prepare: Callable[[], Request], budget: Budget, name: str
    ) -> Resolution:
        begun = time.monotonic()
        making = Making(self.services, name)
        making_key, looking = Timed(prepare), Timed(self._look)
        try:
            request, look = await self._calls.call(
                making_key, looking, missed=budget.take, slow=making.tell
            )
        finally:
            making.end()
        self._tell_found(request, look, making_key.seconds, looking.seconds)
        self.services.tell_silence()
        if look is None and self.services.layers:
            look = await self._look_below(request)
        if look is None:
            look = Missing(self.services.guard.reason or "the cache has not answered in time")
        request = replace(request, first_look=look)
        if isinstance(request.first_look, Found) and not request.recache:
            artifact, seconds = request.first_look.artifact, time.monotonic() - begun
            resolution = Resolution(artifact=artifact, tier="disk", seconds=seconds)
        else:
            resolution = await self._fly(request, begun)
        if resolution.tier == "disk":
            self.services.tally.saved_seconds += resolution.artifact.seconds
        self._announce(request, resolution)
        return resolution

    def _tell_found(
        self, request: Request, look: Look | None, key_seconds: float, look_seconds: float
    ) -> None:
        emitter = self.services.emitter
        if not emitter.listening:
            return
        about: dict[str, Any] = {
            "name": request.spec.name,
            "entry": request.entry,
            "key": request.wanted.base.hex,
        }
        emitter.emit(events.KeyMade(**about, seconds=key_seconds))
        if isinstance(look, Found):
            about |= {"entry_key": look.artifact.key, "size_bytes": look.artifact.size_bytes}
            emitter.emit(events.EntryRead(**about, seconds=look_seconds))

    def _prepare(
        self, spec: Spec, arch: str, budget: Budget, *, recache: bool, urgency: Urgency
    ) -> Request:
        """Find toolchain and base key. In a thread."""
        compiler = compiler_for(spec, arch)
        _refuse_options(spec, compiler)
        machine = this_machine() if native_option(spec.options) else ""
        toolchain = self.services.toolchains.find(compiler)
        places = places_for(spec, toolchain)
        base = make_base_key(
            spec, toolchain.identity, arch, machine, self.sandbox, nesting=places.nesting()
        )
        sought = Wanted(base, places)
        return Request(
            spec, sought, compiler, arch, toolchain, budget, recache=recache, urgency=urgency
        )

    def _look(self, request: Request, moment: Moment) -> Look:
        """Look at the disk. In a thread."""
        return self.services.seeker_for(request).look(request.wanted, moment)

    async def _look_below(self, request: Request) -> Look | None:
        """Look at the layers, because the cache itself does not answer."""
        seconds = self.services.settings.patience_seconds
        with suppress(NoAnswer):
            look = await self.services.in_thread(
                self.services.seeker_for(request).entry_below, request.wanted, seconds=seconds
            )
            return look if isinstance(look, Found) else None
        return None

    async def _fly(self, request: Request, begun: float) -> Resolution:
        if self.services.freeze.mode is not None:
            await self._late(request)
        cache = (
            self.services.store.directory.identity,
            request.recache,
            request.wanted.places.dirs,
        )
        with self._flights.join(cache, request.wanted.base.hex) as membership:
            if membership.leading:
                return await self._lead(membership, request, begun)
            self._follow(request)
            resolution = await membership.wait()
            if resolution is None:
                # The former leader may have taken long: what we saw before counts no more.
                request = replace(request, first_look=None, looked=True)
                resolution = await self._lead(membership, request, begun)
        return resolution

    async def _late(self, request: Request) -> None:
        """A miss although the runtime is frozen: refuse it, or let it be told.

        Raises:
            CompileForbidden: The runtime is frozen with ``error``.
        """
        self.services.freeze.count()
        if self.services.freeze.mode == "error":
            raise note_refused(await self._forbidden(request))
        if self.services.emitter.listening:
            # Beside the compile, which is late enough.
            name = ("late", request.wanted.base.hex)
            self._tasks.begin(name, partial(self._tell_late, request))

    async def _forbidden(self, request: Request) -> CompileForbidden:
        nearest = await nearest_cached(self.services, request, request.budget)
        error = CompileForbidden(
            name=request.spec.name,
            key=request.wanted.base.hex,
            peer=_peer_of(request),
            nearest=nearest.key,
            differences=nearest.differences,
            stack=request.urgency.stack,
        )
        directory = self.services.store.directory
        if not nearest.key and directory.access == "none":
            # Then no kernel can be found in it.
            error.add_note(f"the cache {directory.path} cannot be read: {directory.problem}")
        return error

    async def _tell_late(self, request: Request) -> None:
        nearest = await nearest_cached(self.services, request)
        self.services.emitter.emit(
            events.CompiledLate(
                name=request.spec.name,
                entry=request.entry,
                key=request.wanted.base.hex,
                peer=_peer_of(request),
                nearest=nearest.key,
                differences=nearest.differences,
                stack=request.urgency.stack,
            )
        )

    async def _lead(
        self, membership: Membership[Resolution], request: Request, begun: float
    ) -> Resolution:
        place = _place(request)
        self._set_urgency(request)
        self._led[place] = request.urgency
        runner = PlanRunner(self.services, request, begun)
        try:
            resolution = await runner.run()
        except AjitError as exc:
            if await self._holds_for_others(membership, runner):
                membership.fail(exc)
            raise
        finally:
            if self._led.get(place) is request.urgency:
                del self._led[place]
        if await self._holds_for_others(membership, runner):
            membership.finish(resolution)
        return resolution

    async def _holds_for_others(
        self, membership: Membership[Resolution], runner: PlanRunner
    ) -> bool:
        """Whether the others may have the result. If not, leaving hands the lead over."""
        # A request that comes after the check must not be given what the check is about.
        membership.close()
        return not membership.others or await runner.holds_today()

    def _set_urgency(self, request: Request) -> None:
        """Make it as urgent as the former leader; note a recache of the same base that is ahead."""
        urgency = request.urgency
        if urgency.ahead is not None and urgency.ahead.foreground:
            # The former leader was cancelled; the tasks that waited for it wait for this one.
            urgency.hurry(self.services)
        other = self._led.get(_place(request, other=True))
        if other is not None:
            # Another flight, but the same lease: this one waits until the other releases it.
            urgency.follow(other, self.services)

    def _follow(self, request: Request) -> None:
        """Wait for a spec of the same key, or for another runtime of this process."""
        led = self._led.get(_place(request))
        if led is None:
            request.urgency.on_wait()
        else:
            request.urgency.follow(led, self.services)

    def _announce(self, request: Request, resolution: Resolution) -> None:
        if self.services.emitter.listening:
            ready = events.BundleReady if request.for_bundle else events.KernelReady
            self.services.emitter.emit(
                ready(
                    name=request.spec.name,
                    entry=request.entry,
                    key=resolution.artifact.base,
                    entry_key=resolution.artifact.key,
                    tier=resolution.tier,
                    seconds=resolution.seconds,
                    size_bytes=resolution.artifact.size_bytes,
                )
            )
