"""The states of a slot, the memory of one chunk, as a table, with no I/O.

Several engines write, read and die at any time, and the memory is used again. This table and the
three questions below it decide when; `ajit.kv.ledger` asks them, and nothing else decides about it.
So the promises can be checked by trying every order of events for two engines, an evictor, and a
crash at every step (``tests/kv/test_store_enumeration.py``).

::

    FREE ──reserved──▶ RESERVED ──committed──▶ READY
      ▲                   │ dropped              │ dropped
      │                   ▼                      │
      └───untouched─── RETIRED ◀─────────────────┘

Rules, and what each is for:

1. One owner writes a slot: the one that has reserved it, up to its commit. A chunk that is reserved
   is not reserved a second time. So no slot has two writers.
2. What is not committed is not found. So no reader sees bytes that are not all there.
3. A chunk leaves the index when it is *dropped*: it was evicted, did not verify, or its reservation
   is over without a commit. It is found no more, and its memory is retired, not free: one that had
   it before may still read or write.
4. Memory is used again when it is *untouched*: no lease holds it, and its writer has let go. A
   writer lets go when it says so, or when its process is gone. The end of a connection is no such
   word: a copy of its engine may be on its way.
5. Owners hold, and no timers: a lease ends by its owner's word, or with its owner. A reservation
   that takes too long is dropped, so that others may store the chunk; its writer keeps the memory.
6. A lease on a chunk holds all chunks before it, and so does every chunk that follows: a parent is
   never evicted before its children. No lookup could find these without it.
7. An owner's word counts once. Who releases twice has released.
"""

from __future__ import annotations

from enum import Enum

__all__ = [
    "Action",
    "Happening",
    "SlotError",
    "State",
    "is_found",
    "is_untouched",
    "may_evict",
    "step",
]


class State(Enum):
    """What the memory of a chunk is."""

    FREE = "free"
    RESERVED = "reserved"
    READY = "ready"
    RETIRED = "retired"


class Happening(Enum):
    """What becomes of a chunk."""

    RESERVED = "reserved"
    COMMITTED = "committed"
    DROPPED = "dropped"
    UNTOUCHED = "untouched"


class Action(Enum):
    """What to do now."""

    LIST = "put the chunk into the index"
    KEEP = "let the policy of eviction know it"
    UNLIST = "take it out of the index"
    REUSE = "give the memory back"


class SlotError(AssertionError):
    """Something was asked of a slot that cannot happen in its state: a defect of ajit."""


def step(state: State, happening: Happening) -> tuple[State, tuple[Action, ...]]:
    """Return the next state and what to do now.

    Raises:
        SlotError: That cannot happen in this state.
    """
    try:
        return _TABLE[state, happening]
    except KeyError:
        raise SlotError(f"{happening.value!r} cannot happen to a {state.value} slot") from None


def is_found(state: State) -> bool:
    """Whether a lookup finds the chunk."""
    return state is State.READY


def may_evict(state: State, leases: int, children: int) -> bool:
    """Whether the chunk may be dropped to make room.

    Args:
        state: Of its slot.
        leases: That end at it.
        children: Chunks in the index that follow it.
    """
    return state is State.READY and not leases and not children


def is_untouched(leases: int, children: int, *, has_writer: bool) -> bool:
    """Whether none that had a retired slot can still read or write it.

    Args:
        leases: That end at it.
        children: Retired chunks that follow it: their leases hold it as well.
        has_writer: Whether the one that reserved it has not let go.
    """
    return not leases and not children and not has_writer


_TABLE: dict[tuple[State, Happening], tuple[State, tuple[Action, ...]]] = {
    (State.FREE, Happening.RESERVED): (State.RESERVED, (Action.LIST,)),
    (State.RESERVED, Happening.COMMITTED): (State.READY, (Action.KEEP,)),
    (State.RESERVED, Happening.DROPPED): (State.RETIRED, (Action.UNLIST,)),
    (State.READY, Happening.DROPPED): (State.RETIRED, (Action.UNLIST,)),
    (State.RETIRED, Happening.UNTOUCHED): (State.FREE, (Action.REUSE,)),
}
