"""Ranks become ready together in every order of events, and none waits for one that is dead.

Every interleaving of their steps is visited, with a post of yesterday in each place, posts that are
seen late, ranks that start late, and with a crash, a stall, a failure and a new process at every
step (`readiness_worlds`). The last tests break the protocol on purpose: each time the enumeration
has to find it.
"""

from __future__ import annotations

import sys

import pytest

from ajit._core import readiness
from ajit._core.readiness import (
    Action,
    Happening,
    Limits,
    Peer,
    Phase,
    Post,
    ReadinessError,
    Standing,
    State,
)
from tests.core.readiness_worlds import Exploration, Rules, Violation

EARLY = "ready too early"
WRONGLY = "names one that is well"
FOR_EVER = "waits for ever"
OTHERS_WORK = "makes what is another's"


SMALL = Rules(Limits(2, 3), start_by=0, replaces=False, stale=(None,))
"""For what needs a fault, and all worlds."""


@pytest.mark.parametrize(
    ("count", "faults", "rules"),
    [
        (2, 0, Rules()),
        (2, 0, Rules(stale=(None, *Phase))),
        pytest.param(2, 1, SMALL, marks=pytest.mark.slow),
        pytest.param(2, 1, Rules(), marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
        pytest.param(
            3,
            0,
            Rules(Limits(2, 3), start_by=0, stale=(None,)),
            marks=[pytest.mark.slow, pytest.mark.timeout(1200)],
        ),
    ],
    ids=["2 ranks", "2 ranks, all of yesterday", "a fault", "a fault, replaced", "3 ranks"],
)
def test_every_interleaving(count, faults, rules, capsys):
    """None is ready too early, none that is well is named, and none waits for ever."""
    exploration = Exploration(count, faults, rules)
    exploration.run()

    with capsys.disabled():
        sys.stdout.write(
            f"\n  readiness: {count} ranks, {faults} faults: {len(exploration.origins):,} states\n"
        )
    assert len(exploration.origins) > 500


# --- the protocol broken on purpose ---


def found(complaint: str, rules: Rules = Rules(), faults: int = 0) -> None:  # noqa: B008 - frozen
    """Break it, and see it found."""
    with pytest.raises(Violation, match=complaint) as caught:
        Exploration(2, faults, rules).run()
    sys.stdout.write(f"{caught.value}\n")  # with -rA: the shortest story of the defect


def broken(monkeypatch, state: State, happening: Happening, then: State, *actions: Action) -> None:
    """Put another rule into the table."""
    monkeypatch.setitem(readiness._TABLE, (state, happening), (then, actions))


def test_without_echoes_yesterdays_posts_are_believed():
    """Rule 1."""
    found(f"{EARLY}|{OTHERS_WORK}", Rules(echoes=False))


def test_who_leaves_before_it_posts_what_it_has_seen_leaves_others_waiting():
    """Rule 2: the other finds no echo in what it left behind."""
    found(f"{WRONGLY}|{FOR_EVER}", Rules(posts_before_leaving=False))


def test_without_beats_one_that_works_for_long_is_taken_for_dead():
    """Rule 3."""
    found(f"{WRONGLY}|{OTHERS_WORK}", Rules(beats=False))


def test_a_silence_as_short_as_the_beats_are_seen_late_is_too_short():
    """Rule 3: what was written in this tick may be seen in the next."""
    found(f"{WRONGLY}|{OTHERS_WORK}", Rules(limits=Limits(1, 5)))


@pytest.mark.slow
def test_without_silence_as_its_end_a_dead_rank_stops_all_others(monkeypatch):
    """Rule 3."""
    standing = readiness.standing
    patient = {Standing.SILENT: Standing.WORKING, Standing.MISSING: Standing.ABSENT}

    def endless(peer, limits):
        found = standing(peer, limits)
        return patient.get(found, found)

    monkeypatch.setattr(readiness, "standing", endless)
    found(FOR_EVER, SMALL, faults=1)


@pytest.mark.slow
def test_what_a_dead_rank_should_have_done_must_be_done_by_others():
    """Rule 4."""
    found(FOR_EVER, SMALL._replace(takes_over=False), faults=1)


def test_to_fetch_before_all_shares_are_in_is_to_do_the_work_of_others(monkeypatch):
    """Rule 4."""
    broken(monkeypatch, State.SHARED, Happening.PENDING, State.FETCHING, Action.FETCH)
    found(OTHERS_WORK)


@pytest.mark.slow
def test_a_lost_rank_that_is_not_named_is_waited_for(monkeypatch):
    """Rule 5."""
    broken(monkeypatch, State.COMPLETE, Happening.LOST, State.COMPLETE)
    found(FOR_EVER, SMALL, faults=1)


def test_to_be_ready_without_a_lost_rank_is_too_early(monkeypatch):
    """Rule 5: ranks run in lockstep."""
    broken(monkeypatch, State.COMPLETE, Happening.LOST, State.READY, Action.TELL)
    found(EARLY, SMALL, faults=1)


def test_to_be_ready_when_one_is_complete_itself_is_too_early(monkeypatch):
    """The others may still compile."""
    broken(monkeypatch, State.COMPLETE, Happening.PENDING, State.READY, Action.TELL)
    found(EARLY)


# --- single rules ---

LIMITS = Limits(silence_seconds=10, absence_seconds=60)


def seen(phase: Phase, session: str = "5", echo: str = "7", beat: int = 0) -> Post:
    """A post of rank 1, as rank 0 with session 7 reads it."""
    return Post(session, phase, beat, (echo, ""))


def test_a_rank_whose_process_is_gone_is_lost_at_once_unless_it_has_everything():
    """On this machine the kernel knows."""
    for phase, expected in ((Phase.WORKING, Standing.SILENT), (Phase.COMPLETE, Standing.COMPLETE)):
        peer = readiness.look(Peer(), seen(phase), 0, "7", 1, dead=True)
        assert readiness.standing(peer, LIMITS) is expected


def test_a_dead_process_of_yesterday_is_no_dead_rank():
    """Today's may not have started yet."""
    peer = readiness.look(Peer(), seen(Phase.WORKING, echo="old"), 0, "7", 1, dead=True)

    assert readiness.standing(peer, LIMITS) is Standing.ABSENT


def test_a_long_stop_of_the_reader_is_no_silence_of_the_others():
    """It knows nothing of what they did meanwhile."""
    peer = readiness.look(Peer(), seen(Phase.WORKING), 0, "7", 1, dead=False)
    peer = readiness.look(peer, None, 0, "7", 3600, dead=False)

    assert readiness.standing(peer, LIMITS) is Standing.WORKING


def test_of_two_processes_in_one_place_the_later_one_is_the_rank():
    """Rule 6."""
    assert readiness.is_ousted("5", seen(Phase.WORKING, session="6"))
    assert not readiness.is_ousted("5", seen(Phase.WORKING, session="4"))
    assert not readiness.is_ousted("5", seen(Phase.WORKING, session="5"))
    assert not readiness.is_ousted("5", None)


def test_ready_stays(monkeypatch):
    """Rule 7: whatever is seen later."""
    for happening in (Happening.PENDING, Happening.LOST, Happening.OUSTED):
        assert readiness.step(State.READY, happening)[0] is State.READY


def test_what_cannot_happen_is_a_defect_and_says_so():
    """A performer that loses its place does not go on."""
    with pytest.raises(ReadinessError, match="it has everything' while working"):
        readiness.step(State.WORKING, Happening.HAS_ALL)
