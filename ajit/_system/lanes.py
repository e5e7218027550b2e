"""Lanes: a few daemon threads for calls that may hang, where a hung one takes no other's thread.

A lane has room for a few calls at a time, and the others queue. A call that has run for
`SLOW_SECONDS` does not count any more, so the next in the queue gets a thread in its place; but
only so many threads are ever added in this way. A file system that hangs for an hour costs that
many threads, which end when it answers.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from ajit._system.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SLOW_SECONDS", "Call", "Lane"]

T = TypeVar("T")

SLOW_SECONDS = 1.0
"""After this time a call gives its room to the next. Pretty arbitrary: most take under a ms."""

_threads = DaemonThreads("ajit-io")


class Call(Generic[T]):
    """One call on its way through a lane.

    The caller takes its outcome or leaves it; what comes after that is given to ``late``.

    Args:
        function: What is called.
        wake: Called once, from any thread, when there is an outcome, or at `refuse`.
        late: Takes a result that the caller has left, in the thread: releases what it holds.
        on_late: Called when a call that was left has ended.

    Attributes:
        begun: When it got a thread, monotonic; None before.
        refused: Why the caller is not to wait any longer, or "".
    """

    __slots__ = (
        "_error",
        "_function",
        "_late",
        "_left",
        "_lock",
        "_on_late",
        "_value",
        "_wake",
        "begun",
        "ended",
        "refused",
    )

    def __init__(
        self,
        function: Callable[[], T],
        wake: Callable[[], object],
        late: Callable[[T], object] | None = None,
        on_late: Callable[[], object] | None = None,
    ) -> None:
        self._function: Callable[[], T] | None = function
        self._wake = wake
        self._late = late
        self._on_late = on_late
        self._lock = threading.Lock()  # held for a few instructions only
        self._left = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self.begun: float | None = None
        self.ended = False
        self.refused = ""

    @property
    def settled(self) -> bool:
        """Whether the caller has nothing to wait for any more."""
        return self.ended or bool(self.refused)

    @property
    def unwanted(self) -> bool:
        """Whether its caller has gone, or was told to."""
        return self._left or self.settled

    def outcome(self) -> T:
        """Return what the function returned, or raise what it raised. Only once it has ended."""
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    def refuse(self, reason: str) -> None:
        """Tell the caller not to wait any longer. Any thread."""
        self.refused = reason
        self._wake()

    def leave(self) -> None:
        """Do not take the outcome: one that is there, or comes, is given to ``late``."""
        with self._lock:
            self._left, ended = True, self.ended
        if ended and self._error is None and self._late is not None:
            try:
                _threads.run(self._late, self._value)
            except RuntimeError:  # no more threads: a short block is better than a lost lease
                self._late(cast("T", self._value))

    def run(self) -> Callable[[], object]:
        """Call the function, in the thread; return what tells the caller."""
        function, self._function = self._function, None
        assert function is not None  # each call is run once
        try:
            self._value = function()
        except BaseException as exc:  # noqa: BLE001  # the caller raises it
            self._error = exc
        del function
        return self._end()

    def fail(self, error: BaseException) -> None:
        """End without a thread."""
        self._error = error
        self._end()()

    def _end(self) -> Callable[[], object]:
        with self._lock:
            self.ended, left = True, self._left
        if not left:
            return self._wake
        if self._error is None and self._late is not None:
            self._late(cast("T", self._value))
        if self._on_late is not None:
            self._on_late()
        return _nothing


class Lane:
    """Threads for calls of one kind. Any thread may use it.

    Args:
        limit: Calls at a time.
        extra: Threads beyond that, at most, in the place of slow ones.

    Attributes:
        moved: When a call last got a thread or ended, monotonic.
    """

    def __init__(self, limit: int, extra: int) -> None:
        self._limit = limit
        self._most = limit + extra
        self._lock = threading.Lock()  # held for a few instructions only
        self._queue: deque[Call[object]] = deque()
        self._busy: set[Call[object]] = set()
        self.moved = 0.0

    def start(self, call: Call[T]) -> None:
        """Give a call a thread, now or when there is room. Never blocks."""
        with self._lock:
            self._queue.append(cast("Call[object]", call))
        self.pump()

    def pump(self) -> None:
        """Give threads to calls of the queue, if there is room by now."""
        while (call := self._next()) is not None:
            try:
                _threads.run_and_tell(self._work, call)
            except RuntimeError as exc:  # no more threads
                self._forget(call)
                call.fail(exc)

    def threads(self) -> int:
        """How many threads it uses."""
        return len(self._busy)

    def __repr__(self) -> str:
        return f"<Lane {len(self._busy)} busy, {len(self._queue)} queued>"

    def _work(self, call: Call[object]) -> Callable[[], object]:
        """Make calls until there is none; return what tells the caller of the last one.

        It is told when this thread is idle again, so one call after another has one thread.
        """
        while True:
            tell = call.run()
            self._forget(call)
            following = self._next()
            if following is None:
                return tell
            tell()
            call = following

    def _forget(self, call: Call[object]) -> None:
        with self._lock:
            self._busy.discard(call)
            self.moved = time.monotonic()

    def _next(self) -> Call[object] | None:
        with self._lock:
            # Those that were left go even if there is no room, which may be so for days.
            while self._queue and self._queue[0].unwanted:
                self._queue.popleft()
            if not self._queue or not self._has_room():
                return None
            call = self._queue.popleft()
            call.begun = self.moved = time.monotonic()
            self._busy.add(call)
            return call

    def _has_room(self) -> bool:
        busy = len(self._busy)
        if busy < self._limit or busy >= self._most:
            return busy < self._limit
        slow_since = time.monotonic() - SLOW_SECONDS
        return sum((call.begun or 0.0) > slow_since for call in self._busy) < self._limit


def _nothing() -> None:
    pass
