"""The plan: how one base key is resolved, as a table of states, with no I/O.

A resolution is a walk through this table. `step` takes the state and what just happened, and gives
the next state and what to do now; `ajit._resolve.walk` does it and reports back. Nothing else
decides anything about entries, leases and compiles, so that the promises below can be checked by
trying every order of events for several processes at once
(``tests/core/test_plan_enumeration.py``).

::

    LOOKING ──found──▶ DONE (disk)
       │ missing
    LEASING ──taken──▶ RECHECKING ──found──▶ DONE (disk)
       │  │                │ missing
       │  └─unavailable─┐  │
       │ held           ▼  ▼
    WAITING ─patience▶ COMPILING ──failed──▶ FAILED, with a failure record
       │ │                 │ compiled
       │ │                 ├──not to be shared──▶ DONE (compiled)
       │ │             CONFIRMING
       │ │                 │ a bad entry is there: it is replaced; else create-only
       │ │             PUBLISHING
       │ │                 └──published or not──▶ DONE (compiled)
       │ └──taken──▶ RECHECKING
       └──found──▶ DONE (disk)

    LOOKING, WAITING, RECHECKING ──failed before──▶ FAILED

Rules, and what each is for:

1. Bytes are used only from ``found`` (verified by the reader) or from our own compile. So nothing
   unverified is loaded.
2. With the lease in hand, the disk is read again before a compile: between our first look and the
   lease, its former holder has most likely published. So a key is compiled once, unless a holder
   crashed or a waiter lost patience.
3. Publishing is create-only, with one exception: each resolution looks once more after its compile,
   right before publishing, and replaces the entry if one is there that does not verify. It does so
   with or without the lease, and whatever its looks met before. Otherwise a damaged entry whose
   lease has a silent holder (stopped, or on a host that is gone), or that no reading list led to,
   would cost every later process its patience and a compile, for ever. If there is a good entry by
   now it stays, and we keep our own bytes. It is published create-only all the same, for its list:
   see rule 7.
4. Every way out releases the lease, and every wait ends: by the lease, by the entry, or by
   patience. So no resolution waits for ever.
5. No failure of cache or locks reaches DONE or FAILED: at worst, work is done twice.
6. A source that the compiler rejected leaves a failure record before the lease is released, so
   the waiters get the same error and do not repeat the compile. A compile that was broken off
   (killed, out of memory, timeout) says nothing about the source and is never recorded.
7. "The entry" is the one that a reading list of the base leads to, given what its files are today.
   Entry and list are published together, the entry first: what has only one of them is a miss.
   A publisher that dies in between leaves an entry that nothing leads to. So the next one, which
   finds the entry there, puts the list all the same: otherwise each process compiles anew.
   A compile of which it is not certain what it read publishes neither, and records no failure;
   its result is used by the leader of this flight alone.

Rule 3 leaves a race between the look and the rename after it. It takes two processes that replace
at once, so one of them lost patience or found no locks; then the later rename puts one good entry
over another. Each was verified or compiled by the process that published it, both are of this key,
and a rename is atomic, so every reader gets one of them whole. It costs nothing but the
former file. Exchanging the two files and checking the old one (``RENAME_EXCHANGE``, where a file
system has it) would only detect the race afterwards and prevent nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Action", "Happening", "Plan", "PlanError", "State", "start", "step"]


class State(Enum):
    """Where a resolution stands."""

    LOOKING = "looking"
    LEASING = "leasing"
    WAITING = "waiting"
    RECHECKING = "rechecking"
    COMPILING = "compiling"
    CONFIRMING = "confirming"
    PUBLISHING = "publishing"
    DONE = "done"
    FAILED = "failed"


class Happening(Enum):
    """What the performer of an action reports back."""

    FOUND = "found"
    """The entry is there and verified."""
    MISSING = "missing"
    """There is no entry, or it cannot be read."""
    REJECTED = "rejected"
    """There is an entry, and it did not verify."""
    LEASE_TAKEN = "lease taken"
    LEASE_HELD = "lease held"
    """Another holder has it."""
    LEASE_UNAVAILABLE = "lease unavailable"
    """The file system has no locks, or the cache cannot be written."""
    PATIENCE_ENDED = "patience ended"
    FAILED_BEFORE = "failed before"
    """There is no good entry, and a failure record of this key that is young enough."""
    COMPILED = "compiled"
    COMPILED_UNSHARED = "compiled, not to be shared"
    """It is not certain what the compiler read: a file changed meanwhile, or could not be seen."""
    COMPILE_FAILED = "compile failed"
    """The compiler rejected the source."""
    COMPILE_BROKE_OFF = "compile broke off"
    """The compiler could not do its work, or it is not certain what it read."""
    PUBLISHED = "published"
    """The entry is on disk: ours, or one that was published before ours."""
    PUBLISH_FAILED = "publish failed"
    CANCELLED = "cancelled"
    """The runtime is closing. Possible in every state that is not an end."""


class Action(Enum):
    """What the performer is to do. Of several, in the order given."""

    READ_ENTRY = "read entry"
    TRY_LEASE = "try lease"
    WAIT = "wait"
    """Wait for the lease, watch for the entry, measure the holder's silence: first one counts."""
    STOP_WAITING = "stop waiting"
    """If the lease is won nevertheless, now or later, it is released at once."""
    COMPILE = "compile"
    LOOK_AGAIN = "look again"
    """Whether an entry that does not verify has the compiled key. What is there is not used."""
    PUBLISH = "publish"
    """Create-only."""
    PUBLISH_REPLACING = "publish, replacing"
    """Over an entry that does not verify, right after a look that says so."""
    RECORD_FAILURE = "record failure"
    RELEASE = "release"
    RETURN_FROM_DISK = "return from disk"
    RETURN_COMPILED = "return compiled"
    RAISE = "raise"


@dataclass(frozen=True, slots=True)
class Plan:
    """One resolution: its state and the one fact that later steps depend on.

    Attributes:
        state: Where it stands.
        leased: Whether we hold the lease.
    """

    state: State = State.LOOKING
    leased: bool = False

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to do."""
        return self.state in (State.DONE, State.FAILED)


class PlanError(AssertionError):
    """Something was reported that cannot happen in that state: a defect of the performer."""


Transition = tuple[Plan, tuple[Action, ...]]


def start() -> Transition:
    """Return the first state of a resolution and its first action."""
    return Plan(), (Action.READ_ENTRY,)


def step(plan: Plan, happening: Happening) -> Transition:
    """Return the next state and what to do now.

    Raises:
        PlanError: The happening is impossible in this state.
    """
    if happening is Happening.CANCELLED and not plan.ended:
        return _cancelled(plan)
    try:
        rule = _TABLE[plan.state, happening]
    except KeyError:
        raise PlanError(f"{happening.value!r} cannot happen while {plan.state.value}") from None
    return rule(plan)


def _end(action: Action, *before: Action) -> Callable[[Plan], Transition]:
    """The end of a resolution; first releases what it holds."""

    def rule(plan: Plan) -> Transition:
        state = State.FAILED if action is Action.RAISE else State.DONE
        release = (Action.RELEASE,) if plan.leased else ()
        return replace(plan, state=state, leased=False), (*before, *release, action)

    return rule


def _go(state: State, *actions: Action, **changes: bool) -> Callable[[Plan], Transition]:
    def rule(plan: Plan) -> Transition:
        return replace(plan, state=state, **changes), actions

    return rule


def _cancelled(plan: Plan) -> Transition:
    stop = (Action.STOP_WAITING,) if plan.state is State.WAITING else ()
    release = (Action.RELEASE,) if plan.leased else ()
    return replace(plan, state=State.FAILED, leased=False), (*stop, *release, Action.RAISE)


_TABLE: dict[tuple[State, Happening], Callable[[Plan], Transition]] = {
    (State.LOOKING, Happening.FOUND): _end(Action.RETURN_FROM_DISK),
    (State.LOOKING, Happening.MISSING): _go(State.LEASING, Action.TRY_LEASE),
    (State.LOOKING, Happening.REJECTED): _go(State.LEASING, Action.TRY_LEASE),
    (State.LOOKING, Happening.FAILED_BEFORE): _end(Action.RAISE),
    (State.LEASING, Happening.LEASE_TAKEN): _go(State.RECHECKING, Action.READ_ENTRY, leased=True),
    (State.LEASING, Happening.LEASE_HELD): _go(State.WAITING, Action.WAIT),
    (State.LEASING, Happening.LEASE_UNAVAILABLE): _go(State.COMPILING, Action.COMPILE),
    (State.WAITING, Happening.LEASE_TAKEN): _go(State.RECHECKING, Action.READ_ENTRY, leased=True),
    (State.WAITING, Happening.LEASE_UNAVAILABLE): _go(State.COMPILING, Action.COMPILE),
    (State.WAITING, Happening.FOUND): _end(Action.RETURN_FROM_DISK, Action.STOP_WAITING),
    (State.WAITING, Happening.FAILED_BEFORE): _end(Action.RAISE, Action.STOP_WAITING),
    (State.WAITING, Happening.PATIENCE_ENDED): _go(
        State.COMPILING, Action.STOP_WAITING, Action.COMPILE
    ),
    (State.RECHECKING, Happening.FOUND): _end(Action.RETURN_FROM_DISK),
    (State.RECHECKING, Happening.MISSING): _go(State.COMPILING, Action.COMPILE),
    (State.RECHECKING, Happening.REJECTED): _go(State.COMPILING, Action.COMPILE),
    (State.RECHECKING, Happening.FAILED_BEFORE): _end(Action.RAISE),
    # Rule 3: only the compile tells the key, so what a look met before counts no more.
    (State.COMPILING, Happening.COMPILED): _go(State.CONFIRMING, Action.LOOK_AGAIN),
    (State.COMPILING, Happening.COMPILED_UNSHARED): _end(Action.RETURN_COMPILED),
    (State.COMPILING, Happening.COMPILE_FAILED): _end(Action.RAISE, Action.RECORD_FAILURE),
    (State.COMPILING, Happening.COMPILE_BROKE_OFF): _end(Action.RAISE),
    (State.CONFIRMING, Happening.REJECTED): _go(State.PUBLISHING, Action.PUBLISH_REPLACING),
    (State.CONFIRMING, Happening.MISSING): _go(State.PUBLISHING, Action.PUBLISH),
    (State.CONFIRMING, Happening.FOUND): _go(State.PUBLISHING, Action.PUBLISH),
    (State.PUBLISHING, Happening.PUBLISHED): _end(Action.RETURN_COMPILED),
    (State.PUBLISHING, Happening.PUBLISH_FAILED): _end(Action.RETURN_COMPILED),
}
