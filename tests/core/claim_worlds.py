"""All worlds that processes which follow the table of claims can get into, and what is promised.

Several processes want one lease, on several mounts. Two on one mount are two that its lock let pass
both. Every order of their steps is visited, with every mount late in every way, and with a crash or
a stall at every step; one that was stalled may go on at any later time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from ajit._core.claim import State
from tests.core.claim_model import moves_of
from tests.core.claim_things import Process, Rules, Server, View, Violation
from tests.core.searching import search, story_of, that_cannot_reach

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

ALIVE = ("live", "late", "stalled")


class World(NamedTuple):
    """Where everything stands.

    Attributes:
        processes: By their numbers in `Exploration`; sorted, for those of one mount are alike.
        server: What is so, and what is seen of it, by its number.
        faults: How often something may still happen to a process.
        compiles: How many there were.
    """

    processes: tuple[int, ...]
    server: int
    faults: int
    compiles: int = 0


class Numbers(Generic[T]):
    """Things by numbers, so that worlds are small and soon compared."""

    def __init__(self) -> None:
        self._numbers: dict[T, int] = {}
        self.things: list[T] = []

    def number(self, thing: T) -> int:
        """The number of a thing."""
        number = self._numbers.setdefault(thing, len(self.things))
        if number == len(self.things):
            self.things.append(thing)
        return number


@dataclass
class Exploration:
    """Every world that can be reached, breadth first.

    Attributes:
        mounts: The mount of each process.
        faults: How many crashes and stalls there may be.
        rules: What is done about claims.
        origins: World to the one before it and what happened, on a shortest way.
        before: World to those from which a fair step leads to it.
    """

    mounts: tuple[int, ...]
    faults: int = 1
    rules: Rules = field(default_factory=Rules)
    origins: dict[World, tuple[World, str] | None] = field(default_factory=dict)
    before: dict[World, list[World]] = field(default_factory=dict)
    _processes: Numbers[Process] = field(default_factory=Numbers)
    _servers: Numbers[Server] = field(default_factory=Numbers)

    def run(self) -> None:
        """Visit every world and check every promise.

        - at most one process that lives up to it holds the lease;
        - without a crash or stall there is one compile, and all are served;
        - from every world, what is fair leads to one in which all are served that live: so none
          waits for ever.

        Raises:
            Violation: A promise is broken; the message has a shortest way there.
        """
        views = (View(),) * (max(self.mounts) + 1)
        first = self._world([Process(mount) for mount in self.mounts], Server(views=views))
        search([first], self._steps, self._check, self.origins, self.before)
        self._check_none_waits_for_ever()

    def processes(self, world: World) -> list[Process]:
        """The processes of a world."""
        return [self._processes.things[number] for number in world.processes]

    def server(self, world: World) -> Server:
        """The server of a world."""
        return self._servers.things[world.server]

    def story(self, world: World) -> str:
        """How a world came about, a line for each step."""
        return story_of(self.origins, world)

    def _world(
        self, processes: list[Process], server: Server, faults: int | None = None, compiles: int = 0
    ) -> World:
        mounts = {process.mount for process in processes if process.life in ALIVE}
        numbers = tuple(sorted(map(self._processes.number, processes)))
        server_number = self._servers.number(server.without_what_makes_no_difference(mounts))
        # More than two compiles make no difference.
        left = self.faults if faults is None else faults
        return World(numbers, server_number, left, min(compiles, 2))

    def _check(self, world: World) -> None:
        if sum(process.holds for process in self.processes(world)) > 1:
            raise Violation(f"two hold the lease:\n{self.story(world)}")
        if world.faults == self.faults and world.compiles > 1:
            raise Violation(f"compiled twice:\n{self.story(world)}")

    def _check_none_waits_for_ever(self) -> None:
        stuck = that_cannot_reach(self._ended, self.origins, self.before)
        if stuck is not None:
            raise Violation(f"a process waits for ever:\n{self.story(stuck)}")

    def _ended(self, world: World) -> bool:
        return not any(process.moves for process in self.processes(world))

    def _steps(self, world: World) -> Iterator[tuple[str, World, bool]]:
        processes, server = self.processes(world), self.server(world)
        for index, process in enumerate(processes):
            if index and process == processes[index - 1]:
                continue  # the same step of its twin
            yield from self._moves(world, processes, server, index)
            yield from self._fates(world, processes, server, index)
        for mount in range(len(server.views)):
            for fact in server.late_facts(mount):
                shown = self._world(
                    processes, server.shows(mount, fact), world.faults, world.compiles
                )
                yield f"mount {mount} shows {server.name(fact)}", shown, True
        later = self._later(world, processes, server)
        if later is not None:
            yield "a tick later", later, True

    def _moves(
        self, world: World, processes: list[Process], server: Server, index: int
    ) -> Iterator[tuple[str, World, bool]]:
        mount = processes[index].mount
        for move in moves_of(processes[index], server, self.rules):
            wrote = move.label == "writes"
            others = [one.sees_no_wrap(move.after) if wrote else one for one in processes]
            others[index] = move.after
            compiles = world.compiles + move.compiled
            after = self._world(others, move.server, world.faults, compiles)
            yield f"{mount}.{index} {move.label}", after, True

    def _fates(
        self, world: World, processes: list[Process], server: Server, index: int
    ) -> Iterator[tuple[str, World, bool]]:
        process, faults = processes[index], world.faults
        fates: list[tuple[str, Process, int]] = []
        if process.life == "stalled":
            late = process.state is State.HOLDING
            fates = [("goes on", process._replace(life="late" if late else "live"), 0)]
        if process.life == "live" and faults:
            crashed = Process(process.mount, life="crashed")
            fates = [("crashes", crashed, 1), ("stalls", process._replace(life="stalled"), 1)]
        for what, then, cost in fates:
            others = [*processes[:index], then, *processes[index + 1 :]]
            after = self._world(others, server, faults - cost, world.compiles)
            yield f"{process.mount}.{index} {what}", after, False

    def _later(self, world: World, processes: list[Process], server: Server) -> World | None:
        if not all(process.may_see_time_pass for process in processes):
            return None
        if not any(process.moves for process in processes):
            return None
        ticked = server.ticked(self.rules.delay)
        if ticked is None:
            return None
        idle = [process._replace(busy=False) for process in processes]
        return self._world(idle, ticked, world.faults, world.compiles)
