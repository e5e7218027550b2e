"""The budget of a request: all its calls on the cache that are not answered take one patience."""

from __future__ import annotations

import pytest

from ajit._resolve.budget import LEAST_SECONDS, Budget


def test_a_budget_is_the_patience_until_something_is_not_answered():
    """Calls that are answered cost nothing: each has the whole patience as its deadline."""
    budget = Budget(10.0)

    assert budget.seconds == 10.0


def test_what_is_not_answered_takes_what_it_waited():
    """The next call gets what is left."""
    budget = Budget(10.0)
    budget.take(3.0)

    assert budget.seconds == 7.0
    assert repr(budget) == "<Budget 7.0 s left>"


@pytest.mark.parametrize(
    ("patience", "least"), [(10.0, 1.0), (300.0, 30.0), (1.0, LEAST_SECONDS), (0.1, 0.1)]
)
def test_a_call_gets_a_tenth_of_the_patience_when_nothing_is_left(patience, least):
    """One file that hangs is no reason not to keep the kernel; and never more than the patience."""
    budget = Budget(patience)
    budget.take(patience / 2)
    budget.take(patience)

    assert budget.seconds == pytest.approx(least)
