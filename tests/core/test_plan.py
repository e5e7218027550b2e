"""The plan step by step: each row of its table, each happening that cannot be, each promise."""

from __future__ import annotations

import re
from itertools import product

import pytest

from ajit._core import plan as plan_module
from ajit._core.plan import Action, Happening, Plan, PlanError, State, start, step

A, H, S = Action, Happening, State

# (state, leased) + what happens -> (state, leased), actions
WALKS = {
    # looking
    (S.LOOKING, H.FOUND): (S.DONE, [A.RETURN_FROM_DISK]),
    (S.LOOKING, H.MISSING): (S.LEASING, [A.TRY_LEASE]),
    (S.LOOKING, H.REJECTED): (S.LEASING, [A.TRY_LEASE]),
    (S.LOOKING, H.FAILED_BEFORE): (S.FAILED, [A.RAISE]),
    # leasing
    (S.LEASING, H.LEASE_TAKEN): (S.RECHECKING, [A.READ_ENTRY]),
    (S.LEASING, H.LEASE_HELD): (S.WAITING, [A.WAIT]),
    (S.LEASING, H.LEASE_UNAVAILABLE): (S.COMPILING, [A.COMPILE]),
    # waiting
    (S.WAITING, H.LEASE_TAKEN): (S.RECHECKING, [A.READ_ENTRY]),
    (S.WAITING, H.LEASE_UNAVAILABLE): (S.COMPILING, [A.COMPILE]),
    (S.WAITING, H.FOUND): (S.DONE, [A.STOP_WAITING, A.RETURN_FROM_DISK]),
    (S.WAITING, H.PATIENCE_ENDED): (S.COMPILING, [A.STOP_WAITING, A.COMPILE]),
    (S.WAITING, H.FAILED_BEFORE): (S.FAILED, [A.STOP_WAITING, A.RAISE]),
    # rechecking: always with the lease
    (S.RECHECKING, H.FOUND): (S.DONE, [A.RELEASE, A.RETURN_FROM_DISK]),
    (S.RECHECKING, H.FAILED_BEFORE): (S.FAILED, [A.RELEASE, A.RAISE]),
    (S.RECHECKING, H.MISSING): (S.COMPILING, [A.COMPILE]),
    (S.RECHECKING, H.REJECTED): (S.COMPILING, [A.COMPILE]),
    # confirming: right before publishing
    (S.COMPILING, H.COMPILED): (S.CONFIRMING, [A.LOOK_AGAIN]),
    (S.CONFIRMING, H.REJECTED): (S.PUBLISHING, [A.PUBLISH_REPLACING]),
    (S.CONFIRMING, H.MISSING): (S.PUBLISHING, [A.PUBLISH]),
    # its publisher may have died before it put the list
    (S.CONFIRMING, H.FOUND): (S.PUBLISHING, [A.PUBLISH]),
}
"""Rows that do not depend on what went before."""


def reached(state: State, *, leased: bool = False) -> Plan:
    """A plan in that state."""
    return Plan(state=state, leased=leased)


def walk(*happenings: Happening) -> tuple[Plan, tuple[Action, ...]]:
    """Start, let that happen, and return where it led."""
    plan, actions = start()
    for happening in happenings:
        plan, actions = step(plan, happening)
    return plan, actions


def test_resolution_starts_by_reading():
    """Most kernels were compiled before: the disk is looked at first, without any lock."""
    assert start() == (Plan(), (A.READ_ENTRY,))
    assert start()[0].state is S.LOOKING
    assert not start()[0].ended


@pytest.mark.parametrize(("row", "expected"), WALKS.items(), ids=repr)
def test_row(row, expected):
    """Each state and event has one next state and one list of actions."""
    state, happening = row
    plan, actions = step(reached(state, leased=state is S.RECHECKING), happening)

    assert (plan.state, list(actions)) == expected


@pytest.mark.parametrize("leased", [False, True])
@pytest.mark.parametrize(
    ("state", "happening", "end", "first", "last"),
    [
        (S.COMPILING, H.COMPILE_FAILED, S.FAILED, [A.RECORD_FAILURE], A.RAISE),
        (S.COMPILING, H.COMPILE_BROKE_OFF, S.FAILED, [], A.RAISE),
        (S.COMPILING, H.COMPILED_UNSHARED, S.DONE, [], A.RETURN_COMPILED),
        (S.PUBLISHING, H.PUBLISHED, S.DONE, [], A.RETURN_COMPILED),
        (S.PUBLISHING, H.PUBLISH_FAILED, S.DONE, [], A.RETURN_COMPILED),
    ],
)
def test_end_gives_the_lease_back_first(state, happening, end, first, last, leased):
    """With a lease or without one; a failed publish still returns the kernel.

    A failure is recorded before the release: the next holder of the lease looks for the record.
    """
    plan, actions = step(reached(state, leased=leased), happening)

    assert plan.state is end
    assert plan.ended
    assert not plan.leased
    assert list(actions) == [*first, *([A.RELEASE] if leased else []), last]


@pytest.mark.parametrize("leased", [False, True])
def test_only_an_entry_that_is_bad_after_the_compile_is_replaced(leased):
    """With or without a lease, and whatever was met before."""
    looks, actions = step(reached(S.COMPILING, leased=leased), H.COMPILED)

    assert (looks.state, actions) == (S.CONFIRMING, (A.LOOK_AGAIN,))
    assert step(looks, H.REJECTED)[1] == (A.PUBLISH_REPLACING,)
    assert step(looks, H.MISSING)[1] == (A.PUBLISH,)
    assert step(looks, H.FOUND)[1] == (A.PUBLISH,)


@pytest.mark.parametrize("state", [state for state in S if state not in (S.DONE, S.FAILED)])
@pytest.mark.parametrize("leased", [False, True])
def test_cancelling_releases_everything_that_is_held(state, leased):
    """Everywhere: the wait is left, the lease released, the error raised."""
    plan, actions = step(reached(state, leased=leased), H.CANCELLED)
    expected = [A.STOP_WAITING] if state is S.WAITING else []
    expected += [A.RELEASE] if leased else []

    assert (plan.state, plan.leased) == (S.FAILED, False)
    assert list(actions) == [*expected, A.RAISE]


POSSIBLE = {
    *WALKS,
    (S.COMPILING, H.COMPILED),
    (S.COMPILING, H.COMPILED_UNSHARED),
    (S.COMPILING, H.COMPILE_FAILED),
    (S.COMPILING, H.COMPILE_BROKE_OFF),
    (S.PUBLISHING, H.PUBLISHED),
    (S.PUBLISHING, H.PUBLISH_FAILED),
    *((state, H.CANCELLED) for state in S if state not in (S.DONE, S.FAILED)),
}


@pytest.mark.parametrize(("state", "happening"), sorted(set(product(S, H)) - POSSIBLE, key=str))
def test_an_impossible_event_is_an_error(state, happening):
    """A runner that loses its place is found out at once, by a message that names both."""
    with pytest.raises(PlanError, match=f"'{happening.value}'.*{state.value}"):
        step(reached(state), happening)


def test_every_row_is_tested():
    """A row that is added to the table has to be added here."""
    cancelling = {row for row in POSSIBLE if row[1] is H.CANCELLED}

    assert set(plan_module._TABLE) == POSSIBLE - cancelling


@pytest.mark.parametrize("state", [S.DONE, S.FAILED])
def test_nothing_happens_after_an_end(state):
    """Cancelling comes too late, as everything else does."""
    assert reached(state).ended
    with pytest.raises(PlanError):
        step(reached(state), H.CANCELLED)


def test_the_usual_cold_start():
    """Look, lease, look again, compile, publish, release, return."""
    plan, actions = walk(H.MISSING, H.LEASE_TAKEN, H.MISSING, H.COMPILED, H.MISSING, H.PUBLISHED)

    assert plan.state is S.DONE
    assert actions == (A.RELEASE, A.RETURN_COMPILED)


def test_the_usual_waiter():
    """Look, find the lease held, wait, get the entry."""
    plan, actions = walk(H.MISSING, H.LEASE_HELD, H.FOUND)

    assert plan.state is S.DONE
    assert actions == (A.STOP_WAITING, A.RETURN_FROM_DISK)


def test_bad_entry_is_replaced():
    """Rejected, leased, rejected again, and once more after the compile: published over it."""
    walked = walk(H.REJECTED, H.LEASE_TAKEN, H.REJECTED, H.COMPILED, H.REJECTED)

    assert walked[1] == (A.PUBLISH_REPLACING,)


def test_bad_entry_that_was_removed_meanwhile_is_not_replaced():
    """The look after the compile decides."""
    walked = walk(H.REJECTED, H.LEASE_TAKEN, H.REJECTED, H.COMPILED, H.MISSING)

    assert walked[1] == (A.PUBLISH,)


def test_entry_that_went_bad_meanwhile_is_replaced():
    """The same, the other way round; no look before the compile need have met it."""
    walked = walk(H.MISSING, H.LEASE_TAKEN, H.MISSING, H.COMPILED, H.REJECTED)

    assert walked[1] == (A.PUBLISH_REPLACING,)


@pytest.mark.parametrize(
    "without_lease", [(H.LEASE_UNAVAILABLE,), (H.LEASE_HELD, H.PATIENCE_ENDED)], ids=str
)
def test_bad_entry_is_replaced_without_the_lease_as_well(without_lease):
    """Its holder may be silent for ever, or there are no locks: another process has to mend it."""
    walked = walk(H.REJECTED, *without_lease, H.COMPILED, H.REJECTED)

    assert walked[1] == (A.PUBLISH_REPLACING,)


def test_good_entry_that_came_meanwhile_stays():
    """Another process has mended it: ours is published create-only, for the sake of its list."""
    walked = walk(H.REJECTED, H.LEASE_HELD, H.PATIENCE_ENDED, H.COMPILED, H.FOUND)

    assert walked[1] == (A.PUBLISH,)


def test_impatient_waiter_does_not_hold_the_lease():
    """It compiles for itself, publishes create-only, and has nothing to release."""
    plan, actions = walk(H.MISSING, H.LEASE_HELD, H.PATIENCE_ENDED, H.COMPILED, H.MISSING)

    assert not plan.leased
    assert actions == (A.PUBLISH,)
    assert step(plan, H.PUBLISHED)[1] == (A.RETURN_COMPILED,)


def test_drawing_names_every_state():
    """The picture in the module's docstring shows the machine that runs."""
    drawn = set(re.findall(r"\b[A-Z]{4,}\b", plan_module.__doc__.split("Rules,")[0]))

    assert drawn == {state.name for state in S}
