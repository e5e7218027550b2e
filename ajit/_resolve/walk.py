"""The plan runner: walks the plan of one base key and does each of its actions.

All blocking work is in threads: file and lock calls in those of `Services`, waits for a lease in
the lock layer's, compiles in the pool's. However the walk ends, the plan knows what is still held,
and the runner releases it.
"""

from __future__ import annotations

import os
import platform
import time
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio

import ajit
from ajit._cache.entries.disk import Found, Missing, PublishFailed, Rejected
from ajit._cache.leases.table import Busy, Lease
from ajit._compile.recorder.states import (
    Settled,
    Unsettled,
    missing_note,
    settle,
    states_today,
)  # fmt: skip
from ajit._core import events
from ajit._core.entry import Artifact
from ajit._core.job import CompileJob, Seen
from ajit._core.plan import Action, Happening, PlanError, start, step
from ajit._core.reads import NOTHING_READ, key_of, unshared_key
from ajit._resolve.request import Resolution, WaitedFor
from ajit._resolve.waiting import LeaseWaiter, WaitEnd
from ajit.errors import AjitError, CompileError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ajit._cache.entries.disk import PublishResult
    from ajit._cache.leases.table import HolderRecord
    from ajit._core.job import CompileOutput, CompilerName
    from ajit._core.key import Key
    from ajit._core.spec import Spec
    from ajit._resolve.lookup import Look
    from ajit._resolve.request import Request
    from ajit._resolve.services import Services

__all__ = ["PlanRunner", "job_of"]

T = TypeVar("T")

RELEASE_SECONDS = 2.0
"""How long a result waits for the release of its lease, which mostly takes under a millisecond."""

_OUTCOMES = {
    Happening.FOUND: "entry",
    Happening.FAILED_BEFORE: "failure",
    Happening.PATIENCE_ENDED: "patience",
}
"""What `events.WaitEnded` calls the end of a wait; anything else is ``lease``."""


class PlanRunner:
    """One walk through the plan, for one key. Belongs to the task that runs it."""

    def __init__(self, services: Services, request: Request, begun: float) -> None:
        self._services = services
        self._request = request
        self._begun = begun
        self._first_look: Look | None = request.first_look
        self._has_credit = False
        self._lease: Lease | None = None
        self._waiter: LeaseWaiter | None = None
        self._holder: HolderRecord | None = None
        self._waited_seconds = 0.0
        self._artifact: Artifact | None = None
        self._seen = Seen(blind="nothing was compiled")
        self._reads: Settled | Unsettled | None = None
        self._error: AjitError | None = None
        self._doers: dict[Action, Callable[[], Awaitable[Happening]]] = {
            Action.READ_ENTRY: self._read_entry,
            Action.TRY_LEASE: self._try_lease,
            Action.WAIT: self._wait_for_lease,
            Action.COMPILE: self._compile,
            Action.LOOK_AGAIN: self._look_again,
            Action.PUBLISH: self._publish,
            Action.PUBLISH_REPLACING: self._publish_replacing,
        }

    async def run(self) -> Resolution:
        """Walk to an end and return it, or raise what the compile raised."""
        self._request.urgency.key = self._key
        try:
            return await self._walk()
        finally:
            self._give_credit_back()

    async def holds_today(self) -> bool:
        """Whether a request that begins now may be given this result, or the error, as well.

        The compiler read its files at one moment of the walk, and a request that came later may
        have been made for the sake of an edit after that.
        """
        if isinstance(self._reads, Settled):
            reads, places = self._reads.list.reads, self._request.wanted.places
            today = await self._in_thread(states_today, reads, places) if reads else ()
            return today == self._reads.states
        if isinstance(self._reads, Unsettled):
            return self._is_vouched_for(self._reads)
        if self._artifact is None and not isinstance(self._error, CompileError):
            return True  # an error of the environment, which tells nothing about files
        look = await self._in_thread(self._services.seeker.look, self._request.wanted)
        if isinstance(look, Found) and self._artifact is not None:
            return look.artifact.key == self._artifact.key
        return isinstance(look, CompileError) and self._artifact is None

    async def _walk(self) -> Resolution:
        plan, actions = start()
        try:
            while not plan.ended:
                plan, actions = step(plan, await self._perform(actions))
        except BaseException:
            # Cancelled, or a defect of ajit: the plan knows what is still held.
            plan, actions = step(plan, Happening.CANCELLED)
            raise
        finally:
            # Shielded: a lease that is not released would make every other process wait.
            with anyio.CancelScope(shield=True):
                await self._give_back(actions)
        return self._end(actions[-1])

    async def _perform(self, actions: tuple[Action, ...]) -> Happening:
        """Do the actions in order and return the result of the last one."""
        *first, last = actions
        await self._give_back(tuple(first))
        return await self._doers[last]()

    async def _give_back(self, actions: tuple[Action, ...]) -> None:
        try:
            if Action.RECORD_FAILURE in actions and isinstance(self._error, CompileError):
                await self._in_thread(self._record_failure, self._error)
        finally:
            if Action.STOP_WAITING in actions:
                await self._stop_waiting()
            if Action.RELEASE in actions:
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
            look = await self._in_thread(self._services.seeker.look, self._request.wanted)
        return self._take(look)

    def _take(self, look: Look) -> Happening:
        if self._request.recache and not isinstance(look, Missing):
            return Happening.REJECTED  # to be replaced, like a bad entry
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

    async def _look_again(self) -> Happening:
        look = await self._in_thread(self._services.store.read, self._made().key)
        if isinstance(look, Missing):
            return Happening.MISSING
        replaceable = self._request.recache or isinstance(look, Rejected)
        return Happening.REJECTED if replaceable else Happening.FOUND

    async def _publish(self) -> Happening:
        return await self._put(replace=False)

    async def _publish_replacing(self) -> Happening:
        return await self._put(replace=True)

    async def _put(self, *, replace: bool) -> Happening:
        result = await self._in_thread(self._put_beating, self._lease, replace)
        if isinstance(result, PublishFailed):
            self._emit(events.CacheUnwritable, reason=result.reason)
            self._services.warn_unwritable(result.reason)
            return Happening.PUBLISH_FAILED
        return Happening.PUBLISHED

    def _put_beating(self, lease: Lease | None, replace: bool) -> PublishResult:  # noqa: FBT001 - private
        """Publish, in a thread that may hang; another thread beats meanwhile."""
        with lease.publishing() if lease is not None else nullcontext():
            result = self._services.store.publish(self._made(), replace=replace)
            if isinstance(result, PublishFailed) or not isinstance(self._reads, Settled):
                return result
            # After the entry: a list is what leads to it.
            failed = self._services.lists.publish(self._key, self._reads.list)
            return PublishFailed(failed) if failed else result

    # --- the lease ---

    async def _try_lease(self) -> Happening:
        await self._services.credits.take(self._key, self._request.urgency.priority)
        self._has_credit = True
        compiler = str(self._request.toolchain.identity)
        name = self._request.spec.name
        take = partial(self._services.leases.try_acquire, self._key, compiler, name=name)
        taken = await self._in_thread(take)
        if isinstance(taken, Lease):
            self._lease = taken
            return Happening.LEASE_TAKEN
        if isinstance(taken, Busy):
            self._holder = taken.holder
            self._give_credit_back()
            return Happening.LEASE_HELD
        self._emit(events.LocksUnavailable, reason=taken.reason)
        return Happening.LEASE_UNAVAILABLE

    def _give_credit_back(self) -> None:
        if self._has_credit:
            self._has_credit = False
            self._services.credits.give_back()

    async def _release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            # A disk that hangs delays the release, too. Then the result is returned before it.
            with anyio.move_on_after(RELEASE_SECONDS):
                await self._services.in_thread(lease.release, abandon=True)

    async def _wait_for_lease(self) -> Happening:
        self._request.urgency.on_wait()
        compiler = str(self._request.toolchain.identity)
        name = self._request.spec.name
        wanted = self._request.wanted
        waiter = self._waiter = LeaseWaiter(self._services, name, wanted, compiler, self._holder)
        end = await waiter.wait(recache=self._request.recache)
        self._holder, self._waited_seconds = waiter.holder, waiter.seconds
        happening = self._wait_ended(waiter, end)
        outcome = _OUTCOMES.get(happening, "lease")
        holder = self._holder.holder() if self._holder else None
        waited = self._waited_seconds
        self._emit(events.WaitEnded, holder=holder, waited_seconds=waited, outcome=outcome)
        return happening

    def _wait_ended(self, waiter: LeaseWaiter, end: WaitEnd) -> Happening:
        if end.how == "lease":
            self._lease, waiter.lease = waiter.lease, None
            return Happening.LEASE_TAKEN
        if end.how == "patience":
            return Happening.PATIENCE_ENDED
        if end.look is not None:
            return self._take(end.look)
        self._emit(events.LocksUnavailable, reason=end.reason)
        return Happening.LEASE_UNAVAILABLE

    async def _stop_waiting(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            return
        waiter.abandon()
        # The lease may have come in the same moment.
        if waiter.lease is not None:
            await self._in_thread(waiter.lease.release)

    def _waited_for(self) -> WaitedFor | None:
        if self._holder is None or not self._waited_seconds:
            return None
        return WaitedFor(host=self._holder.host, pid=self._holder.pid, seconds=self._waited_seconds)

    # --- the compile ---

    async def _compile(self) -> Happening:
        request = self._request
        compiler = str(request.toolchain.identity)
        self._emit(events.CompileStarted, compiler=compiler, arch=request.arch)
        begun = time.monotonic()
        try:
            output = await self._services.pool.compile(
                job_of(request.spec, self._key, request.compiler, request.arch),
                on_beat=self._beat,
                on_seen=self._note_seen,
                toolchain=request.toolchain,
                priority=request.urgency.priority,
            )
        except AjitError as exc:
            return await self._failed(exc, time.monotonic() - begun)
        self._reads = await self._in_thread(self._settle, self._lease, output.data)
        key = self._new_key(self._reads)
        self._artifact = self._make_artifact(output, key)
        self._emit(
            events.CompileFinished,
            compiler=compiler,
            arch=request.arch,
            seconds=output.seconds,
            size_bytes=len(output.data),
        )
        if isinstance(self._reads, Unsettled) and not self._is_vouched_for(self._reads):
            return await self._keep_to_itself(self._reads)
        return Happening.COMPILED

    async def _failed(self, error: AjitError, seconds: float) -> Happening:
        self._error = error
        if isinstance(error, CompileError):
            if note := missing_note(self._seen, error.log, self._request.spec.include_dirs):
                error.add_note(note)
            self._reads = await self._in_thread(self._settle, self._lease, b"")
        self._emit(events.CompileFailed, error=str(error), seconds=seconds)
        if not isinstance(error, CompileError):
            return Happening.COMPILE_BROKE_OFF
        # Of a header that was half saved, or is mended, the next compile says something else. A
        # record without what was read would be believed whatever the headers are by then.
        unsure = isinstance(self._reads, Unsettled) and not self._is_vouched_for(self._reads)
        return Happening.COMPILE_BROKE_OFF if unsure else Happening.COMPILE_FAILED

    def _record_failure(self, error: CompileError) -> None:
        if isinstance(self._reads, Settled):
            self._services.failures.record(error, self._reads.list.reads, self._reads.states)
        else:
            self._services.failures.record(error)

    def _note_seen(self, seen: Seen) -> None:
        """Called in a thread of the compile pool, when the compile has ended."""
        self._seen = seen

    def _settle(self, lease: Lease | None, data: bytes) -> Settled | Unsettled:
        """Digest what was read, in a thread; another beats, for a slow disk may take its time."""
        spec = self._request.spec
        texts = (spec.source, *(text for _, text in spec.headers))
        with lease.publishing() if lease is not None else nullcontext():
            return settle(self._seen, self._request.wanted.places, data, texts)

    def _new_key(self, reads: Settled | Unsettled) -> Key:
        base = self._request.wanted.base
        if isinstance(reads, Settled):
            return key_of(base, reads.list, reads.states)
        if self._is_vouched_for(reads):
            return key_of(base, NOTHING_READ, ())
        return unshared_key(base, os.urandom(16).hex())

    def _is_vouched_for(self, reads: Unsettled) -> bool:
        """Whether the spec's own digest stands for what could not be seen."""
        return not reads.changed and self._request.spec.extra_digest is not None

    async def _keep_to_itself(self, reads: Unsettled) -> Happening:
        self._emit(events.NotPublished, reason=reads.reason)
        if not reads.changed:
            self._services.warn_unseen(reads.reason)
        return Happening.COMPILED_UNSHARED

    def _beat(self, phase: str) -> None:
        """Called in a thread of the compile pool, once a second."""
        lease = self._lease
        if lease is not None:
            lease.post_beat("queued" if phase == "queued" else "compiling")

    def _make_artifact(self, output: CompileOutput, key: Key) -> Artifact:
        spec, toolchain = self._request.spec, self._request.toolchain.identity
        return Artifact(
            key=key.hex,
            base=self._key,
            key_fields=key.fields,
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

    def _made(self) -> Artifact:
        if self._artifact is None:
            raise PlanError("there is no artifact yet")
        return self._artifact

    @property
    def _key(self) -> str:
        return self._request.wanted.base.hex

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await self._services.in_thread(function, *args)

    def _emit(self, event: type[events.Event], **facts: object) -> None:
        if self._services.emitter.listening:
            made = event(name=self._request.spec.name, key=self._key, **facts)
            self._services.emitter.emit(made)


def job_of(spec: Spec, key: str, compiler: CompilerName, arch: str) -> CompileJob:
    """Return the compile that a spec asks for, with the compiler and arch that were chosen."""
    return CompileJob(
        key=key,
        name=spec.name,
        source=spec.source,
        entries=spec.entry_names,
        compiler=compiler,
        arch=arch,
        options=spec.options,
        defines=spec.defines,
        include_dirs=spec.include_dirs,
        headers=spec.headers,
    )
