"""The performer: walks the plan of one key and does each of its actions.

All blocking work is in threads: file and lock calls through the limiter of `Parts` (never the
loop's default one, whose 40 threads are shared with the whole process), waits for a lease in the
lock layer's threads, compiles in the pool's. Whatever ends the walk, the plan says what is still
held, and it is given back.
"""

from __future__ import annotations

import platform
import time
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import anyio

import ajit
from ajit._cache.disk import Failed, Found, Missing
from ajit._cache.lock import Busy, Glimpse, Lease, Unavailable
from ajit._core import events
from ajit._core.entry import Artifact
from ajit._core.job import CompileJob
from ajit._core.plan import Action, Happening, PlanError, start, step
from ajit.errors import AjitError, AjitWarning, CompileError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ajit._cache.disk import DiskStore, Lookup
    from ajit._cache.failure import FailureStore
    from ajit._cache.lock import HolderRecord, LeaseTable, LeaseWait
    from ajit._compile.includes import HeaderIndex
    from ajit._compile.pool import CompilePool
    from ajit._compile.toolchain import Toolchain, Toolchains
    from ajit._core.job import CompileOutput, CompilerName
    from ajit._core.key import Key
    from ajit._core.spec import Spec
    from ajit.settings import Settings

__all__ = ["Parts", "Performer", "Request", "Resolution", "WaitedFor"]

T = TypeVar("T")

Look: TypeAlias = "Lookup | CompileError"
"""What the disk has for a key: an entry, good or bad, or none, or the error of a failed compile."""

IO_THREADS = 4
"""Threads for file and lock calls of one runtime. Pretty arbitrary: the calls are short."""

WATCH_SECONDS = 0.25
"""How often a waiter looks for the entry and the holder's beat. The lease itself is not polled."""

REPORT_SECONDS = 0.75
"""How often a waiter says whom it waits for; with the watch's period, within every second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitedFor:
    """Whom a resolution waited for, and how long.

    Attributes:
        host: Host name of the lease's holder.
        pid: Its process id.
        seconds: Time spent waiting.
    """

    host: str
    pid: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The answer to a spec.

    Attributes:
        artifact: Verified bytes with their metadata.
        tier: Where they came from.
        seconds: From the request to the answer.
        waited_for: The holder that was waited for, if any.
    """

    artifact: Artifact
    tier: events.Tier
    seconds: float
    waited_for: WaitedFor | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A spec joined with what this machine has.

    Attributes:
        note: What to add to a `CompileError`, such as includes that were not found.
        first_look: What the disk had when the key was made.
        recache: Whether what is cached, a failure included, is to be compiled again and replaced.
    """

    spec: Spec
    key: Key
    compiler: CompilerName
    arch: str
    toolchain: Toolchain
    note: str | None
    first_look: Look
    recache: bool = False


@dataclass(kw_only=True)
class Parts:
    """What a runtime resolves with. Belongs to the runtime's event loop."""

    settings: Settings
    store: DiskStore
    failures: FailureStore
    leases: LeaseTable
    toolchains: Toolchains
    headers: HeaderIndex
    pool: CompilePool
    emitter: events.Emitter
    _threads: anyio.CapacityLimiter = field(
        default_factory=partial(anyio.CapacityLimiter, IO_THREADS)
    )
    waits: dict[str, events.Waiting] = field(default_factory=dict)
    """By key: whom a resolution of this runtime waits for now, as last reported."""
    _warned_unwritable: bool = False

    async def in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Run a short blocking call in a thread; not abandoned on cancellation."""
        return await anyio.to_thread.run_sync(function, *args, limiter=self._threads)

    def look(self, key: str) -> Look:
        """Look for the entry of a key and, where there is no good one, for its failure. Blocks."""
        lookup = self.store.read(key)
        if isinstance(lookup, Found):
            return lookup
        return self.failures.recall(key) or lookup

    def warn_unwritable(self, reason: str) -> None:
        """Warn, once per runtime, that nothing is kept."""
        if not self._warned_unwritable:
            self._warned_unwritable = True
            warnings.warn(
                f"the kernel cache {self.settings.cache_dir} cannot be written: {reason}; kernels "
                f"are compiled and returned, but not kept",
                AjitWarning,
                stacklevel=2,
            )


class Performer:
    """One walk through the plan, for one key. Belongs to the task that runs it."""

    def __init__(self, parts: Parts, request: Request, begun: float) -> None:
        self._parts = parts
        self._request = request
        self._begun = begun
        self._first_look: Look | None = request.first_look
        self._lease: Lease | None = None
        self._wait: LeaseWait | None = None
        self._holder: HolderRecord | None = None
        self._waited_seconds = 0.0
        self._artifact: Artifact | None = None
        self._error: AjitError | None = None
        self._doers: dict[Action, Callable[[], Awaitable[Happening]]] = {
            Action.READ_ENTRY: self._read_entry,
            Action.TRY_LEASE: self._try_lease,
            Action.WAIT: self._wait_for_lease,
            Action.COMPILE: self._compile,
            Action.PUBLISH: self._publish,
            Action.PUBLISH_REPLACING: self._publish_replacing,
        }

    async def run(self) -> Resolution:
        """Walk to an end and return it, or raise what the compile raised."""
        plan, actions = start()
        try:
            while not plan.ended:
                plan, actions = step(plan, await self._perform(actions))
        except BaseException:
            # Cancelled, or a defect of ours: the plan says what is still held.
            plan, actions = step(plan, Happening.CANCELLED)
            raise
        finally:
            # Shielded: a lease that is not given back would hold up every other process.
            with anyio.CancelScope(shield=True):
                await self._give_back(actions)
        return self._end(actions[-1])

    async def _perform(self, actions: tuple[Action, ...]) -> Happening:
        """Do the actions in order and report what came of the last one."""
        *first, last = actions
        await self._give_back(tuple(first))
        return await self._doers[last]()

    async def _give_back(self, actions: tuple[Action, ...]) -> None:
        if Action.RECORD_FAILURE in actions and isinstance(self._error, CompileError):
            await self._in_thread(self._parts.failures.record, self._error)
        if Action.STOP_WAITING in actions:
            self._stop_waiting()
        if Action.RELEASE in actions or Action.STOP_WAITING in actions:
            # Also when we stop waiting: the lease may have come in the same moment.
            await self._release()

    def _end(self, action: Action) -> Resolution:
        if self._error is not None:
            raise self._error
        return Resolution(
            artifact=self._made(),
            tier="disk" if action is Action.RETURN_FROM_DISK else "compiled",
            seconds=time.monotonic() - self._begun,
            waited_for=self._waited_for(),
        )

    # --- the entry ---

    async def _read_entry(self) -> Happening:
        look, self._first_look = self._first_look, None
        if look is None:
            look = await self._in_thread(self._parts.look, self._key)
        return self._take(look)

    def _take(self, look: Look) -> Happening:
        if self._request.recache and not isinstance(look, Missing):
            return Happening.REJECTED  # as good as bad: to be replaced under the lease
        if isinstance(look, Found):
            self._artifact = look.artifact
            return Happening.FOUND
        if isinstance(look, CompileError):
            self._error = look
            return Happening.FAILED_BEFORE
        if isinstance(look, Missing):
            return Happening.MISSING
        self._emit(events.EntryRejected, reason=look.reason)
        return Happening.REJECTED

    async def _publish(self) -> Happening:
        return await self._put(replace=False)

    async def _publish_replacing(self) -> Happening:
        return await self._put(replace=True)

    async def _put(self, *, replace: bool) -> Happening:
        if self._lease is not None:
            await self._in_thread(self._lease.beat, "publishing")
        publish = partial(self._parts.store.publish, self._made(), replace=replace)
        result = await self._in_thread(publish)
        if isinstance(result, Failed):
            self._emit(events.CacheUnwritable, reason=result.reason)
            self._parts.warn_unwritable(result.reason)
            return Happening.PUBLISH_FAILED
        return Happening.PUBLISHED

    # --- the lease ---

    async def _try_lease(self) -> Happening:
        compiler = str(self._request.toolchain.identity)
        taken = await self._in_thread(self._parts.leases.try_acquire, self._key, compiler)
        if isinstance(taken, Lease):
            self._lease = taken
            return Happening.LEASE_TAKEN
        if isinstance(taken, Busy):
            self._holder = taken.holder
            return Happening.LEASE_HELD
        self._emit(events.LocksUnavailable, reason=taken.reason)
        return Happening.LEASE_UNAVAILABLE

    async def _release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            await self._in_thread(lease.release)

    def _stop_waiting(self) -> None:
        wait, self._wait = self._wait, None
        if wait is not None:
            wait.abandon()

    async def _wait_for_lease(self) -> Happening:
        """Wait for the lease, the entry, or the end of patience, whichever is first."""
        begun = time.monotonic()
        compiler = str(self._request.toolchain.identity)
        wait = self._wait = self._parts.leases.wait(self._key, compiler, self._glance)
        outcomes: list[Happening] = []
        async with anyio.create_task_group() as group:

            async def first(wait: Callable[[], Awaitable[Happening]]) -> None:
                outcomes.append(await wait())
                group.cancel_scope.cancel()

            group.start_soon(first, partial(self._win_lease, wait))
            group.start_soon(first, partial(self._watch_holder, begun))
        self._parts.waits.pop(self._key, None)
        self._waited_seconds += time.monotonic() - begun
        # Both may happen in one turn of the loop; a lease that was won is used.
        return self._wait_ended(Happening.LEASE_TAKEN if self._lease else outcomes[0])

    async def _win_lease(self, wait: LeaseWait) -> Happening:
        won = await wait.wait()
        if isinstance(won, Unavailable):
            self._emit(events.LocksUnavailable, reason=won.reason)
            return Happening.LEASE_UNAVAILABLE
        if isinstance(won, Glimpse):
            return self._take(won.value)
        self._lease, self._wait = won, None
        return Happening.LEASE_TAKEN

    def _glance(self) -> Look | None:
        """Look under the lock, in its thread: most waiters only want what was published."""
        look = None if self._request.recache else self._parts.look(self._key)
        return look if isinstance(look, Found | CompileError) else None

    async def _watch_holder(self, begun: float) -> Happening:
        """Report the holder every second, look for the entry, and measure the holder's silence."""
        silent_since = reported = begun
        beat: object = None
        if self._holder is None:
            # It had the lock and had not yet written who it is; by now it has.
            self._holder = await self._in_thread(self._parts.leases.read_holder, self._key)
        self._report_waiting(begun)
        while True:
            await anyio.sleep(WATCH_SECONDS)
            record, look = await self._in_thread(self._look)
            now = time.monotonic()
            if isinstance(look, Found | CompileError) and not self._request.recache:
                return self._take(look)
            if record is not None:
                self._holder = record
                if record.beat != beat:
                    beat, silent_since = record.beat, now
            if self._is_out_of_patience(now - silent_since, now - begun):
                return Happening.PATIENCE_ENDED
            if now - reported >= REPORT_SECONDS:
                reported = now
                self._report_waiting(begun)

    def _is_out_of_patience(self, silent_seconds: float, waited_seconds: float) -> bool:
        settings = self._parts.settings
        total = settings.patience_total_seconds
        return silent_seconds > settings.patience_seconds or 0 < total < waited_seconds

    def _look(self) -> tuple[HolderRecord | None, Look]:
        return self._parts.leases.read_holder(self._key), self._parts.look(self._key)

    def _report_waiting(self, begun: float) -> None:
        waiting = events.Waiting(
            name=self._request.spec.name,
            key=self._key,
            holder=self._public_holder(),
            waited_seconds=time.monotonic() - begun,
        )
        self._parts.waits[self._key] = waiting
        if self._parts.emitter.listening:
            self._parts.emitter.emit(waiting)

    def _wait_ended(self, happening: Happening) -> Happening:
        outcome = {
            Happening.FOUND: "entry",
            Happening.FAILED_BEFORE: "failure",
            Happening.PATIENCE_ENDED: "patience",
        }.get(happening, "lease")
        self._emit(
            events.WaitEnded,
            holder=self._public_holder(),
            waited_seconds=self._waited_seconds,
            outcome=outcome,
        )
        return happening

    def _waited_for(self) -> WaitedFor | None:
        if self._holder is None or not self._waited_seconds:
            return None
        return WaitedFor(host=self._holder.host, pid=self._holder.pid, seconds=self._waited_seconds)

    # --- the compile ---

    async def _compile(self) -> Happening:
        compiler = str(self._request.toolchain.identity)
        self._emit(events.CompileStarted, compiler=compiler, arch=self._request.arch)
        begun = time.monotonic()
        try:
            output = await self._parts.pool.compile(
                self._job(), on_beat=self._beat, toolchain=self._request.toolchain
            )
        except AjitError as exc:
            if self._request.note and isinstance(exc, CompileError):
                exc.add_note(self._request.note)
            self._error = exc
            seconds = time.monotonic() - begun
            self._emit(events.CompileFailed, error=str(exc), seconds=seconds)
            rejected = isinstance(exc, CompileError)
            return Happening.COMPILE_FAILED if rejected else Happening.COMPILE_BROKE_OFF
        self._artifact = self._make_artifact(output)
        self._emit(
            events.CompileFinished,
            compiler=compiler,
            arch=self._request.arch,
            seconds=output.seconds,
            size_bytes=len(output.data),
        )
        return Happening.COMPILED

    def _beat(self, phase: str) -> None:
        """Called in a thread of the compile pool, once a second."""
        lease = self._lease
        if lease is not None:
            lease.beat("queued" if phase == "queued" else "compiling")

    def _job(self) -> CompileJob:
        spec = self._request.spec
        return CompileJob(
            key=self._key,
            name=spec.name,
            source=spec.source,
            entries=spec.entry_names,
            compiler=self._request.compiler,
            arch=self._request.arch,
            options=spec.options,
            defines=spec.defines,
            include_dirs=spec.include_dirs,
            headers=spec.headers,
        )

    def _make_artifact(self, output: CompileOutput) -> Artifact:
        spec, toolchain = self._request.spec, self._request.toolchain.identity
        return Artifact(
            key=self._key,
            key_fields=self._request.key.fields,
            name=spec.name,
            kind=output.kind,
            arch=self._request.arch,
            compiler=toolchain.name,
            compiler_version=toolchain.version,
            entries=spec.entry_names,
            lowered=output.lowered,
            log=output.log,
            command=output.command,
            created=time.time(),
            seconds=output.seconds,
            host=platform.node(),
            ajit_version=ajit.__version__,
            data=output.data,
        )

    # --- helpers ---

    def _public_holder(self) -> events.Holder | None:
        return self._holder.holder() if self._holder else None

    def _made(self) -> Artifact:
        if self._artifact is None:
            raise PlanError("there is no artifact yet")
        return self._artifact

    @property
    def _key(self) -> str:
        return self._request.key.hex

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await self._parts.in_thread(function, *args)

    def _emit(self, event: type[events.Event], **facts: object) -> None:
        if self._parts.emitter.listening:
            made = event(name=self._request.spec.name, key=self._key, **facts)
            self._parts.emitter.emit(made)
