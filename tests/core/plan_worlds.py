"""All worlds that processes which follow plans can get into: every order of their steps is visited.

What one process can do is in `plan_model`. Here several do it at once, and against them plays an
adversary: the header is edited at any time, an entry rots or is removed, a list is removed, a
failure record becomes too old. Once a process has stalled, the end of patience is fair.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ajit._core.plan import start
from tests.core.plan_model import moves_of
from tests.core.plan_things import BAD, GOOD, NONE, SAYINGS, Disk, Process, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.core.plan_things import Move

ORPHAN = "orphan"
"""At the beginning there is a good entry without its list: its publisher died in between."""


class Step(NamedTuple):
    """What happens in a world.

    Attributes:
        what: In words.
        process: Who does it; None for the adversary.
    """

    what: str
    process: Process | None = None

    def __str__(self) -> str:
        return f"{_describe(self.process)} {self.what}" if self.process else self.what


class World(NamedTuple):
    """Everything. Processes are alike, so their order does not count, and they stand sorted.

    Attributes:
        processes: The processes, by their numbers in `Exploration`.
        disk: The header and the cache.
        compiles: For each thing that the header says, the compiles that came to a result for all,
            failing ones included; not counted once excused.
        excused: Whether the adversary did what excuses a second compile of one key. An edit does
            not: it excuses a compile if it comes between its look and its end, and no other.
        spoiled: Whether it did what excuses that there is no good entry in the end.
    """

    processes: tuple[int, ...]
    disk: Disk
    compiles: tuple[int, ...] = (0, 0)
    excused: bool = False
    spoiled: bool = False


@dataclass
class Exploration:
    """Every world that can be reached, breadth first, and the steps between them.

    Attributes:
        start: The entry at the beginning.
        count: How many processes there are.
        edits: How often the header may be edited.
        one_list: Whether one reading list leads to all entries.
        lists_go: Whether lists may be removed.
        fair_steps: World to the worlds that its fair moves lead to.
        origins: World to the world before it and what happened, on a shortest way.
    """

    start: str
    count: int
    edits: int = 0
    one_list: bool = False
    lists_go: bool = False
    fair_steps: dict[World, list[World]] = field(default_factory=dict)
    origins: dict[World, tuple[World, Step] | None] = field(default_factory=dict)
    _numbers: dict[Process, int] = field(default_factory=dict)
    _processes: list[Process] = field(default_factory=list)

    def run(self) -> None:
        """Visit every world.

        Raises:
            Violation: A promise is broken; the message has the shortest way there.
        """
        first = World((self._number(Process(*start())),) * self.count, self._first_disk())
        self.origins[first] = None
        queue = deque([first])
        while queue:
            world = queue.popleft()
            self.fair_steps[world] = []
            try:
                steps = list(self._steps(world))
            except Violation as violation:
                raise Violation(f"{violation}:\n{self.story(world)}") from None
            for step, after, fair in steps:
                if fair:
                    self.fair_steps[world].append(after)
                if after not in self.origins:
                    self.origins[after] = (world, step)
                    queue.append(after)

    def processes(self, world: World) -> list[Process]:
        """The processes of a world."""
        return [self._processes[number] for number in world.processes]

    def story(self, world: World) -> str:
        """How a world came about, a line for each step."""
        lines = [f"  {world.disk}; " + ", ".join(map(_describe, self.processes(world)))]
        while origin := self.origins[world]:
            world, step = origin
            lines.append(f"  {step}")
        return "\n".join(reversed(lines))

    def _first_disk(self) -> Disk:
        disk = Disk(edits=self.edits, one_list=self.one_list)
        if self.start == NONE:
            return disk
        if self.start == ORPHAN:
            return disk.with_entry(0, GOOD)
        return disk.with_entry(0, self.start).with_list(0, there=True)

    def _number(self, process: Process) -> int:
        if process not in self._numbers:
            self._numbers[process] = len(self._processes)
            self._processes.append(process)
        return self._numbers[process]

    def _steps(self, world: World) -> Iterator[tuple[Step, World, bool]]:
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
                yield Step(move.label, process), self._after(world, index, move), fair
        for label, disk in _decay(world.disk, lists_go=self.lists_go):
            spoiled = world.spoiled or world.disk.failure == disk.failure
            after = world._replace(disk=disk, compiles=(0, 0), excused=True, spoiled=spoiled)
            yield Step(label), after, False
        yield from self._edits(world, processes)

    def _edits(self, world: World, processes: list[Process]) -> Iterator[tuple[Step, World, bool]]:
        if not world.disk.edits:
            return
        says = 1 - world.disk.header
        numbers = sorted(self._number(process.sees_edit(says)) for process in processes)
        disk = world.disk._replace(header=says, edits=world.disk.edits - 1)
        after = world._replace(processes=tuple(numbers), disk=disk)
        yield Step(f"the header says {says} now"), after, False

    def _after(self, world: World, index: int, move: Move) -> World:
        numbers = list(world.processes)
        numbers[index] = self._number(move.after)
        excused = world.excused or move.excuses
        compiles = (0, 0) if excused else _counted(world.compiles, move.settles)
        if 2 in compiles:
            raise Violation("a key is compiled twice, and nothing excuses it")
        if move.overwrites and not excused:
            raise Violation("overwrites a good entry, and nothing excuses it")
        spoiled = world.spoiled or move.spoils
        return World(tuple(sorted(numbers)), move.disk, compiles, excused, spoiled)


def _counted(compiles: tuple[int, ...], says: int | None) -> tuple[int, ...]:
    if says is None:
        return compiles
    return tuple(count + (number == says) for number, count in enumerate(compiles))


def _decay(disk: Disk, *, lists_go: bool) -> Iterator[tuple[str, Disk]]:
    for says in SAYINGS:
        if disk.entries[says] == GOOD:
            for entry in (NONE, BAD):  # removed by a user, rotten on its disk
                yield f"entry {says} is {entry} now", disk.with_entry(says, entry)
        if lists_go and disk.lists[says]:
            yield f"the list of entry {says} is removed", disk.with_list(says, there=False)
    if disk.failure:
        yield "the failure record is too old now", disk._replace(failure=None)


def _describe(process: Process) -> str:
    if process.life != "live":
        return process.life
    facts = [process.plan.state.value, *(action.value for action in process.todo)]
    if process.read is not None:
        facts.append(f"compiled header {process.read}")
    if process.holds:
        facts.append("holding")
    return f"[{'; '.join(facts)}]"
