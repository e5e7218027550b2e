"""The circuit breaker: whether calls that may hang are made at all, as a table with no clock.

A file system that hangs costs each call its deadline. So after some calls in a row that were not
answered, none is made for a while::

    CLOSED ──missed, LIMIT times in a row, or beside a probe that was missed, too──▶ OPEN
       ▲                                                                    │  ▲
       │ answered                                  a probe, or a call that  │  │ missed
       │                                           was given up, came back  ▼  │
    TRYING ◀───────────────────── begun ──────────────────────────── HALF_OPEN │
       └──────────────────────────────────────────────────────────────────────┘

In OPEN no call is made; probes are, now and then, for which no request waits. In HALF_OPEN the next
call is let through as a trial, and in TRYING no other: one request at most pays for the trial.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

__all__ = ["CLOSED", "LIMIT", "RETRY_SECONDS", "Breaker", "BreakerState", "Sign", "step"]

LIMIT = 3
"""Calls in a row that are not answered until the breaker opens. Pretty arbitrary: one alone may
have met a file that hangs, on a file system that does not."""

RETRY_SECONDS = 10.0
"""How often an open breaker is probed anew. Pretty arbitrary: a former probe that still waits is
answered when the file system comes back; a new one is for a mount that took its place."""


class BreakerState(Enum):
    """Whether calls are made."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    TRYING = "trying"


class Sign(Enum):
    """What a call or a probe tells."""

    BEGUN = "begun"
    """A call is made."""
    ANSWERED = "answered"
    """A call came back in time, with whatever result."""
    MISSED = "missed"
    """A call did not come back in time."""
    MISSED_TWICE = "missed twice"
    """A call did not come back in time, nor did a probe that was made beside it."""
    LEFT = "left"
    """A call was given up for another reason: cancelled. It tells nothing."""
    CAME_BACK = "came back"
    """A probe came back, or a call that had been given up."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """The state.

    Attributes:
        state: Whether calls are made.
        missed: Calls in a row that were not answered.
        probed_at: When it was last probed, by the caller's clock.
    """

    state: BreakerState = BreakerState.CLOSED
    missed: int = 0
    probed_at: float = 0.0

    @property
    def admits(self) -> bool:
        """Whether a call may be made now."""
        return self.state in (BreakerState.CLOSED, BreakerState.HALF_OPEN)

    @property
    def is_open(self) -> bool:
        """Whether the file system is taken not to answer."""
        return self.state is not BreakerState.CLOSED

    def probe_due(self, now: float) -> bool:
        """Whether a probe is to be made."""
        return self.state is BreakerState.OPEN and now - self.probed_at >= RETRY_SECONDS

    def probed(self, now: float) -> Breaker:
        """Note that a probe is made."""
        return replace(self, probed_at=now)


CLOSED = Breaker()


def step(breaker: Breaker, sign: Sign, now: float) -> Breaker:
    """Return the next state.

    Args:
        breaker: The state.
        sign: What just happened.
        now: By any clock that does not go back.
    """
    state = breaker.state
    if state is BreakerState.CLOSED:
        return _closed(breaker, sign)
    if state is BreakerState.OPEN:
        # What else was under way when it opened tells nothing new: it is given up as well.
        back = sign in (Sign.CAME_BACK, Sign.ANSWERED)
        return replace(breaker, state=BreakerState.HALF_OPEN) if back else breaker
    if state is BreakerState.HALF_OPEN:
        return replace(breaker, state=BreakerState.TRYING) if sign is Sign.BEGUN else breaker
    return _trying(breaker, sign, now)


def _closed(breaker: Breaker, sign: Sign) -> Breaker:
    if sign is Sign.ANSWERED:
        return breaker if not breaker.missed else replace(breaker, missed=0)
    if sign not in (Sign.MISSED, Sign.MISSED_TWICE):
        return breaker
    missed = breaker.missed + 1
    if sign is Sign.MISSED_TWICE or missed >= LIMIT:
        return replace(breaker, state=BreakerState.OPEN, missed=missed)
    return replace(breaker, missed=missed)


def _trying(breaker: Breaker, sign: Sign, now: float) -> Breaker:
    if sign is Sign.ANSWERED:
        return CLOSED
    if sign in (Sign.MISSED, Sign.MISSED_TWICE):
        return replace(breaker, state=BreakerState.OPEN, probed_at=now)
    if sign is Sign.LEFT:
        return replace(breaker, state=BreakerState.HALF_OPEN)
    return breaker
