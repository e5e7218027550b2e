"""Claims keep their promises in a second model, checked by ``spin``; see ``claim.pml``.

The first one is the enumeration in ``tests/core``, which drives the table itself.
"""

from __future__ import annotations

import re
import sys

import pytest

from ajit._core.claim import State
from tests.model.checker import MODEL, Checked, check_model, why_impossible

CLAIMS = MODEL.with_name("claim.pml")

TWICE = "compiles<2"
TWO = "life[other]"
ENDLESS = "non-progress cycle"


@pytest.fixture(autouse=True)
def spin() -> None:
    """Skip where the model cannot be checked."""
    if reason := why_impossible():
        pytest.skip(reason)


def check(folder, search="ends", **defines: object) -> Checked:
    """Check the model of claims."""
    return check_model(folder / search, search, CLAIMS, **defines)


def report(checked: Checked, capsys, what: str) -> None:
    """Say how large it was."""
    with capsys.disabled():
        sys.stdout.write(f"\n  spin: claims, {what}: {checked.states:,} states\n")


def test_one_holder_at_most_and_one_compile(tmp_path, capsys):
    """Two processes on two mounts, of which one crashes or stalls at any step."""
    checked = check(tmp_path)
    report(checked, capsys, "2 processes on 2 mounts, 1 fault")

    assert (0, "") == (checked.errors, checked.complaint)
    assert checked.states > 100_000
    # There are more places for claims than are made; and a mount and the clock never end.
    exceptions = r"lag\[[23]\]|-end-|\(1\)"
    assert not [line for line in checked.unreached if not re.search(exceptions, line)]


@pytest.mark.parametrize("mounts", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_three_processes_keep_every_promise(mounts, tmp_path, capsys):
    """On two mounts two of them share one, and its lock lets both pass.

    No fault: with one there are more than 32 million states, too many for a test.
    """
    checked = check(tmp_path, PROCESSES=3, MOUNTS=mounts, FAULTS=0)
    report(checked, capsys, f"3 processes on {mounts} mounts")

    assert (0, "") == (checked.errors, checked.complaint)
    assert checked.states > 100_000


@pytest.mark.slow
def test_no_run_goes_on_for_ever(tmp_path):
    """Whatever is late, and whichever crashes or stalls, all that live are served."""
    checked = check(tmp_path, "cycles")

    assert (0, "") == (checked.errors, checked.complaint)
    assert checked.states > 100_000


@pytest.mark.parametrize(
    ("left_out", "processes", "faults", "complaint"),
    [
        ("NO_BEAT", 2, 0, TWICE),
        ("SHORT_SILENCE", 2, 0, TWICE),
        ("NO_SEEK", 2, 0, TWICE),
        ("NO_SETTLE", 2, 0, TWICE),
        ("UNWRITTEN_IS_FREE", 2, 0, TWICE),
        ("KEEP_QUIET", 2, 0, TWICE),
        ("EXISTS_IS_OURS", 2, 0, TWICE),
        ("TWO_WINNERS", 2, 0, TWO),
        ("MARK_NEWEST", 3, 1, TWO),
        ("MAKE_ANEW", 3, 1, TWO),
    ],
)
def test_every_part_of_the_protocol_is_needed(left_out, processes, faults, complaint, tmp_path):
    """Each part of it is there for something that spin finds without it."""
    checked = check(tmp_path, PROCESSES=processes, FAULTS=faults, **{left_out: None})

    assert 1 == checked.errors
    assert complaint in checked.complaint


def test_without_silence_as_its_end_a_dead_holder_stops_all_others(tmp_path):
    """Nothing else ends a wait for it."""
    checked = check(tmp_path, "cycles", NO_SILENCE=None)

    assert (1, ENDLESS) == (checked.errors, checked.complaint)


def test_model_has_the_states_of_the_table():
    """A state that is added to one of them is missed in the other."""
    (names,) = re.findall(r"mtype:state_t = \{([^}]*)\}", CLAIMS.read_text())
    states = {name.strip() for name in names.split(",")}

    # What the table calls holding is told apart there.
    holding = {"WRITING", "LOOKING", "COMPILING", "PUBLISHING", "LEAVING"}
    settling = {"SEEKING"}
    assert states - holding - settling == {s.name for s in State} - {"HOLDING", "SETTLING"}
