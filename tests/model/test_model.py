"""The protocol keeps its promises in a second model, checked by ``spin``.

The first one is the enumeration in ``tests/core``, which drives the plan itself. This one,
``resolve.pml``, is written apart from it, and knows of the beat. Promises are assertions in it;
that every process ends is shown by there being no stuck process and no endless run, once Fate is
calm. Then parts of the protocol are left out, and ``spin`` has to find what each of them is for.
"""

from __future__ import annotations

import re
import sys

import pytest

from ajit._core.plan import State
from tests.model.checker import MODEL, check_model, why_impossible

TWICE = "assertion violated (compiles[key]<=1)"
STUCK = "invalid end state"
KEPT = "assertion violated (lock!=me)"
UNVERIFIED = "assertion violated verified"
# 2 is spin's number for GOOD.
OVERWRITTEN = "assertion violated ((entry[key]!=2)||(confirmed&&excused))"
NOT_KEPT = "assertion violated (((entry[key]==2)&&listed[key])||spoiled)"
STALE = "assertion violated ((made[looked]==header)||(saw[made[looked]]&(1<<me)))"
FALSE_FAILURE = "assertion violated ((failed_with==header)||(saw[failed_with]&(1<<me)))"
ENDLESS = "non-progress cycle"


@pytest.fixture(autouse=True)
def spin() -> None:
    """Skip where the model cannot be checked."""
    if reason := why_impossible():
        pytest.skip(reason)


@pytest.mark.slow  # some million states each
@pytest.mark.parametrize("start", ["NONE", "BAD", "GOOD"])
def test_three_processes_keep_every_promise(start, tmp_path, capsys):
    """No state breaks an assertion, and no process is ever stuck."""
    checked = check_model(tmp_path / "ends", "ends", START=start)
    with capsys.disabled():
        sys.stdout.write(f"\n  spin: 3 processes, {start} at first: {checked.states:,} states\n")

    assert (0, "") == (checked.errors, checked.complaint)
    assert checked.states > 100_000
    # Everything in the model happens, but a second compile that nothing excuses and, where the list
    # is there at first, a list that cannot be put.
    exceptions = "compiles" if start == "NONE" else "compiles|spoiled = 1"
    assert not [line for line in checked.unreached if not re.search(exceptions, line)]


@pytest.mark.parametrize("start", ["NONE", pytest.param("BAD", marks=pytest.mark.slow)])
def test_header_may_be_edited_and_put_back_at_any_time(start, tmp_path):
    """Nothing stale comes from the cache, whenever the header is edited and its list removed."""
    checked = check_model(
        tmp_path / "ends", "ends", START=start, PROCESSES=2, EDITS=2, LISTS_GO=None
    )

    assert (0, "") == (checked.errors, checked.complaint)
    assert checked.states > 100_000
    assert not checked.unreached  # everything in the model happens


@pytest.mark.parametrize(("start", "edits"), [("NONE", 1), ("BAD", 0)])
def test_publishing_that_has_two_winners_harms_no_reader(start, edits, tmp_path):
    """One good entry of a key takes the place of another one, whole; no promise needs more."""
    checked = check_model(
        tmp_path / "ends", "ends", START=start, PROCESSES=2, EDITS=edits, TWO_WINNERS=None
    )

    assert (0, "") == (checked.errors, checked.complaint)
    assert checked.states > 10_000


@pytest.mark.slow
def test_no_run_goes_on_for_ever_while_a_header_is_edited(tmp_path):
    """There is no cycle with an edit either."""
    checked = check_model(tmp_path / "cycles", "cycles", PROCESSES=2, EDITS=1)

    assert (0, "") == (checked.errors, checked.complaint)
    assert checked.states > 100_000


@pytest.mark.parametrize("start", ["NONE", "BAD", "GOOD"])
def test_no_run_of_two_processes_goes_on_for_ever(start, tmp_path):
    """There is no cycle; with three processes the enumeration in ``tests/core`` shows the same."""
    checked = check_model(tmp_path / "cycles", "cycles", START=start, PROCESSES=2)

    assert (0, "") == (checked.errors, checked.complaint)
    assert checked.states > 10_000


@pytest.mark.parametrize(
    ("left_out", "start", "complaint"),
    [
        ("NO_RECHECK", "NONE", TWICE),
        ("NO_BEAT", "NONE", TWICE),
        ("NO_PATIENCE", "NONE", STUCK),
        ("NO_LEASE", "NONE", TWICE),
        ("NO_RELEASE", "NONE", KEPT),
        ("NO_STOP_WAITING", "NONE", KEPT),
        ("NO_RECORD", "NONE", TWICE),
        ("TRUST_REJECTED", "BAD", UNVERIFIED),
        ("REPLACE_BLINDLY", "BAD", OVERWRITTEN),
        ("ONLY_HOLDER_REPLACES", "BAD", NOT_KEPT),
        ("NEVER_REPLACE", "BAD", NOT_KEPT),
    ],
)
def test_every_part_of_the_protocol_is_needed(left_out, start, complaint, tmp_path):
    """Each part of the protocol is there for something that spin finds without it."""
    checked = check_model(tmp_path / "ends", "ends", START=start, PROCESSES=2, **{left_out: None})

    assert (1, complaint) == (checked.errors, checked.complaint)


@pytest.mark.parametrize(
    ("left_out", "edits", "complaint"),
    [
        ("PUBLISH_CHANGED", 2, STALE),
        ("DIGEST_BEFORE", 2, STALE),
        ("COMPARE_DIGESTS", 2, STALE),
        ("ANY_ENTRY", 1, STALE),
        ("BELIEVE_ALWAYS", 1, FALSE_FAILURE),
        ("RECORD_CHANGED", 1, FALSE_FAILURE),
        ("NO_LIST", 0, NOT_KEPT),
    ],
)
def test_every_part_that_keeps_header_and_kernel_together_is_needed(
    left_out, edits, complaint, tmp_path
):
    """What is read, digested, published and looked up: spin finds what each part is for."""
    checked = check_model(tmp_path / "ends", "ends", PROCESSES=2, EDITS=edits, **{left_out: None})

    assert (1, complaint) == (checked.errors, checked.complaint)


def test_entry_that_is_there_needs_its_list_all_the_same(tmp_path):
    """A publisher died before it put the list: both that meet its entry have to put it."""
    created = check_model(
        tmp_path / "created", "ends", PROCESSES=2, START="GOOD", ORPHAN=None, NO_LIST_IF_THERE=None
    )
    confirmed = check_model(
        tmp_path / "confirmed", "ends", PROCESSES=2, START="BAD", EDITS=1, NO_LIST_IF_CONFIRMED=None
    )

    assert (1, NOT_KEPT) == (created.errors, created.complaint)
    assert (1, NOT_KEPT) == (confirmed.errors, confirmed.complaint)


def test_keeping_the_shared_lock_deadlocks(tmp_path):
    """Two helpers that ask for the lease while they keep the shared lock wait for each other."""
    checked = check_model(tmp_path / "ends", "ends", PROCESSES=3, KEEP_SHARED=None)

    assert (1, STUCK) == (checked.errors, checked.complaint)


def test_waiting_again_after_patience_never_ends(tmp_path):
    """The search for cycles finds one: whose patience has ended must not queue up again."""
    checked = check_model(tmp_path / "cycles", "cycles", PROCESSES=2, TRY_AGAIN_AFTER_PATIENCE=None)

    assert (1, ENDLESS) == (checked.errors, checked.complaint)


def test_model_has_the_states_of_the_plan():
    """The model is of this plan: a state that is added to one of them is missed in the other."""
    (names,) = re.findall(r"mtype:state_t = \{([^}]*)\}", MODEL.read_text())
    states = {name.strip() for name in names.split(",")}

    # In the plan these are actions or parts of one, not states.
    assert states - {"LISTING", "RECORDING", "RELEASING"} == {state.name for state in State}
