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

TWICE = "assertion violated (compiles<=1)"
STUCK = "invalid end state"
KEPT = "assertion violated (lock!=me)"
UNVERIFIED = "assertion violated verified"
OVERWRITTEN = "assertion violated ((entry!=2)||(confirmed&&excused))"  # spin's number for GOOD
NOT_KEPT = "assertion violated ((entry==2)||spoiled)"
ENDLESS = "non-progress cycle"


@pytest.fixture(autouse=True)
def spin() -> None:
    """Skip where the model cannot be checked."""
    if reason := why_impossible():
        pytest.skip(reason)


@pytest.mark.slow  # about a million states each
@pytest.mark.parametrize("start", ["NONE", "BAD", "GOOD"])
def test_three_processes_keep_every_promise(start, tmp_path, capsys):
    """No state breaks an assertion, and no process is ever stuck."""
    checked = check_model(tmp_path / "ends", "ends", START=start)
    with capsys.disabled():
        sys.stdout.write(f"\n  spin: 3 processes, {start} at first: {checked.states:,} states\n")

    assert (0, "") == (checked.errors, checked.complaint)
    assert checked.states > 100_000
    # Everything in the model happens, but a second compile that nothing excuses.
    assert all("compiles" in line for line in checked.unreached)


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

    # In the plan these two are actions at the end, not states.
    assert states - {"RECORDING", "RELEASING"} == {state.name for state in State}
