"""Checks the promises of the plan in every world of an exploration, and breaks it on purpose."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from ajit._core import plan
from ajit._core.plan import State
from tests.core.plan_things import GOOD, NONE, Violation
from tests.core.plan_worlds import Exploration

if TYPE_CHECKING:
    from ajit._core.plan import Happening
    from tests.core.plan_worlds import World


def check(exploration: Exploration) -> None:
    """Visit every world and check every promise.

    While visiting:

    - only verified or own bytes are returned and published;
    - what comes from the disk was compiled from what the header has said during the look that found
      it, and so was a failure that is believed;
    - no good entry is overwritten but by a process that has just seen a bad one there, and by none
      at all as long as all have patience and locks;
    - no key is compiled twice without an excuse. An edit excuses the compile it falls into.

    Afterwards: ends are reached, and what they are like.
    """
    exploration.run()
    check_every_fair_run_ends(exploration)
    for world, steps in exploration.fair_steps.items():
        if not steps:
            check_end(exploration, world)


def check_every_fair_run_ends(exploration: Exploration) -> None:
    """Fair steps have no circle, so from every world each fair run leads to a world without any."""
    missing = dict.fromkeys(exploration.fair_steps, 0)
    for steps in exploration.fair_steps.values():
        for after in steps:
            missing[after] += 1
    ready = [world for world, count in missing.items() if count == 0]
    ordered = 0
    while ready:
        ordered += 1
        for after in exploration.fair_steps[ready.pop()]:
            missing[after] -= 1
            if missing[after] == 0:
                ready.append(after)
    if ordered != len(exploration.fair_steps):
        raise Violation("there is a run that never ends")


def check_end(exploration: Exploration, world: World) -> None:
    """Where no fair step is left, every process has ended and released what it held."""
    processes = exploration.processes(world)
    if not all(process.finished for process in processes):
        raise Violation(f"a process waits for ever:\n{exploration.story(world)}")
    if any(process.holds for process in processes if process.life == "live"):
        raise Violation(f"a process ended and still holds the lease:\n{exploration.story(world)}")
    for kept in {process.kept for process in processes} - {None}:
        found = world.disk.entries[kept] == GOOD and world.disk.lists[kept]
        if not found and not world.spoiled:
            raise Violation(
                f"a process has a kernel, but it is not kept:\n{exploration.story(world)}"
            )
    undisturbed = not world.excused and world.disk.edits == exploration.edits
    done = [process.life == "live" and process.plan.state is State.DONE for process in processes]
    if undisturbed and all(done) and sum(world.compiles) != (exploration.start != GOOD):
        raise Violation(f"{world.compiles} compiles:\n{exploration.story(world)}")


def broken(monkeypatch, happening: Happening, rule, *states: State) -> None:
    """Put another rule into the table, for some states or for all that know the happening."""
    for row in list(plan._TABLE):
        if row[1] is happening and (not states or row[0] in states):
            monkeypatch.setitem(plan._TABLE, row, rule)


def found_broken(complaint: str, *, disk: str = NONE, edits: int = 0) -> None:
    """Two processes are enough to find it."""
    with pytest.raises(Violation, match=complaint) as caught:
        check(Exploration(disk, 2, edits=edits))
    sys.stdout.write(f"{caught.value}\n")  # with -rA: the shortest story of the defect
