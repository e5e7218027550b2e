"""Requests by tier over time, from counters."""

from __future__ import annotations

from ajit.dashboard.machine import process_rows
from ajit.dashboard.rates import INTERVAL_SECONDS, INTERVALS, RateHistory
from tests.dashboard.views import a_view, a_wait


def note(history, now, *views):
    """Let a history take what views count."""
    history.note(now, process_rows(views, 0.0))


def test_what_is_counted_between_looks_is_a_rate():
    """Over the seconds that were looked at, so an interval that is not over is not too low."""
    history = RateHistory()
    note(history, 100.0, a_view(1, from_disk=1000))
    note(history, 101.0, a_view(1, from_disk=1010))
    note(history, 102.0, a_view(1, from_disk=1030))

    rates = history.rates(102.0)

    assert 15.0 == rates.disk[-1]
    assert INTERVALS == len(rates.disk)
    assert {None} == set(rates.disk[:-1])


def test_a_runtime_that_comes_brings_no_jump():
    """What it counted before anybody looked belongs to no interval; nor does one that goes."""
    history = RateHistory()
    note(history, 100.0, a_view(1, from_memory=5))
    note(history, 101.0, a_view(1, from_memory=6), a_view(2, from_memory=1_000_000))
    note(history, 102.0, a_view(2, from_memory=1_000_001))

    assert 1.0 == history.rates(102.0).memory[-1]


def test_a_pause_is_a_gap():
    """A pause: nothing is known of that time, and what was counted in it is left out."""
    history = RateHistory()
    note(history, 100.0, a_view(1, compiled=1))
    note(history, 101.0, a_view(1, compiled=2))
    note(history, 161.0, a_view(1, compiled=900))
    note(history, 162.0, a_view(1, compiled=901))

    rates = history.rates(162.0)
    intervals = int(61 / INTERVAL_SECONDS)

    assert (1.0, 1.0) == (rates.compiled[-1], rates.compiled[-1 - intervals])
    assert {None} == set(rates.compiled[-intervals:-1])


def test_the_most_that_waited_is_kept():
    """A wait of a second is seen."""
    history = RateHistory()
    note(history, 100.0, a_view(1, waits=(a_wait(9), a_wait(9))))
    note(history, 101.0, a_view(1))

    assert 2.0 == history.rates(101.0).waiting[-1]


def test_a_counter_that_falls_is_a_new_process():
    """A pid was used again."""
    history = RateHistory()
    note(history, 100.0, a_view(1, failed=50))
    note(history, 101.0, a_view(1, failed=0))

    assert 0.0 == history.rates(101.0).failed[-1]
