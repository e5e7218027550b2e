"""Readiness over ranks: when each of several processes may say that all are ready. With no I/O.

Ranks that start together share the work of a warm-up: each does a part, and then has the others'
results from the cache. None of them may serve before all have everything, for they run in lockstep:
one that still compiles stops the others in a collective. And none may wait for one that is dead.

Each rank has one *post* in the cache, which only it writes and all others read: who it is, how far
it is, and whom it has seen. There is no leader and no lock. `ajit._runtime.ranks` does it.

::

    WORKING ──its share is done──▶ SHARED ──all shares are in, or lost──▶ FETCHING
                                                                             │ has everything
         ┌──────all have everything────────── COMPLETE ◀─────────────────────┘
         ▼                                lost │  ▲
       READY ◀──all have everything── UNREADY ◀┘  │ lost ones are back
                                         └────────┘
    FAILED: it could not do its work.   OUSTED: another process is this rank by now.

Rules, and what each is for:

1. A post is believed only if it *echoes* the reader's session, a number that no other process has.
   Posts of yesterday's start look like those of today's, and say that all is done; but only one who
   has seen this process can know its session.
2. A rank posts what it has seen before it may leave. So who waits for it finds an echo in the post
   that it left behind, however late it looks.
3. Whatever a believed post says anew is news, a beat also. Without news for
   `Limits.silence_seconds`, by the reader's own clock, a rank is lost; one that was not seen at all
   is lost after `Limits.absence_seconds`, and one on this machine whose process is gone at once.
   One that has everything is not lost: nothing is waited for from it.
4. What a lost rank should have done, the others do: each fetches everything once all shares are in
   or lost, and compiles what is not there.
5. A rank that is lost or has failed is named, and then it is waited for no more. If it comes
   back, or another process takes its place, all may still become ready.
6. Of two processes that are the same rank, the later one is. The other one leaves, and says so.
7. READY stays: what was made ready does not go away when a rank does.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Action",
    "Happening",
    "Limits",
    "Peer",
    "Phase",
    "Post",
    "ReadinessError",
    "Standing",
    "State",
    "is_ousted",
    "look",
    "standing",
    "step",
    "survey",
]

MOST_ELAPSED = 2.0
"""How much of the time between two looks counts as silence: one that was stopped itself, or whose
look hung, knows nothing of the others in that time. Looks are a second apart."""


class Phase(Enum):
    """What a rank posts of itself."""

    WORKING = "working"
    SHARED = "shared"
    COMPLETE = "complete"
    FAILED = "failed"


class State(Enum):
    """Where a rank stands."""

    WORKING = "working"
    SHARED = "shared"
    FETCHING = "fetching"
    COMPLETE = "complete"
    UNREADY = "unready"
    READY = "ready"
    FAILED = "failed"
    OUSTED = "ousted"

    @property
    def phase(self) -> Phase:
        """What the others are told."""
        return _PHASES[self]


class Happening(Enum):
    """What a look at the others has shown, or what became of this rank's own work."""

    PENDING = "others are at work"
    SHARES_IN = "all shares are in, or lost"
    ALL_COMPLETE = "all have everything"
    LOST = "a rank is lost or has failed"
    SHARE_DONE = "its share is done"
    HAS_ALL = "it has everything"
    BROKE = "it could not do its work"
    OUSTED = "another process is this rank"


class Action(Enum):
    """What to do now."""

    POST = "post the new phase"
    FETCH = "get what the others have made, and make what they have not"
    NAME = "name the ranks that are lost"
    TELL = "tell that all are ready"


class Standing(Enum):
    """What a rank is to another one."""

    ABSENT = "not seen yet"
    WORKING = "at work"
    SHARED = "waits for the shares of others"
    COMPLETE = "has everything"
    FAILED = "has failed"
    SILENT = "silent"
    MISSING = "was never seen"

    @property
    def is_lost(self) -> bool:
        """Whether it is not waited for."""
        return self in _LOST


class Limits(NamedTuple):
    """Times, by the reader's own clock.

    Attributes:
        silence_seconds: Without news for so long, a rank that was seen is lost.
        absence_seconds: The same for one that was not seen since this rank has begun.
    """

    silence_seconds: float
    absence_seconds: float


class Post(NamedTuple):
    """What one rank says.

    Attributes:
        session: Of its process: later ones compare greater.
        phase: How far it is.
        beat: Differs from one post to the next.
        echoes: Of each rank, the session that it has seen last; "" for none.
    """

    session: str
    phase: Phase
    beat: int
    echoes: tuple[str, ...]


class Peer(NamedTuple):
    """What a rank knows of another one.

    Attributes:
        post: The last one that it has read.
        believed: Whether that is of this start: it echoes the reader's session.
        quiet_seconds: For how long there was no news.
        dead: Whether its process is known to be gone.
    """

    post: Post | None = None
    believed: bool = False
    quiet_seconds: float = 0.0
    dead: bool = False


class ReadinessError(RuntimeError):
    """A defect of ajit: something happened that cannot happen in this state."""


def look(
    peer: Peer, post: Post | None, me: int, session: str, elapsed_seconds: float, *, dead: bool
) -> Peer:
    """Take in what a look at another rank's post has shown.

    Args:
        peer: What was known.
        post: What is there; None if it cannot be read, which is no news.
        me: The reader's rank.
        session: The reader's session.
        elapsed_seconds: Since the last look.
        dead: Whether the process that wrote it is known to be gone.
    """
    quiet = peer.quiet_seconds + min(elapsed_seconds, MOST_ELAPSED)
    if post is None:
        return peer._replace(quiet_seconds=quiet)
    believed = me < len(post.echoes) and post.echoes[me] == session
    is_news = post != peer.post if believed else peer.believed
    return Peer(post, believed, 0.0 if is_news else quiet, dead)


def standing(peer: Peer, limits: Limits) -> Standing:
    """Return what another rank is to this one."""
    if not peer.believed or peer.post is None:
        is_missing = peer.quiet_seconds >= limits.absence_seconds
        return Standing.MISSING if is_missing else Standing.ABSENT
    if peer.post.phase in (Phase.COMPLETE, Phase.FAILED):
        return Standing[peer.post.phase.name]
    if peer.dead or peer.quiet_seconds >= limits.silence_seconds:
        return Standing.SILENT
    return Standing[peer.post.phase.name]


def survey(state: State, others: Iterable[Standing]) -> Happening:
    """Say what the standings of all other ranks come to, for a rank in this state."""
    standings = list(others)
    if state is State.SHARED and not any(one in _AT_WORK for one in standings):
        return Happening.SHARES_IN
    if all(one is Standing.COMPLETE for one in standings):
        return Happening.ALL_COMPLETE
    return Happening.LOST if any(one.is_lost for one in standings) else Happening.PENDING


def is_ousted(session: str, found: Post | None) -> bool:
    """Whether the post that is in this rank's own place is of a later process."""
    return found is not None and found.session > session


def step(state: State, happening: Happening) -> tuple[State, tuple[Action, ...]]:
    """Return the next state and what to do now, in order.

    Raises:
        ReadinessError: That cannot happen in this state.
    """
    try:
        return _TABLE[state, happening]
    except KeyError:
        raise ReadinessError(f"{happening.value!r} while {state.value}") from None


_LOST = frozenset({Standing.FAILED, Standing.SILENT, Standing.MISSING})

_AT_WORK = frozenset({Standing.ABSENT, Standing.WORKING})
"""Their shares are waited for."""

_PHASES = {
    State.WORKING: Phase.WORKING,
    State.SHARED: Phase.SHARED,
    State.FETCHING: Phase.SHARED,
    State.COMPLETE: Phase.COMPLETE,
    State.UNREADY: Phase.COMPLETE,
    State.READY: Phase.COMPLETE,
    State.FAILED: Phase.FAILED,
    State.OUSTED: Phase.FAILED,
}

_FINE = (Happening.PENDING, Happening.ALL_COMPLETE)
_NAMED = (Action.NAME,)

_TABLE: dict[tuple[State, Happening], tuple[State, tuple[Action, ...]]] = {
    **{(State.WORKING, fine): (State.WORKING, ()) for fine in _FINE},
    (State.WORKING, Happening.LOST): (State.WORKING, _NAMED),
    (State.WORKING, Happening.SHARE_DONE): (State.SHARED, (Action.POST,)),
    (State.SHARED, Happening.PENDING): (State.SHARED, ()),
    (State.SHARED, Happening.LOST): (State.SHARED, _NAMED),
    (State.SHARED, Happening.SHARES_IN): (State.FETCHING, (Action.FETCH,)),
    **{(State.FETCHING, fine): (State.FETCHING, ()) for fine in _FINE},
    (State.FETCHING, Happening.LOST): (State.FETCHING, _NAMED),
    (State.FETCHING, Happening.HAS_ALL): (State.COMPLETE, (Action.POST,)),
    (State.COMPLETE, Happening.PENDING): (State.COMPLETE, ()),
    (State.COMPLETE, Happening.LOST): (State.UNREADY, _NAMED),
    (State.COMPLETE, Happening.ALL_COMPLETE): (State.READY, (Action.POST, Action.TELL)),
    (State.UNREADY, Happening.LOST): (State.UNREADY, _NAMED),
    (State.UNREADY, Happening.PENDING): (State.COMPLETE, ()),
    (State.UNREADY, Happening.ALL_COMPLETE): (State.READY, (Action.POST, Action.TELL)),
    **{(State.READY, seen): (State.READY, ()) for seen in (*_FINE, Happening.LOST)},
    **{
        (state, Happening.BROKE): (State.FAILED, (Action.POST, Action.NAME))
        for state in (State.WORKING, State.SHARED, State.FETCHING)
    },
    **{(State.FAILED, seen): (State.FAILED, ()) for seen in (*_FINE, Happening.LOST)},
    **{
        (state, Happening.OUSTED): (State.OUSTED, _NAMED)
        for state in State
        if state not in (State.READY, State.OUSTED)
    },
    (State.READY, Happening.OUSTED): (State.READY, ()),
    **{(State.OUSTED, happening): (State.OUSTED, ()) for happening in Happening},
}
