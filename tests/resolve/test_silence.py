"""The silence of a lease's holder, as its waiter measures it."""

from __future__ import annotations

from ajit._cache.leases.holder import HolderRecord
from ajit._resolve.waiting import Silence


def record(beat: int, *, pid: int = 1, left: bool = False) -> HolderRecord:
    """The record of a holder, or of one that has left."""
    return HolderRecord(
        host="a", boot_id="b", pid=pid, start_ticks=0, phase="compiling", compiler="nvrtc",
        started=0.0, beat=beat, beat_time=0.0, left=left,
    )  # fmt: skip


def test_silence_begins_with_the_last_beat_that_was_seen():
    """A beat ends it, whenever that was between two looks."""
    silence = Silence(0.0)
    for now, beat in [(1.0, 1), (2.0, 1), (3.0, 1), (4.0, 2), (5.0, 2)]:
        silence.look(now, record(beat), 1.0)

    assert silence.seconds == 1.0


def test_a_record_that_cannot_be_read_is_no_beat():
    """A waiter does not wait for ever because a holder cannot write."""
    silence = Silence(0.0)
    for now in range(1, 21):
        silence.look(now, None, 1.0)

    assert silence.seconds == 20.0


def test_another_holder_with_the_same_count_of_beats_is_not_silent():
    """Beats are counted by each holder from 0."""
    silence = Silence(0.0)
    silence.look(1.0, record(3), 1.0)
    silence.look(2.0, record(3, pid=2), 1.0)

    assert silence.seconds == 0.0


def test_that_a_holder_is_gone_is_news_once():
    """The next one has the patience anew; a record that is there and not there has not."""
    silence = Silence(0.0)
    for now in (1.0, 2.0, 3.0):
        silence.look(now, record(7), 1.0)
    silence.look(4.0, None, 1.0)
    after_leaving = silence.seconds
    for now in range(5, 25):
        silence.look(now, record(7) if now % 2 else None, 1.0)

    assert after_leaving == 0.0
    assert silence.seconds == 20.0


def test_a_lease_that_came_and_went_between_two_looks_is_news_once():
    """All that is seen of it is that its holder has left."""
    silence = Silence(0.0)
    for now in (1.0, 2.0, 3.0):
        silence.look(now, None, 1.0)
    silence.look(4.0, record(0, left=True), 1.0)
    after_leaving = silence.seconds
    for now in (5.0, 6.0, 7.0):
        silence.look(now, record(0, left=True), 1.0)

    assert after_leaving == 0.0
    assert silence.seconds == 3.0


def test_a_holder_that_was_seen_and_has_left_is_news_once():
    """With the beat that was seen last, or with a later one."""
    for last in (7, 8):
        silence = Silence(0.0)
        for now in (1.0, 2.0, 3.0):
            silence.look(now, record(7), 1.0)
        silence.look(4.0, record(last, left=True), 1.0)
        after_leaving = silence.seconds
        silence.look(5.0, None, 1.0)
        silence.look(6.0, record(last, left=True), 1.0)

        assert (after_leaving, silence.seconds) == (0.0, 2.0)


def test_a_waiter_that_was_stopped_itself_does_not_blame_the_holder():
    """It was stopped for 100 s between two looks; what it then has is the record of before."""
    silence = Silence(0.0)
    silence.look(1.0, record(1), 1.0)
    silence.look(101.0, record(1), 1.0)

    assert silence.seconds == 2.0
    silence.look(102.0, record(99), 1.0)
    assert silence.seconds == 0.0
