"""The circuit breaker: when calls on a file system that may hang are made, and when not."""

from __future__ import annotations

import itertools

import pytest

from ajit._system.breaker import CLOSED, LIMIT, RETRY_SECONDS, BreakerState, Sign, step


def after(*signs, start=CLOSED):
    """The breaker after some signs."""
    for sign in signs:
        start = step(start, sign, 0.0)
    return start


OPENED = after(*[Sign.MISSED] * LIMIT)
HALF_OPEN = after(Sign.CAME_BACK, start=OPENED)
TRYING = after(Sign.BEGUN, start=HALF_OPEN)


def test_it_opens_after_calls_in_a_row_that_were_missed():
    """One that is answered in between begins the count anew."""
    nearly = [Sign.MISSED] * (LIMIT - 1)

    assert after(*nearly).admits
    assert after(*nearly, Sign.ANSWERED, *nearly).admits
    assert not OPENED.admits


def test_it_opens_at_once_where_a_probe_was_missed_as_well():
    """Two calls on different things are enough to say that it is not this one file."""
    assert not after(Sign.MISSED_TWICE).admits


@pytest.mark.parametrize("sign", [Sign.CAME_BACK, Sign.ANSWERED])
def test_what_comes_back_lets_one_call_through_as_a_trial(sign):
    """No other is made until the trial tells."""
    half_open = after(sign, start=OPENED)

    assert half_open.admits
    assert not after(Sign.BEGUN, start=half_open).admits


@pytest.mark.parametrize(
    ("sign", "state"),
    [
        (Sign.ANSWERED, BreakerState.CLOSED),
        (Sign.MISSED, BreakerState.OPEN),
        (Sign.MISSED_TWICE, BreakerState.OPEN),
        (Sign.LEFT, BreakerState.HALF_OPEN),
        (Sign.CAME_BACK, BreakerState.TRYING),
    ],
)
def test_the_trial_decides(sign, state):
    """A trial that was cancelled tells nothing: the next call is the trial."""
    assert after(sign, start=TRYING).state is state


def test_a_probe_is_due_now_and_then_while_it_is_open():
    """And only then."""
    probed = OPENED.probed(100.0)

    assert not probed.probe_due(100.0 + RETRY_SECONDS / 2)
    assert probed.probe_due(100.0 + RETRY_SECONDS)
    assert not CLOSED.probed(0.0).probe_due(1e9)
    assert not HALF_OPEN.probe_due(1e9)


def test_every_state_leads_back_to_use():
    """From whatever signs, a file system that answers is used again after one trial."""
    for signs in itertools.product(Sign, repeat=4):
        recovered = after(*signs, Sign.LEFT, Sign.CAME_BACK, Sign.BEGUN, Sign.ANSWERED)

        assert recovered.state is BreakerState.CLOSED, signs
        assert recovered.admits
