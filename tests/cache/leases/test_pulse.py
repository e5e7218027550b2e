"""What counts as a beat: later than all that was seen of its lease, and in pace with our clock."""

from __future__ import annotations

import pytest

from ajit._cache.leases.holder import HolderRecord
from ajit._cache.leases.pulse import LAG_SECONDS, MOST_LEASES, Pulse

PATIENCE_SECONDS = 10.0
UNIX = 100.0
"""Unix time at the moment 0 of our clock; also when the holder began."""


def is_beat(pulse: Pulse, read: HolderRecord | None, now: float) -> bool:
    """Whether it shows a beat, by clocks that agree with the holder's."""
    return pulse.is_beat(read, now, UNIX + now)


def record(beat: int, *, started: float = 100.0, beat_time: float | None = None) -> HolderRecord:
    """The record of a holder that beats every second, by its own clock."""
    return HolderRecord(
        host="a", boot_id="b", pid=1, start_ticks=0, phase="compiling", compiler="nvrtc",
        started=started, beat=beat, beat_time=started + beat if beat_time is None else beat_time,
    )  # fmt: skip


@pytest.mark.parametrize("paced", [True, False])
def test_each_beat_counts_once(paced):
    """The same record, read again, shows nothing new."""
    pulse = Pulse(paced=paced)
    seen = [is_beat(pulse, record(beat), float(now)) for now, beat in enumerate([0, 1, 1, 2, 2, 2])]

    assert seen == [True, True, False, True, False, False]


@pytest.mark.parametrize("paced", [True, False])
def test_an_earlier_beat_or_none_in_between_makes_no_new_one(paced):
    """Two records that take turns are not a pulse, nor is one that comes and goes."""
    pulse = Pulse(paced=paced)
    is_beat(pulse, record(1), 0.0)
    is_beat(pulse, record(2), 1.0)
    turns = [record(1), record(2), None, record(2), record(1), None]

    assert not any(is_beat(pulse, turn, 2.0 + now) for now, turn in enumerate(turns))


@pytest.mark.parametrize(("paced", "started"), [(True, UNIX + 3600.0), (False, 5.0)])
def test_another_lease_counts_whatever_its_clock_says(paced, started):
    """The lease went to a host whose clock is ahead, or behind where no seal is asked for."""
    pulse = Pulse(paced=paced)
    is_beat(pulse, record(7, beat_time=UNIX), 0.0)

    assert is_beat(pulse, record(0, started=started), 1.0)
    assert is_beat(pulse, record(1, started=started), 2.0)
    assert not is_beat(pulse, record(7, beat_time=UNIX), 3.0)


def test_copies_of_leases_that_are_over_are_no_beats():
    """However many were watched: each of them would have bought a patience."""
    pulse = Pulse(paced=True)
    old = [record(1, started=UNIX - 1000.0 + 3 * n) for n in range(300)]

    assert not any(is_beat(pulse, copy, 9.0 * n) for n, copy in enumerate(old))
    assert is_beat(pulse, record(0, started=UNIX + 2700.0), 2700.0)


@pytest.mark.parametrize(("behind", "seen"), [(LAG_SECONDS - 1, True), (LAG_SECONDS + 1, False)])
def test_a_holder_whose_clock_is_too_far_behind_is_silent(behind, seen):
    """With seals the clocks must agree; it costs the waiter its patience, and nothing else."""
    pulse = Pulse(paced=True)
    beats = [record(beat, started=UNIX - behind) for beat in range(20)]

    assert [seen] * 20 == [is_beat(pulse, beat, float(now)) for now, beat in enumerate(beats)]


def test_a_holder_that_was_stopped_for_less_than_the_patience_is_in_pace():
    """Its next beat has the time at which it was done."""
    pulse = Pulse(paced=True)
    is_beat(pulse, record(0), 0.0)

    assert is_beat(pulse, record(1, beat_time=100.0 + 9.0), 9.0)


def test_copies_of_a_lease_that_are_played_slowly_are_no_beats():
    """A minute of beats, one shown every nine seconds, would last for nine minutes."""
    pulse = Pulse(paced=True)
    last, now = 0.0, 0.0
    for beat in range(60):
        now = 9.0 * beat
        if is_beat(pulse, record(beat), now):
            last = now

    assert last <= LAG_SECONDS + 9.0 < now - PATIENCE_SECONDS


def test_without_a_key_there_is_nothing_to_copy_and_no_pace():
    """A holder whose clock is set back goes on beating."""
    pulse = Pulse(paced=False)
    is_beat(pulse, record(0), 0.0)

    assert is_beat(pulse, record(1, beat_time=1.0), 1.0)


def test_old_leases_shown_round_and_round_come_to_an_end():
    """However many an attacker has watched."""
    pulse = Pulse(paced=True)
    leases = [record(0, started=UNIX + n) for n in range(2 * MOST_LEASES)]
    first = [is_beat(pulse, lease, 0.0) for lease in leases]
    again = [is_beat(pulse, lease, 1.0) for lease in leases]

    assert sum(first) == MOST_LEASES
    assert not any(again)
