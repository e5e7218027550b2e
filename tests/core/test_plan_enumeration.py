"""The plan keeps its promises in every order of events: not one run, but all of them.

Three processes resolve one key. Every interleaving of their steps is visited, with a crash, a
stall, a cancel, a compile that fails, a publish that fails, locks that are not there, patience that
ends and an entry that rots or vanishes at every step where one is possible (`plan_worlds`). The
last tests break the plan on purpose: a check that finds nothing has to be shown able to find
something. Here no header is edited; for that see ``test_plan_reads.py``.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from ajit._core import plan
from ajit._core.plan import Action, Happening, State
from tests.core.plan_check import broken, check, found_broken
from tests.core.plan_model import SHARED, moves_of
from tests.core.plan_things import BAD, GOOD, NONE, performer
from tests.core.plan_worlds import ORPHAN, Exploration

PROCESSES = 3

pytestmark = pytest.mark.usefixtures("fresh_moves")


@pytest.mark.parametrize("disk", [NONE, BAD, GOOD, ORPHAN])
def test_every_interleaving_of_three_processes(disk, capsys):
    """From a cold cache, a bad entry, a warm cache, an entry without list: every promise."""
    exploration = Exploration(disk, PROCESSES)

    check(exploration)
    steps = sum(map(len, exploration.fair_steps.values()))
    with capsys.disabled():
        sys.stdout.write(
            f"\n  plan: {PROCESSES} processes, {disk} entry at first: "
            f"{len(exploration.origins):,} states, {steps:,} fair steps\n"
        )
    assert len(exploration.origins) > (1_000 if disk == GOOD else 10_000)


@pytest.mark.parametrize(("disk", "edits"), [(NONE, 0), (NONE, 1), (BAD, 0), (BAD, 1), (ORPHAN, 0)])
def test_publishing_that_has_two_winners_harms_no_reader(disk, edits, monkeypatch):
    """On a network file system a second ``link`` may succeed: every promise holds all the same."""
    without_it = Exploration(disk, 2, edits=edits)
    check(without_it)
    moves_of.cache_clear()
    monkeypatch.setattr(performer, "links_twice", lambda: True)
    exploration = Exploration(disk, 2, edits=edits)

    check(exploration)
    moves = [sum(map(len, one.fair_steps.values())) for one in (without_it, exploration)]
    assert moves[1] > moves[0]


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
    broken(monkeypatch, Happening.COMPILE_FAILED, plan._go(State.PUBLISHING, Action.PUBLISH))
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
    """Rule 3: replacing blindly, without a look after the compile, overwrites a good entry."""
    broken(
        monkeypatch,
        Happening.COMPILED,
        lambda before: (
            replace(before, state=State.PUBLISHING),
            (Action.PUBLISH_REPLACING,),
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
        if world.disk.entries[0] == GOOD
        and any(
            p.todo[:1] == (Action.PUBLISH_REPLACING,) and not p.put
            for p in exploration.processes(world)
        )
    ]

    assert racing
    assert all(world.excused for world in racing)


def test_bad_entry_that_only_a_holder_may_replace_stays(monkeypatch):
    """Rule 3: its holder is silent, so all others compile, and none mends it."""

    def only_holder(before):
        if before.leased:
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
