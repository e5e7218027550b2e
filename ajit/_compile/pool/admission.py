"""Decides which task starts next, and when: order, free slots, memory, and a node's permit.

A task stays in the queue until everything that it needs is available. Until then a more urgent task
can overtake it, it can be promoted or cancelled, and it beats as ``queued``. A slot's thread waits
for, in this order:

1. **A task**: foreground before background (`ajit._system.priority_line`).
2. **A slot for it**, and of a build with several jobs as many as are free, up to what it can make
   use of: one is enough to begin. While foreground work has been coming in, background work leaves
   the last free slot alone: then a request that needs a compile does not wait for one of a
   warm-up. Without requests, a warm-up uses every slot. With one slot, a foreground task waits for
   at most the compile that is running.
3. **Memory** (`ajit._compile.pool.ledger`).
4. **A permit** from a gate outside of the pool, such as a count of compiles over all processes.

Only one thread of the pool, whichever comes first, asks for memory and permits; the others wait for
a condition. So a server with 192 slots that waits for memory reads ``/proc`` ten times a second and
not two thousand times.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Literal, Protocol

from ajit._compile.pool.ledger import MemoryLedger
from ajit._system.limits import available_memory_bytes
from ajit._system.priority_line import PriorityLine
from ajit._system.warn import warn_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._compile.pool.task import Task
    from ajit._core.job import CompileJob
    from ajit.settings import Settings

__all__ = ["Admission", "Gate", "HeldBack", "Permit", "Permits"]

ADMIT_SECONDS = 0.1
"""How often memory and the gate are asked again. Work that ends in this process asks at once."""

URGENT_SECONDS = 10.0
"""How long after a foreground task the last free slot is kept for the next. Pretty arbitrary."""

HeldBack = Literal["", "slots", "foreground", "memory", "permit"]
"""What the next task waits for although a thread is free for it: ``slots`` are those that a build
with several jobs has."""


class Permit(Protocol):
    """The permission to compile one job."""

    def release(self) -> None:
        """Release it. Called once, in a thread of the pool, after the compiler has ended."""


class Gate(Protocol):
    """A further condition for the start of a compile, such as a limit for a whole node."""

    def try_admit(self, job: CompileJob) -> Permit | None:
        """Return a permit for a job, or None if none is free; the pool then asks again.

        Called in a thread of the pool, one call at a time. It may touch files; it must not wait.
        It is asked until it grants: a gate whose permits are held by others, who may have stalled,
        must grant in the end. If it raises, the pool warns and goes on without it.
        """


class Permits:
    """The permits of one task: one for each of its jobs.

    Attributes:
        jobs: How many jobs it may run.
    """

    def __init__(self) -> None:
        self.jobs = 0
        self._permits: list[Permit] = []

    def add(self, permit: Permit) -> None:
        """Take one more."""
        self._permits.append(permit)
        self.jobs += 1

    def release(self) -> None:
        """Release all of them. May touch files."""
        permits, self._permits = self._permits, []
        for permit in permits:
            try:
                permit.release()
            except Exception as exc:  # noqa: BLE001 - foreign code; the compile is done
                warn_only(f"the permit {permit!r} could not be released: {exc!r}")


class Admission:
    """The queue, and the decision which task starts next. Any thread may use it."""

    def __init__(self, settings: Settings, gate: Gate | None) -> None:
        self._slots = settings.compile_slots
        self._gate = gate
        self._ledger = MemoryLedger(
            settings.compile_memory_estimate_bytes, settings.compile_memory_limit_bytes
        )
        # Guards everything below. Held for microseconds; never while waiting for anything else.
        self._changed = threading.Condition()
        self._queue: PriorityLine[Task] = PriorityLine()
        self._running: set[Task] = set()
        self._idle = 0
        self._has_leader = False
        self._urgent_until = 0.0
        self._closing = False
        self.held_back: HeldBack = ""

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def counts(self) -> tuple[int, int, int]:
        """Tasks that run, that are queued, and how many of these are background work."""
        with self._changed:
            return len(self._running), len(self._queue), self._queue.count("background")

    def submit(self, task: Task) -> bool:
        """Queue a task; return whether there are more tasks than threads that wait for some."""
        with self._changed:
            self._queue.push(task)
            self._note_urgency(task.priority == "foreground")
            self._changed.notify_all()
            return self._idle < len(self._queue)

    def promote(self, key: str) -> bool:
        """Move queued background tasks of a key to the foreground."""
        with self._changed:
            moved = self._queue.promote(key)
            self._note_urgency(moved)
            self._changed.notify_all()
            return moved

    def is_queued(self, key: str) -> bool:
        """Whether a task of a key waits for its start."""
        with self._changed:
            return any(task.key == key for task in self._queue)

    def withdraw(self, task: Task) -> bool:
        """Take a task out of the queue; False if it has started or ended."""
        with self._changed:
            return self._queue.remove(task)

    def close(self) -> list[Task]:
        """Let every `take` return None; return the tasks that were queued."""
        with self._changed:
            self._closing = True
            dropped = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
            return dropped

    def take(self, idle_seconds: float, on_idle: Callable[[], None]) -> Task | None:
        """Wait for a task that may start now; it counts as running until `finish`.

        Args:
            idle_seconds: After this time without work..
            on_idle: ..this is called.

        Returns:
            None when the pool closes.
        """
        with self._changed:
            self._idle += 1
        while True:
            if not self._lead(idle_seconds):
                on_idle()
                self._lead(None)
            if self._closing:
                return None
            task = self._admit()
            if task is not None:
                return task

    def finish(self, task: Task) -> None:
        """Release what a task had of this process: its slot and its memory. Does no I/O."""
        if task.claim is not None:
            self._ledger.leave(task.claim)
        with self._changed:
            self._running.discard(task)
            task.state = "done"
            self._changed.notify_all()

    def release(self, task: Task) -> None:
        """Release its permit, after `finish`. May touch files."""
        if task.permit is not None:
            task.permit.release()
            with self._changed:
                self._changed.notify_all()  # a thread that was refused one just now asks again

    def await_queued(self, seconds: float) -> list[Task] | None:
        """Sleep so long, then return the tasks that are queued; None when the pool closes.

        With nothing queued it sleeps on: no need to wake up every second in an idle server.
        """
        with self._changed:
            if not self._queue:
                self._changed.wait_for(lambda: self._queue or self._closing)
            if self._changed.wait_for(lambda: self._closing, seconds):
                return None
            return list(self._queue)

    # --- the thread that leads

    def _lead(self, seconds: float | None) -> bool:
        """Wait until there is work and no other thread leads; False if none came in time."""
        with self._changed:
            came = self._changed.wait_for(
                lambda: self._closing or (self._queue and not self._has_leader), seconds
            )
            self._has_leader = self._has_leader or bool(came and not self._closing)
            return bool(came)

    def _admit(self) -> Task | None:
        """Start the next task as soon as possible; None if there is none any more."""
        try:
            while (task := self._next()) is not None:
                held_back, permits = self._ask(task)
                if not held_back and self._start(task, permits):
                    return task
                permits.release()  # it was cancelled meanwhile
                self._wait_for_change(held_back)
            return None
        finally:
            with self._changed:
                self._has_leader = False
                self.held_back = ""
                self._changed.notify_all()

    def _next(self) -> Task | None:
        with self._changed:
            return None if self._closing else self._queue.head()

    def _ask(self, task: Task) -> tuple[HeldBack, Permits]:
        """Return what a task must wait for, or its permits. Not under the lock: it reads files."""
        free = self._free_slots()
        if free < 1:
            return "slots", Permits()
        if self._is_kept_for_foreground(task):
            if free < 2:
                return "foreground", Permits()
            free -= 1
        wanted = min(free, jobs_of(task.job, self._slots))
        measured = self._ledger.asks or wanted > 1
        available = available_memory_bytes() if measured else None
        admitted = self._ledger.admits(task.job.compiler, available, wanted)
        if not admitted:
            return "memory", Permits()
        permits = self._permits(task.job, admitted)
        return ("", permits) if permits.jobs else ("permit", permits)

    def _permits(self, job: CompileJob, jobs: int) -> Permits:
        """Ask the gate for so many permits; return those that it gives."""
        permits = Permits()
        while permits.jobs < jobs:
            if self._gate is None:
                permits.jobs = jobs
                break
            try:
                permit = self._gate.try_admit(job)
            except Exception as exc:  # noqa: BLE001 - foreign code; it only saves load
                warn_only(f"compiles are no longer counted by {self._gate!r}: {exc!r}")
                self._gate = None
                continue
            if permit is None:
                break
            permits.add(permit)
        return permits

    def _free_slots(self) -> int:
        with self._changed:
            return self._slots - sum(task.jobs for task in self._running)

    def _start(self, task: Task, permits: Permits) -> bool:
        """Make a task a running one, unless it was withdrawn."""
        with self._changed:
            if not self._queue.remove(task):
                return False
            # In one step with the queue: `submit` compares the two.
            self._idle -= 1
            self._running.add(task)
            task.state = "running"
            task.permit = permits
            task.jobs = permits.jobs
            task.claim = self._ledger.enter(task.job.compiler, permits.jobs)
            return True

    def _wait_for_change(self, held_back: HeldBack) -> None:
        with self._changed:
            self.held_back = held_back
            if held_back and not self._closing:
                self._changed.wait(ADMIT_SECONDS)

    def _is_kept_for_foreground(self, task: Task) -> bool:
        with self._changed:
            return (
                task.priority == "background"
                and self._slots > 1
                and time.monotonic() < self._urgent_until
            )

    def _note_urgency(self, urgent: bool) -> None:  # noqa: FBT001 - private, one meaning
        if urgent:
            self._urgent_until = time.monotonic() + URGENT_SECONDS


def jobs_of(job: CompileJob, slots: int) -> int:
    """How many slots a job can make use of."""
    return min(slots, job.build.jobs or slots) if job.build else 1
