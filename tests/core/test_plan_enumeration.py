"""The plan keeps its promises in every order of events: not one run, but all of them.

Three processes resolve one key. Every interleaving of their steps is visited, with a crash, a
stall, a cancel, a compile that fails, a publish that fails, locks that are not there, patience that
ends and an entry that rots or vanishes at every step where one is possible (`plan_model`). The last
tests break the plan on purpose: a check that finds nothing has to be shown able to find something.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from ajit._core import plan
from ajit._core.plan import Action, Happening, State
from tests.core.plan_model import BAD, GOOD, NONE, SHARED, Exploration, Violation, World, moves_of

PROCESSES = 3


@pytest.fixture(autouse=True)
def fresh_moves():
    """Moves are cached: a plan that a test broke must not leave its moves to the next one."""
    moves_of.cache_clear()
    yield
    moves_of.cache_clear()


def check(exploration: Exploration) -> None:
    """Visit every world and check every promise.

    While visiting: only verified or own bytes are returned and published; no good entry is
    overwritten but by a process that has just seen a bad one there, and by none at all as long as
    all have patience and locks; no key is compiled twice without an excuse. Afterwards: ends
    are reached, and what they are like.
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
    story = exploration.story(world)
    if not all(process.finished for process in processes):
        raise Violation(f"a process waits for ever:\n{story}")
    if any(process.holds for process in processes if process.life == "live"):
        raise Violation(f"a process ended and still holds the lease:\n{story}")
    done = [process.plan.state is State.DONE for process in processes]
    if any(done) and not world.spoiled and world.disk.entry != GOOD:
        raise Violation(f"a process has a kernel, but it is not kept:\n{story}")
    undisturbed = not world.excused and all(process.life == "live" for process in processes)
    if undisturbed and all(done) and world.compiles != (exploration.disk != GOOD):
        raise Violation(f"{world.compiles} compiles:\n{story}")


@pytest.mark.parametrize("disk", [NONE, BAD, GOOD])
def test_every_interleaving_of_three_processes(disk, capsys):
    """From a cold cache, a corrupt entry and a warm cache: every promise, in every world."""
    exploration = Exploration(disk, PROCESSES)

    check(exploration)
    steps = sum(map(len, exploration.fair_steps.values()))
    with capsys.disabled():
        sys.stdout.write(
            f"\n  plan: {PROCESSES} processes, {disk} entry at first: "
            f"{len(exploration.origins):,} states, {steps:,} fair steps\n"
        )
    assert len(exploration.origins) > (1_000 if disk == GOOD else 10_000)


def test_model_reaches_what_it_is_for():
    """Each state of the plan, each action whose order counts and each fate occurs in some world."""
    exploration = Exploration(BAD, 2)
    exploration.run()
    worlds = [exploration.processes(world) for world in exploration.origins]
    all_processes = {process for processes in worlds for process in processes}

    assert {process.plan.state for process in all_processes} == set(State)
    assert {process.todo[0] for process in all_processes if process.todo} == SHARED
    assert {process.helper for process in all_processes} == {"", "waiting", "won", "left", "late"}
    assert {process.life for process in all_processes} == {"live", "crashed", "stalled"}


# --- the plan broken on purpose ---


def broken(monkeypatch, happening: Happening, rule, *states: State) -> None:
    """Put another rule into the table, for some states or for all that know the happening."""
    for row in list(plan._TABLE):
        if row[1] is happening and (not states or row[0] in states):
            monkeypatch.setitem(plan._TABLE, row, rule)


def found_broken(complaint: str, *, disk: str = NONE, processes: int = 2) -> None:
    """Two processes are enough to find it."""
    with pytest.raises(Violation, match=complaint) as caught:
        check(Exploration(disk, processes))
    sys.stdout.write(f"{caught.value}\n")  # with -rA: the shortest story of the defect


def without(action: Action):
    """Every rule of the table, but it forgets an action."""

    def forgetful(rule):
        def changed(before):
            after, actions = rule(before)
            return after, tuple(doing for doing in actions if doing is not action)

        return changed

    return {row: forgetful(rule) for row, rule in plan._TABLE.items()}


def test_without_the_second_look_a_key_is_compiled_twice(monkeypatch):
    """Between the first look and the lease, its holder has published."""
    broken(
        monkeypatch,
        Happening.LEASE_TAKEN,
        plan._go(State.COMPILING, Action.COMPILE, leased=True),
    )
    found_broken("compiled twice")


@pytest.mark.parametrize("state", [State.LEASING, State.WAITING], ids=lambda state: state.value)
def test_both_second_looks_are_needed(monkeypatch, state):
    """The one after a lease that was free, and the one after a wait."""
    rule = plan._go(State.COMPILING, Action.COMPILE, leased=True)
    broken(monkeypatch, Happening.LEASE_TAKEN, rule, state)
    found_broken("compiled twice")


def test_without_the_release_a_process_waits_for_ever(monkeypatch):
    """A server lives on after its compile: the lock does not free itself."""
    monkeypatch.setattr(plan, "_TABLE", without(Action.RELEASE))
    found_broken("waits for ever|still holds the lease")


def test_without_the_release_on_cancelling_a_process_waits_for_ever(monkeypatch):
    """A cancelled task is not a dead process."""
    monkeypatch.setattr(
        plan,
        "_cancelled",
        lambda before: (replace(before, state=State.FAILED, leased=False), (Action.RAISE,)),
    )
    found_broken("waits for ever|still holds the lease")


def test_without_the_lease_a_key_is_compiled_twice(monkeypatch):
    """Nothing but the lease keeps two processes from compiling."""
    broken(monkeypatch, Happening.LEASE_HELD, plan._go(State.COMPILING, Action.COMPILE))
    found_broken("compiled twice")


def test_without_stopping_to_wait_a_lease_is_kept(monkeypatch):
    """The helper of an impatient waiter wins later, and no task is there to release the lease."""
    monkeypatch.setattr(plan, "_TABLE", without(Action.STOP_WAITING))
    found_broken("waits for ever|still holds the lease")


def test_without_the_end_of_patience_a_stalled_holder_stops_all_others(monkeypatch):
    """A stopped process keeps its locks: only patience gets past it."""
    broken(monkeypatch, Happening.PATIENCE_ENDED, plan._go(State.WAITING))
    found_broken("never ends")


def test_rejected_entry_must_not_be_returned(monkeypatch):
    """Rule 1: only verified bytes."""
    broken(monkeypatch, Happening.REJECTED, plan._end(Action.RETURN_FROM_DISK))
    found_broken("unverified", disk=BAD)


def test_failed_compile_must_not_be_published(monkeypatch):
    """Rule 1: only bytes that are there."""
    broken(monkeypatch, Happening.COMPILE_FAILED, plan._publish)
    found_broken("did not compile")


def test_without_the_failure_record_a_failing_compile_is_repeated(monkeypatch):
    """Rule 6: each of those who waited would fail for itself, one after another."""
    broken(monkeypatch, Happening.COMPILE_FAILED, plan._end(Action.RAISE))
    found_broken("compiled twice")


def test_failure_recorded_after_the_release_comes_too_late(monkeypatch):
    """Rule 6: a process that gets the lease in between finds no record."""

    def late(before):
        after, actions = plan._end(Action.RAISE)(before)
        return after, (*actions[:-1], Action.RECORD_FAILURE, Action.RAISE)

    broken(monkeypatch, Happening.COMPILE_FAILED, late)
    found_broken("compiled twice")


def test_replacing_without_the_lease_overwrites_a_good_entry(monkeypatch):
    """Rule 3: replacing blindly, by a look before the compile, overwrites a good entry."""
    broken(
        monkeypatch,
        Happening.COMPILED,
        lambda before: (
            replace(before, state=State.PUBLISHING),
            (Action.PUBLISH_REPLACING if before.rejected else Action.PUBLISH,),
        ),
    )
    found_broken("overwrites a good entry blindly", disk=BAD)


def test_good_entry_replaces_a_good_one_only_where_a_process_had_no_lease():
    """Rule 3: the race between a look and the rename after it is there, and it has an excuse."""
    exploration = Exploration(BAD, 2)
    exploration.run()  # a violation, should there be one without an excuse
    racing = [
        world
        for world in exploration.origins
        if world.disk.entry == GOOD
        and any(p.todo[:1] == (Action.PUBLISH_REPLACING,) for p in exploration.processes(world))
    ]

    assert racing
    assert all(world.excused for world in racing)


def test_bad_entry_that_only_a_holder_may_replace_stays(monkeypatch):
    """Rule 3: its holder is silent, so all others compile, and none mends it."""

    def only_holder(before):
        if before.leased and before.rejected:
            return replace(before, state=State.CONFIRMING), (Action.LOOK_AGAIN,)
        return replace(before, state=State.PUBLISHING), (Action.PUBLISH,)

    broken(monkeypatch, Happening.COMPILED, only_holder)
    found_broken("not kept", disk=BAD)


def test_bad_entry_that_is_never_replaced_is_compiled_again(monkeypatch):
    """Create-only publishing leaves a bad entry where it is: each process compiles anew."""
    broken(
        monkeypatch,
        Happening.COMPILED,
        lambda before: (replace(before, state=State.PUBLISHING), (Action.PUBLISH,)),
    )
    found_broken("compiled twice|not kept", disk=BAD)
