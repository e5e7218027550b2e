"""The store keeps its promises in every order of events.

Every interleaving of two engines that share the beginning of a prompt, of an evictor, and of what
may happen to an engine at each step, is visited (`store_worlds`). The last tests break the rules on
purpose: each time the enumeration has to find it.
"""

from __future__ import annotations

import sys

import pytest

from ajit.kv import ledger, shelves, slots
from ajit.kv.ledger import Ledger
from ajit.kv.slots import Action, Happening, SlotError, State
from tests.kv.store_worlds import SAME, Exploration, Rules, Violation

READS = "reads"
WRITERS = "has two writers|is written again"
ORPHAN = "is without its parent"
LEAK = "something leaks"


@pytest.mark.parametrize(
    "rules",
    [
        Rules(),
        pytest.param(Rules(faults=1), marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
        pytest.param(Rules(slots=3), marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
        Rules(rounds=2, slots=1, faults=1),
    ],
    ids=["no faults", "a fault at every step", "memory for all", "little memory"],
)
def test_every_interleaving(rules, capsys):
    """No wrong byte is read, no slot has two writers, no parent goes first, nothing leaks."""
    exploration = Exploration(rules)
    exploration.run()

    with capsys.disabled():
        sys.stdout.write(f"\n  store: {rules}: {len(exploration.origins):,} states\n")
    assert len(exploration.origins) > 500
    assert exploration.ends > 0


# --- the rules broken on purpose ---


def found(complaint: str, rules: Rules = Rules()) -> None:  # noqa: B008 - frozen
    """Break one, and see it found."""
    with pytest.raises(Violation, match=complaint) as caught:
        Exploration(rules).run()
    sys.stdout.write(f"{caught.value}\n")  # with -rA: the shortest story of the defect


def test_a_chunk_that_is_found_before_its_commit_is_read_half_written(monkeypatch):
    """Rule 2."""
    monkeypatch.setattr(slots, "is_found", lambda state: state in (State.READY, State.RESERVED))
    found(READS)


def test_a_chunk_that_is_reserved_is_not_reserved_again(monkeypatch):
    """Rule 1: both would write it, and the first one's commit is another chunk's."""
    reserve_one = Ledger._reserve_one

    def again(self, held, space, parent, digest):
        chunk = self._chunks.get(digest)
        if chunk is not None and chunk.state is State.RESERVED:
            return chunk
        return reserve_one(self, held, space, parent, digest)

    def reserve(self, owner, space, parent, digests):
        before = self._chunks.get(parent) if parent else None
        return self._reserve(owner, space, before, digests, 0)

    monkeypatch.setattr(Ledger, "_reserve_one", again)
    monkeypatch.setattr(Ledger, "reserve", reserve)
    found(WRITERS)


def test_memory_of_a_dropped_reservation_is_still_its_writers(monkeypatch):
    """Rule 3: the copy of one that takes too long goes on."""
    monkeypatch.setitem(
        slots._TABLE,
        (State.RESERVED, Happening.DROPPED),
        (State.FREE, (Action.UNLIST, Action.REUSE)),
    )
    found(WRITERS, Rules(faults=1))


def test_a_writer_that_has_not_let_go_may_still_write(monkeypatch):
    """Rule 4."""
    monkeypatch.setattr(
        ledger.slots,
        "is_untouched",
        lambda leases, children, has_writer: not leases and not children,
    )
    found(f"{WRITERS}|{READS}", Rules(faults=1))


def test_the_end_of_a_connection_is_not_the_end_of_its_copies(monkeypatch):
    """Rule 4."""
    monkeypatch.setattr(Ledger, "lost", Ledger.gone)
    found(f"{WRITERS}|{READS}", Rules(faults=1))


def test_a_reader_keeps_what_did_not_verify(monkeypatch):
    """Rule 4: it may read it just now."""
    monkeypatch.setattr(
        ledger.slots,
        "is_untouched",
        lambda leases, children, has_writer: not children and not has_writer,
    )
    found(READS, Rules(faults=1))


def test_a_reader_keeps_the_chunks_before_its_last_one_as_well(monkeypatch):
    """Rules 4 and 6: its lease is counted at the last one only."""
    monkeypatch.setattr(
        ledger.slots,
        "is_untouched",
        lambda leases, children, has_writer: not leases and not has_writer,
    )
    found(READS, Rules(rounds=2, faults=1, prompts=SAME))


def test_without_the_end_of_its_owner_a_lease_is_for_ever(monkeypatch):
    """Rule 5."""
    end = Ledger.gone

    def forgetful(self, owner):
        held = self._owners.get(owner)
        if held is not None:
            held.leases.clear()
        end(self, owner)

    monkeypatch.setattr(Ledger, "gone", forgetful)
    found(LEAK, Rules(faults=1))


def may_evict_but(monkeypatch, what) -> None:
    """Ask another question before a chunk gives way."""
    monkeypatch.setattr(slots, "may_evict", what)
    monkeypatch.setattr(shelves, "may_evict", what)


def test_a_leased_chunk_must_not_be_evicted(monkeypatch):
    """Rule 6: its memory would be another's while it is read."""
    may_evict_but(
        monkeypatch, lambda state, leases, children: state is State.READY and not children
    )
    monkeypatch.setattr(slots, "is_untouched", lambda leases, children, has_writer: not has_writer)
    found(READS)


def test_a_parent_must_not_be_evicted_before_its_children(monkeypatch):
    """Rule 6."""
    may_evict_but(monkeypatch, lambda state, leases, children: state is State.READY and not leases)
    found(ORPHAN, Rules(slots=3))


def test_to_release_twice_must_not_release_the_lease_of_another(monkeypatch):
    """Rule 7."""
    release, leased = Ledger.release, {}

    def anonymous(self, owner, lease):
        if lease in self._leases:
            leased[lease] = self._leases[lease].chunk.digest
        if not release(self, owner, lease):
            chunk = self._chunks.get(leased.get(lease))
            if chunk is not None and chunk.leases:
                chunk.leases -= 1
                self._let_go(chunk)
        return True

    monkeypatch.setattr(Ledger, "release", anonymous)
    found(READS, Rules(rounds=2, slots=1, prompts=(("a",), ("a",))))


def test_what_cannot_happen_is_a_defect_and_says_so():
    """The books do not go on from a state that is impossible."""
    with pytest.raises(SlotError, match="'committed' cannot happen to a free slot"):
        slots.step(State.FREE, Happening.COMMITTED)
