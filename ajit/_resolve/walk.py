"""The plan runner: walks the plan of one base key and does each of its actions.

All blocking work is in threads: file and lock calls in those of `Services`, waits for a lease in
the lock layer's, compiles in the pool's. However the walk ends, the plan knows what is still held,
and the runner releases it. A call on the cache that is not answered in time counts as a miss, as no
lock, or as not published: the walk goes on without it. All such calls together take one patience,
the budget of the request.
"""

from __future__ import annotations

import time
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import msgspec

from ajit._cache.entries.disk import Found, Missing, PublishFailed, Rejected
from ajit._cache.leases.table import Busy, Lease, Unavailable
from ajit._compile.recorder.states import Settled
from ajit._core import events
from ajit._core.bundle import BundleArtifact
from ajit._core.plan import Action, Happening, PlanError, start, step
from ajit._resolve.compiling import Compiling
from ajit._resolve.in_place import InPlace
from ajit._resolve.request import Resolution, WaitedFor
from ajit._resolve.waiting import LeaseWaiter, WaitEnd
from ajit._system.guarded_calls import NoAnswer
from ajit.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ajit._cache.entries.disk import PublishResult
    from ajit._cache.leases.table import HolderRecord
    from ajit._core.entry import Artifact
    from ajit._resolve.lookup import Look
    from ajit._resolve.request import Request
    from ajit._resolve.services import Services
    from ajit.errors import AjitError

__all__ = ["PlanRunner"]

T = TypeVar("T")

SLOWEST_BYTES_PER_SECOND = 8 * 1024 * 1024
"""A cache that takes the files of a bundle more slowly than this counts as one that hangs."""

RELEASE_SECONDS = 2.0
"""How long a result waits for the release of its lease, which mostly takes under a millisecond."""

_OUTCOMES = {
    Happening.FOUND: "entry",
    Happening.FAILED_BEFORE: "failure",
    Happening.PATIENCE_ENDED: "patience",
}
"""What `events.WaitEnded` calls the end of a wait; anything else is ``lease``."""


CANNOT_KEEP = "trust is signed, and without a signing key nothing can be kept for others"
"""Such a process waits for those who sign, and takes no lease: nothing would come of a wait for it,
and processes like it would compile in turn what each of them has to compile for itself."""


class PlanRunner:
    """One walk through the plan, for one key. Belongs to the task that runs it."""

    def __init__(self, services: Services, request: Request, begun: float) -> None:
        self._services = services
        self._request = request
        self._store = services.store_for(request)
        self._seeker = services.seeker_for(request)
        self._begun = begun
        self._first_look: Look | None = request.first_look
        self._saw_layers = False
        # A request that was made before has been counted, whatever it has found.
        self._looked = request.looked
        self._has_credit = False
        self._lease: Lease | None = None
        self._waiter: LeaseWaiter | None = None
        self._holder: HolderRecord | None = None
        self._waited_seconds = 0.0
        self._rejections: set[str] = set()
        self._artifact: Artifact | None = None
        self._error: AjitError | None = None
        self._compiling: Compiling | InPlace
        if request.perform is None:
            self._compiling = Compiling(services, request, self._emit, lambda: self._lease)
        else:
            perform = request.perform
            self._compiling = InPlace(services, request, perform, self._emit, lambda: self._lease)
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
        if self._compiling.reads is not None:
            return await self._compiling.holds_today()
        if self._artifact is None and not isinstance(self._error, CompileError):
            return True  # an error of the environment, which tells nothing about files
        look = await self._look()
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
                self._note_published(yes=True)
                with suppress(NoAnswer):
                    record = self._compiling.record_failure
                    await self._on_cache(record, self._error)
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
            look = await self._look(layers=not self._saw_layers)
        self._saw_layers = self._looked = True
        return self._take(look)

    async def _look(self, *, layers: bool = True) -> Look:
        try:
            return await self._on_cache(self._look_beating, self._lease, layers)
        except NoAnswer as exc:
            return Missing(str(exc))

    def _look_beating(self, lease: Lease | None, layers: bool) -> Look:  # noqa: FBT001 - private
        """Look, in a thread; another beats, for thousands of headers may take their time."""
        with lease.looking() if lease is not None else nullcontext():
            return self._seeker.look(self._request.wanted, layers=layers, again=self._looked)

    def _take(self, look: Look) -> Happening:
        if self._request.recache and not isinstance(look, Missing):
            self._compiling.reason = "it was to be compiled again"
            return Happening.REJECTED  # to be replaced, like a bad entry
        if isinstance(look, Found):
            self._artifact = look.artifact
            return Happening.FOUND
        if isinstance(look, CompileError):
            self._error = look
            return Happening.FAILED_BEFORE
        self._compiling.reason = look.reason
        if isinstance(look, Missing):
            return Happening.MISSING
        if look.reason not in self._rejections:  # once, however often this walk looks
            self._rejections.add(look.reason)
            self._emit(events.EntryRejected, reason=look.reason)
        return Happening.REJECTED

    async def _look_again(self) -> Happening:
        try:
            read = partial(self._store.read, self._made().key, counted=False)
            look = await self._on_cache(read)
        except NoAnswer:
            return Happening.MISSING
        if isinstance(look, Missing):
            return Happening.MISSING
        replaceable = self._request.recache or isinstance(look, Rejected)
        return Happening.REJECTED if replaceable else Happening.FOUND

    async def _publish(self) -> Happening:
        return await self._put(replace=False)

    async def _publish_replacing(self) -> Happening:
        return await self._put(replace=True)

    async def _put(self, *, replace: bool) -> Happening:
        self._note_published(yes=True)  # before: it may be there although we are cancelled
        try:
            result = await self._on_cache(
                self._put_beating, self._lease, replace, more_seconds=self._writing_seconds()
            )
        except NoAnswer as exc:
            result = PublishFailed(str(exc))
        if isinstance(result, PublishFailed):
            self._note_published(yes=False)
            self._emit(events.CacheUnwritable, reason=result.reason)
            self._services.warn_unwritable(result.reason)
            return Happening.PUBLISH_FAILED
        if isinstance(self._artifact, BundleArtifact):
            # Its files are in the cache: what they took in the temporary directory is free again.
            self._artifact = msgspec.structs.replace(self._artifact, pack=None)
        return Happening.PUBLISHED

    def _note_published(self, *, yes: bool) -> None:
        """Tell who follows on another node whether there is something to be seen, if not yet."""
        if self._lease is not None:
            self._lease.published = yes

    def _put_beating(self, lease: Lease | None, replace: bool) -> PublishResult:  # noqa: FBT001 - private
        """Publish, in a thread that may hang; another thread beats meanwhile."""
        with lease.publishing() if lease is not None else nullcontext():
            result = self._store.publish(self._made(), replace=replace)
            reads = self._compiling.reads
            if isinstance(result, PublishFailed) or not isinstance(reads, Settled):
                return result
            # After the entry: a list is what leads to it.
            failed = self._services.lists.publish(self._key, reads.list)
            return PublishFailed(failed) if failed else result

    # --- the lease ---

    async def _try_lease(self) -> Happening:
        await self._services.credits.take(self._key, self._request.urgency.priority)
        self._has_credit = True
        compiler = str(self._request.toolchain.identity)
        name = self._request.spec.name
        take = partial(self._services.leases.try_acquire, self._key, compiler, name=name)
        try:
            taken = await self._on_cache(take, late=_release_late)
        except NoAnswer as exc:
            # The permit of the compile is a lock of the same kind.
            self._services.permits.doubt()
            taken = Unavailable(str(exc))
        if isinstance(taken, Lease) and not self._services.trust.can_keep:
            self._lease = taken
            with anyio.CancelScope(shield=True):
                await self._release()
            taken = Unavailable(CANNOT_KEEP)
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
            # It is called whatever the cache does: a lease that stays would hold up all others.
            with suppress(NoAnswer):
                most = min(RELEASE_SECONDS, self._request.budget.seconds)
                seconds = 0.0 if self._services.guard.is_open else most
                await self._services.in_thread(lease.release, seconds=seconds, lane="release")

    async def _wait_for_lease(self) -> Happening:
        self._request.urgency.on_wait()
        waiter = self._waiter = LeaseWaiter(self._services, self._request, self._holder)
        end = await waiter.wait(recache=self._request.recache)
        if end.how == "lease" and not self._services.trust.can_keep:
            with anyio.CancelScope(shield=True):
                await self._stop_waiting()  # releases it
            end = WaitEnd("unavailable", reason=CANNOT_KEEP)
        self._holder, self._waited_seconds = waiter.holder, waiter.seconds
        happening = self._wait_ended(waiter, end)
        outcome = _OUTCOMES.get(happening, "lease")
        holder = self._holder.holder() if self._holder else None
        waited = self._waited_seconds
        self._emit(events.WaitEnded, holder=holder, waited_seconds=waited, outcome=outcome)
        return happening

    def _wait_ended(self, waiter: LeaseWaiter, end: WaitEnd) -> Happening:
        if end.how == "lease":
            self._services.tally.handovers += 1
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
            self._lease, waiter.lease = waiter.lease, None
            await self._release()

    def _waited_for(self) -> WaitedFor | None:
        if self._holder is None or not self._waited_seconds:
            return None
        return WaitedFor(host=self._holder.host, pid=self._holder.pid, seconds=self._waited_seconds)

    async def _compile(self) -> Happening:
        begun = time.monotonic()
        try:
            happening = await self._compiling.run()
        except BaseException:
            self._emit(events.CompileCancelled, seconds=time.monotonic() - begun)
            raise
        self._artifact, self._error = self._compiling.artifact, self._compiling.error
        return happening

    # --- helpers ---

    async def _on_cache(
        self,
        function: Callable[..., T],
        *args: object,
        late: Callable[[T], object] | None = None,
        more_seconds: float = 0.0,
    ) -> T:
        budget = self._request.budget
        seconds = budget.seconds + more_seconds
        return await self._services.on_cache(
            function, *args, late=late, budget=budget, seconds=seconds
        )

    def _writing_seconds(self) -> float:
        """What it may take to write a bundle, beyond a call that is answered."""
        return self._made().size_bytes / SLOWEST_BYTES_PER_SECOND if self._is_bundle else 0.0

    @property
    def _is_bundle(self) -> bool:
        return self._request.for_bundle

    def _made(self) -> Artifact:
        if self._artifact is None:
            raise PlanError("there is no artifact yet")
        return self._artifact

    @property
    def _key(self) -> str:
        return self._request.wanted.base.hex

    def _emit(self, event: type[events.Event], **facts: Any) -> None:
        if self._services.emitter.listening:
            request = self._request
            about: dict[str, Any] = {"name": request.spec.name, "entry": request.entry}
            self._services.emitter.emit(event(**about, key=self._key, **facts))


def _release_late(taken: Lease | Busy | Unavailable) -> None:
    """Release a lease that came when it was not waited for any more. In a thread."""
    if isinstance(taken, Lease):
        taken.release()
