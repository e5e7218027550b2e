"""A small model of the world that plans run in: some processes, one entry, one lock.

It plays the performer (`ajit._resolve.walk`) for several processes at once, one atomic step at a
time, in every order there is. What it takes for granted is what the performer and the kernel
promise:

- reading and publishing are atomic: a reader sees no entry, the good one, or the bad one whole;
- the lock excludes, and is freed when its holder's process dies, but not when it stalls;
- a wait has a helper that may win the lock at any moment, also when it is no longer wanted: from
  STOP_WAITING on it gives the lock back at once;
- several actions are done in order, and being cancelled does not come between them: it comes while
  a read, an attempt, a wait, a compile or a publish is to be done or under way.

Steps that touch neither the disk nor the lock are done at once: no process can see when, so no
order is lost, and there are fewer worlds.

A move is *fair* if it only needs time. All else is the adversary's: a crash, a stall, a cancel, a
compile or publish that fails, locks that are not there, patience that ends, an entry that rots or
is removed, a failure record that cannot be written or becomes too old. Once a process has stalled,
the end of patience is fair.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from ajit._core.plan import Action, Happening, Plan, State, start, step

if TYPE_CHECKING:
    from collections.abc import Iterator

NONE, GOOD, BAD = "none", "good", "bad"

SHARED = {
    Action.READ_ENTRY, Action.TRY_LEASE, Action.LOOK_AGAIN, Action.PUBLISH,
    Action.PUBLISH_REPLACING, Action.RECORD_FAILURE, Action.RELEASE,
}  # fmt: skip
"""Actions that touch the disk or the lock, so that their order counts."""


class Violation(AssertionError):
    """A promise of the plan does not hold."""


class Disk(NamedTuple):
    """The cache's content for the key.

    Attributes:
        entry: ``none``, ``good`` or ``bad``.
        failed: Whether there is a failure record.
    """

    entry: str
    failed: bool = False

    def __str__(self) -> str:
        return self.entry + (", failure record" if self.failed else "")


class Process(NamedTuple):
    """One process that resolves the key.

    Attributes:
        plan: Where its plan stands.
        todo: Actions that it has still to do.
        life: ``live``, ``crashed``, or ``stalled``: alive, holding what it holds, but never moving.
        holds: Whether it holds the lock.
        helper: Of its wait: ``waiting``, ``won`` (not told yet), ``left`` (its waiter has left), or
            ``late`` (won after its waiter had left).
        verified: Whether it has read an entry that verified.
        compiled: Whether it has compiled, and has its own bytes.
        confirmed: Whether it has looked since then, and the entry did not verify.
    """

    plan: Plan
    todo: tuple[Action, ...]
    life: str = "live"
    holds: bool = False
    helper: str = ""
    verified: bool = False
    compiled: bool = False
    confirmed: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing more is expected of its plan."""
        return self.life != "live" or (self.plan.ended and not self.todo)


class World(NamedTuple):
    """Everything. Processes are alike, so their order does not count, and they stand sorted.

    Attributes:
        processes: The processes, by their numbers in `Exploration`.
        disk: The entry and the failure record.
        compiles: Compiles that were begun, failing ones included; not counted once excused.
        excused: Whether the adversary did what excuses a second compile.
        spoiled: Whether it did what excuses that there is no good entry in the end.
    """

    processes: tuple[int, ...]
    disk: Disk
    compiles: int = 0
    excused: bool = False
    spoiled: bool = False


class Move(NamedTuple):
    """One atomic step of one process.

    Attributes:
        overwrites: Whether it puts a good entry over a good one.
    """

    label: str
    after: Process
    disk: Disk
    fair: bool = True
    excuses: bool = False
    spoils: bool = False
    compiles: int = 0
    overwrites: bool = False


# --- what one process can do ----------------------------------------------------------------------


@cache
def moves_of(process: Process, disk: Disk, *, lock_free: bool) -> tuple[Move, ...]:
    """Every step that a process can take now, its adversary's included."""
    if process.life != "live":
        return ()
    moves = list(_helper_moves(process, disk, lock_free=lock_free))
    if not process.finished:
        moves += _moves_of_plan(process, disk, lock_free=lock_free)
        moves += _cancel(process, disk)
        moves.append(Move("stalls", process._replace(life="stalled"), disk, fair=False))
    if not process.finished or process.helper:
        dead = Process(Plan(state=State.FAILED), (), life="crashed")
        moves.append(Move("crashes", dead, disk, fair=False, excuses=True))
    return tuple(map(_settled, moves))


def _settled(move: Move) -> Move:
    """Do at once what no other process can see."""
    process, compiles = move.after, move.compiles
    while process.todo and process.todo[0] not in SHARED:
        action, process = process.todo[0], process._replace(todo=process.todo[1:])
        compiles += action is Action.COMPILE
        process = _at_once(process, action)
    return move._replace(after=process, compiles=compiles)


def _at_once(process: Process, action: Action) -> Process:
    if action is Action.COMPILE:
        return process
    if action is Action.WAIT:
        return process._replace(helper="waiting")
    if action is Action.STOP_WAITING:
        left = {"waiting": "left", "won": "late"}.get(process.helper, process.helper)
        return process._replace(helper=left)
    if action is Action.RETURN_FROM_DISK and not process.verified:
        raise Violation("returns unverified bytes")
    if action is Action.RETURN_COMPILED and not process.compiled:
        raise Violation("returns compiled bytes that it does not have")
    if process.todo:
        raise Violation(f"has actions after its end: {process.todo}")
    ended = replace(process.plan, rejected=False)  # it counts no more, like the next two
    return process._replace(plan=ended, verified=False, compiled=False, confirmed=False)


def _helper_moves(process: Process, disk: Disk, *, lock_free: bool) -> Iterator[Move]:
    if process.helper == "waiting" and lock_free:
        yield Move("helper wins", process._replace(helper="won", holds=True), disk)
    if process.helper == "left" and lock_free:
        yield Move("helper wins late", process._replace(helper="late", holds=True), disk)
    if process.helper == "late":
        yield Move("helper releases", process._replace(helper="", holds=False), disk)


def _moves_of_plan(process: Process, disk: Disk, *, lock_free: bool) -> Iterator[Move]:
    if not process.todo:
        yield from _reports(process, disk)
        return
    action, doing = process.todo[0], process._replace(todo=process.todo[1:])
    if action is Action.RELEASE:
        yield Move(action.value, doing._replace(holds=False), disk)
    elif action is Action.RECORD_FAILURE:
        yield Move(action.value, doing, disk._replace(failed=True))
        yield Move("cannot record the failure", doing, disk, fair=False, excuses=True)
    elif action is Action.READ_ENTRY:
        yield _read(doing, disk)
    elif action is Action.LOOK_AGAIN:
        yield _look_again(doing, disk)
    elif action is Action.TRY_LEASE:
        yield from _try_lease(doing, disk, lock_free=lock_free)
    else:
        yield from _publish(doing, action, disk)


def _told(process: Process, happening: Happening, **changes: object) -> Process:
    plan, todo = step(process.plan, happening)
    return process._replace(plan=plan, todo=todo, **changes)


def _read(process: Process, disk: Disk) -> Move:
    found = {
        NONE: Happening.MISSING, GOOD: Happening.FOUND, BAD: Happening.REJECTED,
    }[disk.entry]  # fmt: skip
    good = found is Happening.FOUND
    happening = Happening.FAILED_BEFORE if disk.failed and not good else found
    return Move(f"reads: {disk}", _told(process, happening, verified=good), disk)


def _look_again(process: Process, disk: Disk) -> Move:
    happening = {
        NONE: Happening.MISSING, GOOD: Happening.FOUND, BAD: Happening.REJECTED,
    }[disk.entry]  # fmt: skip
    told = _told(process, happening, confirmed=disk.entry == BAD)
    return Move(f"looks again: {disk.entry}", told, disk)


def _try_lease(process: Process, disk: Disk, *, lock_free: bool) -> Iterator[Move]:
    if lock_free:
        yield Move("takes the lease", _told(process, Happening.LEASE_TAKEN, holds=True), disk)
    else:
        yield Move("finds the lease held", _told(process, Happening.LEASE_HELD), disk)
    without = _told(process, Happening.LEASE_UNAVAILABLE)
    yield Move("finds no locks", without, disk, fair=False, excuses=True)


def _publish(process: Process, action: Action, disk: Disk) -> Iterator[Move]:
    overwrites = action is Action.PUBLISH_REPLACING and disk.entry == GOOD
    if overwrites and not process.confirmed:
        raise Violation("overwrites a good entry blindly")
    if not process.compiled:
        raise Violation("publishes what it did not compile")
    replaced = disk.entry == NONE or action is Action.PUBLISH_REPLACING
    created = disk._replace(entry=GOOD) if replaced else disk
    yield Move(action.value, process, created, overwrites=overwrites)
    failed = _told(process, Happening.PUBLISH_FAILED)
    yield Move("cannot publish", failed, disk, fair=False, excuses=True, spoils=True)


def _reports(process: Process, disk: Disk) -> Iterator[Move]:
    """The outcomes of an action that takes time."""
    state = process.plan.state
    if state is State.WAITING:
        yield from _ends_of_wait(process, disk)
    elif state is State.COMPILING:
        done = _told(process, Happening.COMPILED, compiled=True)
        yield Move("has compiled", done, disk)
        failed = _told(process, Happening.COMPILE_FAILED)
        yield Move("fails to compile", failed, disk, fair=False)
        broken = _told(process, Happening.COMPILE_BROKE_OFF)
        yield Move("breaks off its compile", broken, disk, fair=False, excuses=True)
    elif state is State.PUBLISHING:
        yield Move("has published", _told(process, Happening.PUBLISHED), disk)


def _ends_of_wait(process: Process, disk: Disk) -> Iterator[Move]:
    if process.helper == "won":
        yield Move("is given the lease", _told(process, Happening.LEASE_TAKEN, helper=""), disk)
    if disk.entry == GOOD:
        yield Move("sees the entry", _told(process, Happening.FOUND, verified=True), disk)
    elif disk.failed:
        yield Move("sees the failure", _told(process, Happening.FAILED_BEFORE), disk)
    impatient = _told(process, Happening.PATIENCE_ENDED)
    yield Move("loses patience", impatient, disk, fair=False, excuses=True)
    if process.helper == "waiting":
        without = _told(process, Happening.LEASE_UNAVAILABLE, helper="")
        yield Move("finds no locks", without, disk, fair=False, excuses=True)


def _cancel(process: Process, disk: Disk) -> Iterator[Move]:
    if not process.plan.ended:
        yield Move(
            "is cancelled", _told(process, Happening.CANCELLED), disk, fair=False, excuses=True
        )


# --- all of them together -------------------------------------------------------------------------


@dataclass
class Exploration:
    """Every world that can be reached, breadth first, and the steps between them.

    Attributes:
        disk: The entry at the beginning.
        count: How many processes there are.
        fair_steps: World to the worlds that its fair moves lead to.
        origins: World to the world before it and what happened, on a shortest way.
    """

    disk: str
    count: int
    fair_steps: dict[World, list[World]] = field(default_factory=dict)
    origins: dict[World, tuple[World, str] | None] = field(default_factory=dict)
    _numbers: dict[Process, int] = field(default_factory=dict)
    _processes: list[Process] = field(default_factory=list)

    def run(self) -> None:
        """Visit every world.

        Raises:
            Violation: A promise is broken; the message has the shortest way there.
        """
        first = World((self._number(Process(*start())),) * self.count, Disk(self.disk))
        self.origins[first] = None
        queue = deque([first])
        while queue:
            world = queue.popleft()
            self.fair_steps[world] = []
            try:
                steps = list(self._steps(world))
            except Violation as violation:
                raise Violation(f"{violation}:\n{self.story(world)}") from None
            for label, after, fair in steps:
                if fair:
                    self.fair_steps[world].append(after)
                if after not in self.origins:
                    self.origins[after] = (world, label)
                    queue.append(after)

    def processes(self, world: World) -> list[Process]:
        """The processes of a world."""
        return [self._processes[number] for number in world.processes]

    def story(self, world: World) -> str:
        """How a world came about, a line for each step."""
        lines = [f"  entry: {world.disk}; " + ", ".join(map(_describe, self.processes(world)))]
        while origin := self.origins[world]:
            world, label = origin
            lines.append(f"  {label}")
        return "\n".join(reversed(lines))

    def _number(self, process: Process) -> int:
        if process not in self._numbers:
            self._numbers[process] = len(self._processes)
            self._processes.append(process)
        return self._numbers[process]

    def _steps(self, world: World) -> Iterator[tuple[str, World, bool]]:
        processes = self.processes(world)
        lock_free = not any(process.holds for process in processes)
        stalled = any(process.life == "stalled" for process in processes)
        for index, process in enumerate(processes):
            if index and world.processes[index] == world.processes[index - 1]:
                continue  # the same step of its twin
            for move in moves_of(process, world.disk, lock_free=lock_free):
                if move.after.life == "stalled" and stalled:
                    continue  # one is enough to wait for
                fair = move.fair or (stalled and move.label == "loses patience")
                who = f"{_describe(process)} {move.label}"
                yield who, self._after(world, index, move), fair
        for label, disk in _decay(world.disk):
            spoiled = world.spoiled or world.disk.entry != disk.entry
            yield label, world._replace(disk=disk, excused=True, spoiled=spoiled), False

    def _after(self, world: World, index: int, move: Move) -> World:
        numbers = list(world.processes)
        numbers[index] = self._number(move.after)
        excused = world.excused or move.excuses
        compiles = 0 if excused else world.compiles + move.compiles
        if compiles > 1:
            raise Violation("a key is compiled twice, and nothing excuses it")
        if move.overwrites and not excused:
            raise Violation("overwrites a good entry, and nothing excuses it")
        spoiled = world.spoiled or move.spoils
        return World(tuple(sorted(numbers)), move.disk, compiles, excused, spoiled)


def _decay(disk: Disk) -> Iterator[tuple[str, Disk]]:
    if disk.entry == GOOD:
        for entry in (NONE, BAD):  # removed by a user, rotten on its disk
            yield f"the entry is {entry} now", disk._replace(entry=entry)
    if disk.failed:
        yield "the failure record is too old now", disk._replace(failed=False)


def _describe(process: Process) -> str:
    if process.life != "live":
        return process.life
    facts = [process.plan.state.value, *(action.value for action in process.todo)]
    if process.holds:
        facts.append("holding")
    return f"[{'; '.join(facts)}]"
