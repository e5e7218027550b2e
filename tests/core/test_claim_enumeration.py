"""Claims keep their promises in every order of events, on mounts that show everything late.

Several processes on several mounts want one lease. Every interleaving of their steps is visited,
with each mount late in every way, a lock that lets two of one mount pass, and a crash or a stall at
every step; one that was stalled may go on later (`claim_worlds`). The last tests break the protocol
on purpose, and the file system: each time the enumeration has to find it.
"""

from __future__ import annotations

import sys
from functools import cache

import pytest

from ajit._core import claim
from ajit._core.claim import Action, ClaimError, Happening, Limits, Mark, Seen, State, Watch
from tests.core.claim_model import moves_of
from tests.core.claim_things import Rules, Violation
from tests.core.claim_worlds import Exploration

TWO = "two hold the lease"
TWICE = "compiled twice"
FOR_EVER = "a process waits for ever"


@pytest.fixture(autouse=True)
def fresh_moves():
    """A table that is broken gives other moves."""
    moves_of.cache_clear()
    yield
    moves_of.cache_clear()


@cache
def explored(mounts: tuple[int, ...], faults: int) -> Exploration:
    """All worlds of the protocol as it is."""
    exploration = Exploration(mounts, faults)
    exploration.run()
    return exploration


@pytest.mark.parametrize(
    ("mounts", "faults"),
    [
        ((0, 1), 0),
        ((0, 0, 1), 0),
        pytest.param((0, 1), 1, marks=pytest.mark.slow),
        pytest.param((0, 1, 2), 0, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
        pytest.param((0, 1), 2, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
    ids=str,
)
def test_every_interleaving_on_late_mounts(mounts, faults, capsys):
    """One holder at most, one compile, and none waits for ever."""
    exploration = explored(mounts, faults)

    with capsys.disabled():
        sys.stdout.write(
            f"\n  claims: processes on mounts {mounts}, {faults} faults: "
            f"{len(exploration.origins):,} states\n"
        )
    assert len(exploration.origins) > 1_000


def test_a_slower_file_system_needs_a_longer_silence():
    """What is safe is the time between two beats, and the delay, and one look more."""
    Exploration((0, 1), 0, Rules(delay=2, limits=Limits(4, 3))).run()
    with pytest.raises(Violation, match=TWO):
        Exploration((0, 1), 0, Rules(delay=2, limits=Limits(3, 3))).run()


@pytest.mark.slow
def test_model_reaches_what_it_is_for():
    """Each state, each mark but that of a dead process, and each fate occurs in some world."""
    exploration = explored((0, 1), 1)
    processes = exploration._processes.things

    assert {process.state for process in processes} == set(State)
    assert {process.watch.seen.mark for process in processes} == set(Mark) - {Mark.DEAD}
    assert {process.life for process in processes} == {
        "live", "late", "stalled", "crashed", "served",
    }  # fmt: skip


# --- the protocol and its file system broken on purpose ---


def found(complaint: str, rules: Rules = Rules(), mounts=(0, 1), faults: int = 0) -> None:  # noqa: B008 - frozen
    """Break it, and see it found."""
    with pytest.raises(Violation, match=complaint) as caught:
        Exploration(mounts, faults, rules).run()
    sys.stdout.write(f"{caught.value}\n")  # with -rA: the shortest story of the defect


def broken(monkeypatch, state: State, happening: Happening, then: State, *actions: Action) -> None:
    """Put another rule into the table."""
    monkeypatch.setitem(claim._TABLE, (state, happening), (then, actions))


def test_a_silence_no_longer_than_the_delay_takes_a_living_holder_for_dead():
    """Rule 3: its beats are there, and not seen yet."""
    found(TWO, Rules(limits=Limits(2, 2)))


def test_without_beats_a_slow_compile_is_repeated():
    """Rule 3: a holder that compiles for long is like one that is dead."""
    found(TWO, Rules(beats=False))


def test_without_silence_as_its_end_a_dead_holder_stops_all_others(monkeypatch):
    """Rule 3: no lock is there that the kernel would give back."""
    broken(monkeypatch, State.WATCHING, Happening.SILENT, State.WATCHING, Action.REST)
    broken(monkeypatch, State.SETTLING, Happening.SILENT, State.WATCHING, Action.REST)
    found(FOR_EVER, faults=1)


def test_a_held_claim_must_not_be_followed(monkeypatch):
    """Rule 3."""
    broken(monkeypatch, State.WATCHING, Happening.HELD, State.MAKING, Action.MAKE)
    found(TWO)


def test_a_number_that_exists_is_not_ours(monkeypatch):
    """Rule 1: mkdir tells who has won."""
    broken(monkeypatch, State.MAKING, Happening.EXISTS, State.HOLDING, Action.WRITE)
    found(f"{TWO}|{TWICE}")


def test_a_claim_without_a_record_is_held(monkeypatch):
    """Rule 2: the record is seen later than the directory."""
    meaning = claim._meaning

    def hasty(watch, limits):
        unwritten = watch.seen.mark is Mark.UNWRITTEN
        return Happening.FREE if unwritten else meaning(watch, limits)

    monkeypatch.setattr(claim, "_meaning", hasty)
    found(TWO)


def test_silence_that_a_beat_does_not_end_takes_a_living_holder_for_dead(monkeypatch):
    """Rule 4."""
    look = claim.look

    def resentful(watch, seen, elapsed, limits):
        after, _ = look(watch, seen, elapsed, limits)
        after = after._replace(quiet_seconds=watch.quiet_seconds + elapsed)
        return after, claim._meaning(after, limits)

    monkeypatch.setattr(claim, "look", resentful)
    found(TWO)


@pytest.mark.slow
def test_silence_of_one_holder_must_not_count_for_the_next(monkeypatch):
    """Rule 4: a waiter as patient as the winner would follow it at once."""
    look = claim.look

    def resentful(watch, seen, elapsed, limits):
        after, happening = look(watch, seen, elapsed, limits)
        if seen.number > watch.seen.number > 0:
            after = after._replace(quiet_seconds=watch.quiet_seconds)
            happening = claim._meaning(after, limits)
        return after, happening

    monkeypatch.setattr(claim, "look", resentful)
    monkeypatch.setattr(Watch, "knows_of", lambda watch, number: watch)
    found(TWO, mounts=(0, 0, 1), faults=1)


def test_without_looking_for_what_was_published_a_key_is_compiled_twice():
    """Rule 5: the holder's leave is seen before its entry."""
    found(TWICE, Rules(seeks=False))


def test_to_look_for_it_no_longer_than_the_delay_is_not_enough():
    """Rule 5."""
    found(TWICE, Rules(limits=Limits(3, 0)))


@pytest.mark.slow
def test_a_holder_that_wakes_up_must_mark_its_own_claim_only():
    """Rule 1: the newest one may be another's by now."""
    found(TWO, Rules(marks_newest=True), mounts=(0, 1, 1), faults=1)


def test_renaming_a_silent_claim_away_and_making_it_anew_has_two_winners():
    """Rule 1: of two that do so at once, the later one takes the new claim of the earlier one."""
    found(TWO, Rules(makes_anew=True), mounts=(0, 0, 1), faults=1)


def test_a_number_that_is_made_again_has_two_winners():
    """Rule 1: one that wakes up removes the claim of its follower."""
    found(f"{TWO}|{TWICE}", Rules(removes=True), mounts=(0, 0, 1), faults=1)


def test_where_mkdir_has_two_winners_two_hold_the_lease():
    """What claims rest on. Then a kernel is compiled twice, and nothing worse."""
    found(TWO, Rules(exclusive=False))


def test_what_cannot_happen_is_a_defect_and_says_so():
    """A performer that loses its place does not go on."""
    with pytest.raises(ClaimError, match="beat' while watching"):
        claim.step(State.WATCHING, Happening.BEAT)
    assert claim.look(Watch(), Seen(), 0.0, Limits(3, 2))[1] is Happening.FREE
