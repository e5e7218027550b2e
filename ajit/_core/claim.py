"""Claims: a lease that needs no locks of the file system, as a table of states, with no I/O.

The locks of a network file system may stay on one node. What excludes there, too, is ``mkdir``: of
many callers exactly one makes a directory. So between nodes a lease is a *claim*: one of the
numbered directories ``1``, ``2``, ... of a key, made once and never again. The newest one counts.
Its maker holds the lease, writes its record into it, beats there, and marks it when it leaves. Who
wants the lease next makes the next number. `ajit._cache.leases.claims` does it.

::

    WATCHING ──held──▶ WATCHING               rest, look again
       │ │ └─left just now──▶ SETTLING ──▶ look for what was published, until it is seen
       │ │ free, or silent       │ nothing seen for long enough
       │ └───────┬───────────────┘
       │      MAKING ──exists──▶ WATCHING     another was faster: its claim is the newest now
       │         │ made
       │      HOLDING ──beat──▶ HOLDING
       ▼         │ done
      OVER ◀─────┘ marked as left

Rules, and what each is for:

1. A number is made once, by ``mkdir``, and nothing is renamed or made anew. So of those who want to
   follow a claim one wins, however late each has seen what; and a holder that was taken for dead
   and wakes up can only write into its own claim, where it harms no one. (To rename a silent claim
   away and to make one of the same name is not enough: of two that do so at once, the later one
   renames the earlier one's new claim away.)
2. A claim that exists is held until its record says that it was left: a record that is not there is
   one that is not seen yet.
3. A claim is followed without its holder's leave only after silence: no news from it for
   `Limits.silence_seconds`, by the waiter's clock. This is longer than the time between two beats
   and the time in which a write becomes visible together, so no holder that lives is silent. The
   record of a holder on this machine whose process is gone needs no silence.
4. Silence begins anew with each claim, and each beat.
5. What the holder published may be seen later than that it has left. So who finds a claim left just
   now, by a holder that published, looks for that, for `Limits.settle_seconds`, before it follows.
6. Numbers that are not among the newest two are removed when they are a day old: no node's view is
   so late that it would make one again.

A directory that shows an older newest number than was known counts as no news: it is a late view.

A claim only saves work. If these limits are too short for a file system, or its ``mkdir`` has two
winners, a kernel is compiled and published twice, and every reader gets one of the two whole.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = [
    "Action",
    "ClaimError",
    "Happening",
    "Limits",
    "Mark",
    "Seen",
    "State",
    "Watch",
    "look",
    "step",
]

MOST_ELAPSED = 2.0
"""How much of the time between two looks counts as silence: one that was stopped itself, or whose
look hung, knows nothing of the holder in that time. Looks are less than a second apart."""


class Mark(Enum):
    """What a claim says of its holder."""

    UNWRITTEN = "there is no record, or none that can be read"
    HELD = "the holder has it"
    DEAD = "the holder's process, on this machine, is gone"
    LEFT = "the holder has left, and had published nothing"
    PUBLISHED = "the holder has left, and had published"


class State(Enum):
    """Where one that wants a lease stands."""

    WATCHING = "watching"
    SETTLING = "settling"
    MAKING = "making"
    HOLDING = "holding"
    OVER = "over"


class Happening(Enum):
    """What a look has seen, or what an action came to."""

    FREE = "there is no claim, or the newest one was left"
    FRESH = "it was left just now, and what was published may not be seen yet"
    HELD = "it is held"
    SILENT = "its holder is silent"
    MADE = "made"
    EXISTS = "exists"
    BEAT = "beat"
    DONE = "done"
    LEAVES = "leaves"


class Action(Enum):
    """What to do now."""

    REST = "rest, then look again"
    SEEK = "look for what was published; leave if it is there"
    MAKE = "make the next number"
    WRITE = "write the record"
    MARK = "mark the claim as left"


class Limits(NamedTuple):
    """Times, by the waiter's own clock.

    Attributes:
        silence_seconds: Without news for so long, a holder is taken for dead.
        settle_seconds: How long what was published may be invisible after its holder has left.
    """

    silence_seconds: float
    settle_seconds: float


class Seen(NamedTuple):
    """The newest claim, as one look has seen it.

    Attributes:
        number: Its number; 0 if there is none.
        mark: What it says.
        beat: Differs with each beat.
        settled_seconds: Since when it is left, by the file system's clock: known once, if it is
            marked as published. So who looks later waits only for what is left of settling.
    """

    number: int = 0
    mark: Mark = Mark.LEFT
    beat: object = None
    settled_seconds: float = 0.0


class Watch(NamedTuple):
    """What one that wants a lease knows of the newest claim.

    Attributes:
        seen: The news of it.
        quiet_seconds: For how long there were none since.
    """

    seen: Seen = Seen()
    quiet_seconds: float = 0.0

    def knows_of(self, number: int) -> Watch:
        """The same, after ``mkdir`` has told that a number exists: a new claim, not read yet."""
        if number <= self.seen.number:
            return self
        return Watch(Seen(number, Mark.UNWRITTEN))


class ClaimError(RuntimeError):
    """A defect of ajit: something happened that cannot happen in this state."""


def look(
    watch: Watch, seen: Seen, elapsed_seconds: float, limits: Limits
) -> tuple[Watch, Happening]:
    """Take in what a look has seen.

    Args:
        watch: What was known.
        seen: The newest claim.
        elapsed_seconds: Since the last look.
        limits: See `Limits`.

    Returns:
        What is known now, and what that means for the state.
    """
    if seen.number < watch.seen.number or seen == watch.seen:
        quiet = watch.quiet_seconds + min(elapsed_seconds, MOST_ELAPSED)
        watch = watch._replace(quiet_seconds=quiet)
    else:
        watch = Watch(seen, seen.settled_seconds)
    return watch, _meaning(watch, limits)


def _meaning(watch: Watch, limits: Limits) -> Happening:
    mark, quiet = watch.seen.mark, watch.quiet_seconds
    if mark is Mark.LEFT:
        return Happening.FREE
    if mark is Mark.PUBLISHED:
        return Happening.FREE if quiet >= limits.settle_seconds else Happening.FRESH
    if mark is Mark.DEAD or quiet >= limits.silence_seconds:
        return Happening.SILENT
    return Happening.HELD


def step(state: State, happening: Happening) -> tuple[State, tuple[Action, ...]]:
    """Return the next state and what to do now, in order.

    Raises:
        ClaimError: That cannot happen in this state.
    """
    try:
        return _TABLE[state, happening]
    except KeyError:
        raise ClaimError(f"{happening.value!r} while {state.value}") from None


_TABLE: dict[tuple[State, Happening], tuple[State, tuple[Action, ...]]] = {
    (State.WATCHING, Happening.FREE): (State.MAKING, (Action.MAKE,)),
    (State.WATCHING, Happening.FRESH): (State.SETTLING, (Action.SEEK, Action.REST)),
    (State.WATCHING, Happening.HELD): (State.WATCHING, (Action.REST,)),
    (State.WATCHING, Happening.SILENT): (State.MAKING, (Action.MAKE,)),
    (State.WATCHING, Happening.LEAVES): (State.OVER, ()),
    (State.SETTLING, Happening.FREE): (State.MAKING, (Action.MAKE,)),
    (State.SETTLING, Happening.FRESH): (State.SETTLING, (Action.SEEK, Action.REST)),
    (State.SETTLING, Happening.HELD): (State.WATCHING, (Action.REST,)),
    (State.SETTLING, Happening.SILENT): (State.MAKING, (Action.MAKE,)),
    (State.SETTLING, Happening.LEAVES): (State.OVER, ()),
    (State.MAKING, Happening.MADE): (State.HOLDING, (Action.WRITE,)),
    (State.MAKING, Happening.EXISTS): (State.WATCHING, (Action.REST,)),
    (State.HOLDING, Happening.BEAT): (State.HOLDING, (Action.WRITE,)),
    (State.HOLDING, Happening.DONE): (State.OVER, (Action.MARK,)),
}
