"""Batched calls: short blocking calls that tasks make at the same time share one hop to a thread.

A server that starts asks for hundreds of kernels in one turn of its loop. Each call takes 70 µs in
a thread, and the hop there and back takes twice that. So one thread makes the calls of one turn, up
to `BATCH_CALLS` of them, one after the other. More threads would not help: the calls are short
stretches between two system calls, and two threads that take turns with the GIL need twice the time
of one (measured: one thread reads 200 entries in 4 ms, two threads in 9 ms).

Each call has two parts. What it prepares may take its time. The look after that is on a file system
that may hang, so it has a deadline, and without an answer the call has no result for it. A batch
that is slow is taken apart: the calls behind the slow one move to another thread, so that one look
that hangs holds up no other. A batch that gets no thread, in a queue in which nothing moves, is as
silent as a look: after the deadline its calls are prepared elsewhere, and no look is made.

Belongs to one event loop. The batch is a shared task of the runtime, so no caller's cancellation
reaches it.
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, cast

import anyio

from ajit._system.breaker import Sign
from ajit._system.exceptions import copy_of
from ajit._system.lanes import SLOW_SECONDS, Call
from ajit._system.loop import LoopHandle
from ajit.errors import RuntimeClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ajit._system.guarded_calls import GuardedCalls, LaneName
    from ajit._system.shared_tasks import SharedTasks

__all__ = ["BATCH_CALLS", "TELL_SECONDS", "BatchedCalls", "Doing", "Moment"]

P = TypeVar("P")
T = TypeVar("T")

Moment: TypeAlias = dict[object, object]
"""What the calls of a batch have found out, by anything that tells it apart."""

Doing: TypeAlias = Literal["prepare", "look"]

TELL_SECONDS = 0.5
"""After this time a caller is told that its call is under way, and what it is at."""

BATCH_CALLS = 16
"""Calls of one batch. Pretty arbitrary: it saves most of the hops."""


class _Part(Generic[P, T]):
    """One call of a batch."""

    __slots__ = (
        "done",
        "error",
        "found",
        "look",
        "looking",
        "missed",
        "prepare",
        "prepared",
        "settled",
        "since",
        "slow",
    )

    def __init__(
        self,
        prepare: Callable[[], P],
        look: Callable[[P, Moment], T],
        missed: Callable[[float], object],
        slow: Callable[[Doing, float], object],
    ) -> None:
        self.prepare, self.look, self.missed, self.slow = prepare, look, missed, slow
        self.since = time.monotonic()
        self.done = anyio.Event()
        self.prepared: P | None = None
        self.found: T | None = None
        self.error: Exception | None = None
        self.looking: float | None = None  # since when, monotonic
        self.settled = False

    def tell_slow(self) -> None:
        """Tell the caller that it takes long, if it does. In the event loop."""
        waited = time.monotonic() - self.since
        if waited >= TELL_SECONDS and not self.settled:
            self.slow("prepare" if self.looking is None else "look", waited)

    def run(self, moment: Moment, looks: Callable[[], bool]) -> None:
        """Make the call. In the thread."""
        try:
            self.prepared = self.prepare()
            self.looking = time.monotonic()
            if looks():
                self.found = self.look(self.prepared, moment)
        except Exception as exc:  # noqa: BLE001  # its caller raises it
            self.error = exc
        self.settled = True


class _Batch:
    """Calls that share a hop, and the task's view of the thread that makes them.

    Attributes:
        pending: Calls that were not begun.
        current: The one that the thread is at.
        looks: Whether looks are made.
        lane: The threads that it shares.
        event: Set when there may be news; replaced by the task that waits for it.
    """

    def __init__(self, parts: Iterable[_Part[Any, Any]] = (), *, looks: bool = True) -> None:
        self.pending: deque[_Part[Any, Any]] = deque(parts)
        self.begun: list[_Part[Any, Any]] = []
        self.current: _Part[Any, Any] | None = None
        self.looks = looks
        self.lane: LaneName = "io"
        self.event = anyio.Event()

    def run(self) -> None:
        """Make the calls. In the thread."""
        moment: Moment = {}
        # One step each, which is atomic: the task may take the rest away in between.
        while self.pending:
            try:
                part = self.pending.popleft()
            except IndexError:
                return
            self.begun.append(part)
            self.current = part
            part.run(moment, self._looks)

    def take_rest(self) -> list[_Part[Any, Any]]:
        """Take away the calls that were not begun."""
        rest = []
        while self.pending:
            try:
                rest.append(self.pending.popleft())
            except IndexError:  # the thread was faster
                break
        return rest

    def tell(self) -> None:
        """Wake the callers that have an outcome."""
        for part in self.begun:
            if part.settled:
                part.done.set()

    def tell_slow(self) -> None:
        """Tell those whose calls take long."""
        for part in (*self.begun, *self.pending):
            part.tell_slow()

    def wake(self) -> None:
        """There may be news. In the event loop."""
        self.event.set()

    def _looks(self) -> bool:
        return self.looks


class BatchedCalls:
    """The batched calls of one runtime.

    Args:
        tasks: Where batches run.
        guard: The calls on the file system that is looked at.
        patience_seconds: The deadline of a look.
    """

    def __init__(self, tasks: SharedTasks, guard: GuardedCalls, patience_seconds: float) -> None:
        self._tasks = tasks
        self._guard = guard
        self._patience_seconds = patience_seconds
        self._open: _Batch | None = None

    async def call(
        self,
        prepare: Callable[[], P],
        look: Callable[[P, Moment], T],
        *,
        missed: Callable[[float], object] = lambda _: None,
        slow: Callable[[Doing, float], object] = lambda _doing, _seconds: None,
    ) -> tuple[P, T | None]:
        """Run two short blocking functions in a thread, together with others.

        Args:
            prepare: Makes what is looked for.
            look: Looks for it; called with it, and with what the calls of this batch share. All of
                them were asked for before the first one began, so what one finds out holds for the
                others.
            missed: Told for how many seconds a look has not been answered when it is given up. In
                the event loop.
            slow: Told after `TELL_SECONDS`, and about every second from then on, what the call is
                at, and since how many seconds it was made. In the event loop.

        Returns:
            What was prepared and what was found; None if the look was not answered in time, or not
            made because others were not answered.

        Raises:
            RuntimeClosed: The runtime was closed meanwhile.
            Exception: What a function raised, or why there is no thread.

        Cancelling only ends this wait: the functions still run.
        """
        batch = self._open
        if batch is None or len(batch.pending) == BATCH_CALLS:
            batch = self._open = _Batch()
            self._begin(batch)
        part = _Part(prepare, look, missed, slow)
        batch.pending.append(part)
        await part.done.wait()
        if part.error is not None:
            raise part.error
        return cast("P", part.prepared), part.found

    def _begin(self, batch: _Batch) -> None:
        self._tasks.begin(batch, partial(self._run, batch))

    async def _run(self, batch: _Batch) -> None:
        # In a task that starts in the loop's next turn: all calls of this turn are in the batch.
        if self._open is batch:
            self._open = None
        error: Exception = RuntimeClosed("the runtime was closed during this request")
        try:
            await self._watch(batch)
        except Exception as exc:  # noqa: BLE001  # the callers raise it
            error = exc
        finally:
            for part in (*batch.begun, *batch.pending):
                if not part.settled:
                    part.error = copy_of(error)
                part.done.set()

    async def _watch(self, batch: _Batch) -> None:
        """Give a batch a thread, and wait for it; go on without what hangs."""
        guard, wake = self._guard, partial(LoopHandle.current().call_soon, batch.wake)
        batch.looks = batch.looks and guard.admit()
        batch.lane = "io" if batch.looks else "local"
        on_late = partial(guard.note, Sign.CAME_BACK)
        hop = Call(batch.run, wake, on_late=on_late if batch.looks else None)
        guard.start(hop, batch.lane)
        try:
            sign = await self._wait(batch, hop)
        except BaseException:
            hop.leave()
            guard.forget(hop)
            if batch.looks:
                guard.note(Sign.LEFT)
            raise
        guard.forget(hop)
        if batch.looks:
            guard.note(sign)
        if hop.ended:
            hop.outcome()  # raises if there was no thread

    async def _wait(self, batch: _Batch, hop: Call[None]) -> Sign:
        """Wait until a batch has ended or is given up."""
        slow = min(SLOW_SECONDS, self._patience_seconds / 3)
        waited, pause = 0.0, min(slow, TELL_SECONDS)
        while not hop.ended:
            begun = time.monotonic()
            with anyio.move_on_after(pause):
                await batch.event.wait()
            if hop.ended:
                break
            batch.event = anyio.Event()
            batch.tell_slow()
            if pause == slow:  # not yet after the first, which is for telling
                self._take_apart(batch, hop)
            pause = slow
            silent_since = self._silent_since(batch, hop, begun)
            if silent_since is not None:
                waited += min(time.monotonic() - silent_since, 2 * slow)
                over = hop.refused or waited >= self._patience_seconds
                if over and self._give_up(batch, hop, waited):
                    return Sign.LEFT if hop.refused else Sign.MISSED
            elif batch.looks and hop.begun is not None and self._guard.is_open:
                # The trial of the breaker, and what it prepares may take for ever: another's turn.
                batch.looks = False
                self._guard.note(Sign.LEFT)
            if batch.looks:
                # Not at the end: a probe that answers a miss at once would undo what it told.
                self._guard.suspect()
        return Sign.ANSWERED

    def _silent_since(self, batch: _Batch, hop: Call[None], begun: float) -> float | None:
        """Since when, of a wait that began then, the file system is silent; None if it is not."""
        if hop.begun is None:
            # A queue in which nothing moves counts like a look that is not answered.
            silent = batch.looks and self._guard.lanes[batch.lane].moved < begun
            return begun if silent or hop.refused else None
        part = batch.current
        if part is None or part.looking is None:
            return None  # what is prepared may take its time
        return max(begun, part.looking)

    def _give_up(self, batch: _Batch, hop: Call[None], waited: float) -> bool:
        """Go on without the look; False if the batch has got a thread just now."""
        if hop.begun is None:
            self._move_on(batch, waited)
            # Asked again: a thread takes its first call from the batch only after it is noted.
            if hop.begun is not None:
                return False
        elif batch.current is not None:
            batch.current.settled = True
            batch.current.missed(waited)
        hop.leave()
        return True

    def _move_on(self, batch: _Batch, waited: float) -> None:
        """Prepare what was not begun, in a thread for other things; make no look."""
        rest = batch.take_rest()
        for part in rest:
            part.missed(waited)
        if rest:
            self._begin(_Batch(rest, looks=False))

    def _take_apart(self, batch: _Batch, hop: Call[None]) -> None:
        """A batch is slow: move on what is behind the call that the thread is at."""
        batch.looks = batch.looks and not hop.refused
        if hop.begun is None:
            self._guard.lanes[batch.lane].pump()
            return
        batch.tell()
        rest = batch.take_rest()
        if rest:
            self._begin(_Batch(rest))
