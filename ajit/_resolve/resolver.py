"""From a spec to its base key, and from that to its flight.

`Resolver.resolve` finds the toolchain, makes the base key and looks at the disk
(`ajit._resolve.lookup`), all in one hop to a thread, together with other specs of the same moment
(`ajit._system.batched_calls`). On a miss it joins the one flight of that base in this process: the
first to join leads and walks the plan (`ajit._resolve.walk`), the others wait for what it finds.

A base key says nothing of files. So a flight is of specs with the same directories only; and before
the others are given what the leader found, it makes sure that files are now, when all of them have
asked, what they were for it. If not, one of the others leads next.

It must run in a task of the runtime and never in a caller's, so that a cancelled caller only
leaves.
"""

from __future__ import annotations

import platform
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from ajit._cache.entries.disk import Found
from ajit._compile.recorder.flags import native_option, plugin_option
from ajit._compile.toolchains.machine import this_machine
from ajit._core import events
from ajit._core.key import make_base_key
from ajit._core.spec import is_cpu_arch
from ajit._resolve.frozen import forbidden
from ajit._resolve.lookup import wanted
from ajit._resolve.request import Request, Resolution, Urgency
from ajit._resolve.walk import PlanRunner
from ajit._system.batched_calls import BatchedCalls
from ajit.errors import AjitError, SpecError, UnknownArch

if TYPE_CHECKING:
    from ajit._core.job import CompilerName
    from ajit._core.spec import Spec
    from ajit._resolve.flight import Flights, Membership
    from ajit._resolve.services import Services
    from ajit._system.batched_calls import Moment
    from ajit._system.shared_tasks import SharedTasks

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


def _refuse_plugins(spec: Spec) -> None:
    """Refuse options that load code into the compiler, whose reads no record shows.

    Raises:
        SpecError: There is one, and no ``extra_digest`` stands for the code.
    """
    if spec.extra_digest is None and (option := plugin_option(spec.options)):
        raise SpecError(
            f"option {option!r} of spec {spec.name!r} loads code into the compiler, which ajit "
            "cannot follow (give the spec an extra_digest that changes whenever the code does)"
        )


_Place: TypeAlias = "tuple[str, tuple[tuple[str, str], ...], bool]"


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
        # By base key, directories and recache: the urgency of the work that leads in this runtime.
        self._led: dict[_Place, Urgency] = {}
        self._calls = BatchedCalls(tasks, services.in_thread)

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
        begun = time.monotonic()
        urgency = urgency or Urgency()
        prepare = partial(self._prepare, spec, arch, recache=recache, urgency=urgency)
        request = await self._calls.call(prepare)
        if isinstance(request.first_look, Found) and not recache:
            artifact, seconds = request.first_look.artifact, time.monotonic() - begun
            resolution = Resolution(artifact=artifact, tier="disk", seconds=seconds)
        else:
            resolution = await self._fly(request, begun)
        self._announce(spec, resolution)
        return resolution

    def _prepare(
        self, spec: Spec, arch: str, moment: Moment, *, recache: bool, urgency: Urgency
    ) -> Request:
        """Find toolchain and base key, and look at the disk. In a thread."""
        compiler = compiler_for(spec, arch)
        _refuse_plugins(spec)
        machine = this_machine() if native_option(spec.options) else ""
        toolchain = self.services.toolchains.find(compiler)
        sought = wanted(spec, toolchain, make_base_key(spec, toolchain.identity, arch, machine))
        look = self.services.seeker.look(sought, moment)
        return Request(spec, sought, compiler, arch, toolchain, look, recache, urgency)

    async def _fly(self, request: Request, begun: float) -> Resolution:
        if self.services.settings.mode == "frozen":
            raise await self.services.in_thread(
                forbidden, self.services.store, request.spec, request.wanted
            )
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
                request = replace(request, first_look=None)
                resolution = await self._lead(membership, request, begun)
        return resolution

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

    def _announce(self, spec: Spec, resolution: Resolution) -> None:
        if self.services.emitter.listening:
            self.services.emitter.emit(
                events.KernelReady(
                    name=spec.name,
                    key=resolution.artifact.base,
                    entry_key=resolution.artifact.key,
                    tier=resolution.tier,
                    seconds=resolution.seconds,
                    size_bytes=resolution.artifact.size_bytes,
                )
            )
