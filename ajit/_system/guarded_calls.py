"""Guarded calls: calls on a file system that may hang, with a deadline and a circuit breaker.

A call runs in a daemon thread (`ajit._system.lanes`). If it is not answered within its deadline,
its caller goes on without the answer (`NoAnswer`), and the thread is left to itself: it ends when
the file system answers. While a call is slow, a probe is made beside it. When the breaker opens
(`ajit._system.breaker`), every caller that waits goes on at once, and later calls are not made,
until a probe or one of the calls that were left comes back.

Time in which this process was stopped itself does not count as silence of the file system: the wait
goes in slices, and each counts for at most twice its length.

Any thread and any event loop may use it; there is one for each file system, or directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar, cast

import anyio

from ajit._system.breaker import CLOSED, RETRY_SECONDS, Breaker, BreakerState, Sign, step
from ajit._system.lanes import SLOW_SECONDS, Call, Lane
from ajit._system.loop import LoopHandle
from ajit._system.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "LINGER_SECONDS",
    "Follows",
    "GuardedCalls",
    "LaneName",
    "NoAnswer",
    "guarded_calls",
]

T = TypeVar("T")

LaneName: TypeAlias = Literal["io", "watch", "permit", "digests", "release", "local", "history"]

LANES: dict[LaneName, tuple[int, int]] = {
    "io": (4, 12),
    "watch": (1, 3),
    "permit": (1, 3),
    "digests": (1, 3),
    "release": (2, 14),
    "local": (4, 12),
    "history": (1, 1),
}
"""Room, and threads that may be added in the place of slow ones. Pretty arbitrary: the calls are
short. ``watch`` is for the looks of waiters: those of a thousand must not delay a publish, or
processes would lose patience with each other. ``digests`` is for calls within other calls, which
would wait for each other's threads, ``release`` for what must be called whatever happens. ``local``
is for calls on anything else, ``history`` for what may as well be lost."""

UNGUARDED: tuple[LaneName, ...] = ("digests", "release", "local", "history")
"""Their calls are made whatever this file system does, and tell nothing about it."""

UNANSWERED_SECONDS = 0.1
"""A probe that has waited for so long counts as not answered, beside a call that was missed."""

PROBES = 2
"""Probes that may hang at a time, as long as nothing is mounted or unmounted."""

MOST_PROBES = 16
"""The same after any number of mounts."""

_MOUNTS = Path("/proc/self/mountinfo")

LINGER_SECONDS = 2.0
"""How long a cancelled caller waits for its call. Pretty arbitrary."""

UNLESS_SECONDS = 0.25

_probe_threads = DaemonThreads("ajit-probe")


class Follows(Protocol):
    """Something that is open on the file system, and that a new mount may take the place of."""

    def follow_path(self) -> None:
        """Go where the path leads now."""


class NoAnswer(Exception):
    """A call was not answered in time, or not made because others were not.

    What it does may still happen, at any time.
    """


class GuardedCalls:
    """The calls on one file system. Get one with `guarded_calls`.

    Args:
        what: What does not answer, for messages.
        probe: A short call that asks the file system; whatever it raises is an answer.
    """

    def __init__(self, what: str, probe: Callable[[], object]) -> None:
        self._what = what
        self._probe = probe
        self.lanes = {name: Lane(limit, extra) for name, (limit, extra) in LANES.items()}
        # Guards all below. Held for a few instructions only.
        self._lock = threading.Lock()
        self._breaker: Breaker = CLOSED
        self._waiting: set[Call[object]] = set()
        self._probes: dict[float, bytes] = {}  # when they began, and what was mounted then
        self._probe_begun_at = float("-inf")
        self._trial_missed_at = 0.0
        self._when_back: weakref.WeakSet[Follows] = weakref.WeakSet()

    def follow(self, user: Follows) -> None:
        """Call a user's ``follow_path`` when the file system may be another one than it was.

        After each probe that was answered, in its thread, and before anything else is let through.
        If it hangs or raises, the probe counts as not answered: a mount may be gone, and the next
        one not there yet. The user is not kept alive for it.
        """
        with self._lock:
            self._when_back.add(user)

    @property
    def is_open(self) -> bool:
        """Whether the file system is taken not to answer."""
        return self._breaker.is_open

    @property
    def reason(self) -> str:
        """Why no call is made, or ""."""
        return f"{self._what} does not answer" if self._breaker.is_open else ""

    def threads(self) -> int:
        """How many threads are in calls and probes now."""
        return sum(lane.threads() for lane in self.lanes.values()) + len(self._probes)

    async def call(
        self,
        function: Callable[[], T],
        *,
        seconds: float,
        late: Callable[[T], object] | None = None,
        lane: LaneName = "io",
        linger: Callable[[], float] = lambda: LINGER_SECONDS,
    ) -> T:
        """Make a call, and wait for it in the event loop.

        Args:
            function: What is called, in a thread.
            seconds: The deadline, from when it gets its thread.
            late: Takes the result that comes after the deadline, in the thread.
            lane: Which threads it shares.
            linger: How many seconds it waits for its thread when it is cancelled, asked then.

        Raises:
            NoAnswer: It was not answered in time, or not made.
            Exception: What the function raised.

        Cancelling leaves the call as the deadline does.
        """
        event, loop = anyio.Event(), LoopHandle.current()
        call = self._begin(function, partial(loop.call_soon, event.set), late, lane)
        try:
            for pause in self._pauses(call, seconds, lane):
                with anyio.move_on_after(pause):
                    await event.wait()
                if call.settled:
                    break
            return self._outcome(call, seconds, lane)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True), anyio.move_on_after(linger()):
                await event.wait()
            self._leave(call, Sign.LEFT, lane)
            raise

    def call_blocking(
        self,
        function: Callable[[], T],
        *,
        seconds: float,
        late: Callable[[T], object] | None = None,
        lane: LaneName = "io",
        unless: Callable[[], bool] = lambda: False,
    ) -> T:
        """The same, for a thread that waits itself; it gives up a few times a second `unless`."""
        event = threading.Event()
        call = self._begin(function, event.set, late, lane)
        for pause in self._pauses(call, seconds, lane, longest=UNLESS_SECONDS):
            event.wait(pause)
            if call.settled:
                break
            if unless():
                call.refuse("not waited for")
                break
        return self._outcome(call, seconds, lane)

    def note(self, sign: Sign) -> None:
        """Note what a call told. When that opens the breaker, all that wait are told."""
        if sign is Sign.ANSWERED and self._breaker is CLOSED:
            return  # almost always, and the lock is not needed to see it
        with self._lock:
            was, was_open, now = self._breaker.state, self._breaker.is_open, time.monotonic()
            if sign is Sign.MISSED and self._is_probe_unanswered(now):
                sign = Sign.MISSED_TWICE
            self._breaker = step(self._breaker, sign, now)
            if was is BreakerState.TRYING and self._breaker.state is BreakerState.OPEN:
                self._trial_missed_at = now
            opened = self._breaker.is_open and not was_open
            waiting = list(self._waiting) if opened else []
        for call in waiting:
            call.refuse(self.reason)

    def suspect(self) -> None:
        """Make a probe, unless one is under way: a call takes long."""
        now = time.monotonic()
        with self._lock:
            if not self._may_probe(now):
                return
            self._probes[now] = b""
            self._probe_begun_at = now
            self._breaker = self._breaker.probed(now)
        try:
            _probe_threads.run(self._make_probe, now)
        except RuntimeError:  # no more threads: the call that takes long has one
            self._forget_probe(now)

    def _may_probe(self, now: float) -> bool:
        if any(now - begun < RETRY_SECONDS for begun in self._probes):
            return False
        pause = 0.0 if len(self._probes) < PROBES else RETRY_SECONDS
        return len(self._probes) < MOST_PROBES and now - self._probe_begun_at >= pause

    def _is_of_use(self, begun: float) -> bool:
        """Whether a probe may tell more than those that hang; in its thread, before it is made.

        They may hang where the path does not lead any more: then it tells of the new mount.
        """
        mounts = _what_is_mounted()
        with self._lock:
            hanging = [was for other, was in self._probes.items() if other != begun]
            self._probes[begun] = mounts
            return len(hanging) < PROBES or mounts not in hanging

    def _forget_probe(self, begun: float) -> None:
        with self._lock:
            self._probes.pop(begun, None)

    def __repr__(self) -> str:
        return f"<GuardedCalls {self._breaker.state.value} threads={self.threads()}>"

    def admit(self) -> bool:
        """Whether a call may be made now; if so, it has begun, and `note` is to be called."""
        with self._lock:
            breaker = self._breaker
            if breaker.admits:
                if breaker is not CLOSED:
                    self._breaker = step(breaker, Sign.BEGUN, time.monotonic())
                return True
        if breaker.probe_due(time.monotonic()):
            self.suspect()
        return False

    def start(self, call: Call[T], lane: LaneName) -> None:
        """Give a call a thread. It is refused when the breaker opens, until `forget`."""
        if lane not in UNGUARDED:
            with self._lock:
                self._waiting.add(cast("Call[object]", call))
        self.lanes[lane].start(call)

    def forget(self, call: Call[T]) -> None:
        """Its caller does not wait any more."""
        with self._lock:
            self._waiting.discard(cast("Call[object]", call))

    def _begin(
        self,
        function: Callable[[], T],
        wake: Callable[[], object],
        late: Callable[[T], object] | None,
        lane: LaneName,
    ) -> Call[T]:
        guarded = lane not in UNGUARDED
        if guarded and not self.admit():
            raise NoAnswer(self.reason)
        on_late = partial(self.note, Sign.CAME_BACK) if guarded else None
        call = Call(function, wake, late, on_late)
        self.start(call, lane)
        return call

    def _pauses(
        self, call: Call[T], seconds: float, lane: LaneName, longest: float = SLOW_SECONDS
    ) -> Iterator[float]:
        """Yield how long to wait for a call before the next look, until its time is over."""
        slow = min(longest, seconds / 3)
        waited = 0.0
        while True:
            pause, begun = min(slow, seconds - waited), time.monotonic()
            yield pause
            # A queue in which nothing moves counts like a call that is not answered.
            if call.begun is not None or self.lanes[lane].moved < begun:
                waited += min(time.monotonic() - begun, 2 * pause)
            if waited >= seconds:
                return
            self.lanes[lane].pump()
            if lane not in UNGUARDED:
                self.suspect()

    def _outcome(self, call: Call[T], seconds: float, lane: LaneName) -> T:
        if call.ended:
            if lane not in UNGUARDED:
                self.forget(call)
                self.note(Sign.ANSWERED)
            return call.outcome()
        if call.refused:
            self._leave(call, Sign.LEFT, lane)
            raise NoAnswer(call.refused)
        self._leave(call, Sign.MISSED, lane)
        raise NoAnswer(self.reason or f"{self._what} has not answered for {seconds:.1f} s")

    def _leave(self, call: Call[T], sign: Sign, lane: LaneName) -> None:
        call.leave()
        if lane not in UNGUARDED:
            self.forget(call)
            self.note(sign)

    def _is_probe_unanswered(self, now: float) -> bool:
        return any(now - begun > UNANSWERED_SECONDS for begun in self._probes)

    def _make_probe(self, begun: float) -> None:
        if not self._is_of_use(begun):
            self._forget_probe(begun)
            return
        with contextlib.suppress(Exception):  # an error is an answer
            self._probe()
        there = self._follow_path()
        self._forget_probe(begun)
        with self._lock:
            # Made beside a trial that was missed: such answers have just proved to say nothing.
            stale = begun < self._trial_missed_at
        if there and not stale:
            self.note(Sign.CAME_BACK)

    def _follow_path(self) -> bool:
        """Whether all users could go where the path leads."""
        with self._lock:
            users = list(self._when_back)
        try:
            for user in users:
                user.follow_path()
        except Exception:  # noqa: BLE001  # whatever it is, there is nothing to be used
            return False
        return True


def _what_is_mounted() -> bytes:
    """What is mounted where, for comparison. Does not touch what is mounted."""
    try:
        return hashlib.sha256(_MOUNTS.read_bytes()).digest()
    except OSError:
        return b""


_guards: weakref.WeakValueDictionary[str, GuardedCalls] = weakref.WeakValueDictionary()
_guards_lock = threading.Lock()


def guarded_calls(path: str) -> GuardedCalls:
    """Return the calls of this process on the file system of a path. Touches nothing."""
    with _guards_lock:
        guard = _guards.get(path)
        if guard is None:
            guard = _guards[path] = GuardedCalls(path, partial(os.statvfs, path))
        return guard


def _forget() -> None:
    # A forked child begins anew: a thread that it has not may have held a lock.
    global _guards, _guards_lock  # a fork replaces the state of the process
    _guards, _guards_lock = weakref.WeakValueDictionary(), threading.Lock()


os.register_at_fork(after_in_child=_forget)
