"""What one process can do that follows a plan: each atomic step, in a world with one header.

It plays the performer (`ajit._resolve.walk`) with the things of `plan_things`; `plan_worlds` lets
several processes do it at once, in every order there is. All of them want one base key. What they
compile includes a header, and an entry's key is made of what the header says, so there is one entry
for each thing it can say. What is taken for granted is what the performer and the kernel promise:

- reading and publishing a file are atomic: a reader sees none, the good one, or the bad one whole;
- a look is two steps: the lists and what the header says today, then the entry which that leads to
  (a waiter's look is one step, and so is any look once the header stays as it is);
- a compiler reads the header at one moment, and what it read is digested at a later one; it shows
  whether the header was written in between, even if it says the same again;
- publishing is two steps: the entry, then its reading list;
- the lock excludes, and is freed when its holder's process dies, but not when it stalls;
- a wait has a helper that may win the lock at any moment, also when it is no longer wanted: from
  STOP_WAITING on it gives the lock back at once;
- several actions are done in order, and being cancelled does not come between them: it comes while
  a read, an attempt, a wait, a compile or a publish is to be done or under way.

Steps that touch neither the disk nor the lock are done at once: no process can see when, so no
order is lost, and there are fewer worlds.

A move is *fair* if it only needs time. All else is the adversary's: a crash, a stall, a cancel, a
compile or publish that fails, a compile whose reads are not seen, locks that are not there,
patience that ends, a failure record that cannot be written.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ajit._core.plan import Action, Happening, Plan, State, step
from tests.core.plan_things import (
    BAD,
    GOOD,
    NONE,
    WRONG,
    Disk,
    Failure,
    Move,
    Process,
    Violation,
    performer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED = {
    Action.READ_ENTRY, Action.TRY_LEASE, Action.LOOK_AGAIN, Action.PUBLISH,
    Action.PUBLISH_REPLACING, Action.RECORD_FAILURE, Action.RELEASE,
}  # fmt: skip
"""Actions that touch the disk or the lock, so that their order counts."""

READ_AS = {
    NONE: Happening.MISSING, GOOD: Happening.FOUND, WRONG: Happening.FOUND,
    BAD: Happening.REJECTED,
}  # fmt: skip


@cache
def moves_of(process: Process, disk: Disk, *, lock_free: bool) -> tuple[Move, ...]:
    """Every step that a process can take now, its adversary's included."""
    if process.life != "live":
        return ()
    moves = list(_helper_moves(process, disk, lock_free=lock_free))
    if not process.finished:
        moves += _moves_of_plan(process, disk, lock_free=lock_free)
        moves += _cancel(process, disk)
        moves.append(Move("stalls", process._replace(life="stalled"), disk, fair=False))
    if not process.finished or process.helper:
        dead = Process(Plan(state=State.FAILED), (), life="crashed")
        moves.append(Move("crashes", dead, disk, fair=False, excuses=True))
    return tuple(map(_settled, moves))


def _settled(move: Move) -> Move:
    """Do at once what no other process can see."""
    process = move.after
    while process.todo and process.todo[0] not in SHARED:
        action, process = process.todo[0], process._replace(todo=process.todo[1:])
        process = _at_once(process, action, move.disk)
    return move._replace(after=process)


def _at_once(process: Process, action: Action, disk: Disk) -> Process:
    if action is Action.COMPILE:
        # When the header is read counts only as long as it may change.
        read = None if disk.edits else disk.header
        return process._replace(key=performer.digests_before(disk), read=read)
    if action is Action.WAIT:
        return process._replace(helper="waiting")
    if action is Action.STOP_WAITING:
        left = {"waiting": "left", "won": "late"}.get(process.helper, process.helper)
        return process._replace(helper=left)
    if action is Action.RETURN_FROM_DISK and not process.verified:
        raise Violation("returns unverified bytes")
    if action is Action.RETURN_COMPILED and not process.compiled:
        raise Violation("returns compiled bytes that it does not have")
    if process.todo:
        raise Violation(f"has actions after its end: {process.todo}")
    return _ended(process, action)


def _ended(process: Process, action: Action) -> Process:
    """What it knew on its way counts no more: fewer worlds."""
    kept = None if action is Action.RAISE else process.key
    return Process(process.plan, (), holds=process.holds, helper=process.helper, kept=kept)


def _helper_moves(process: Process, disk: Disk, *, lock_free: bool) -> Iterator[Move]:
    if process.helper == "waiting" and lock_free:
        yield Move("helper wins", process._replace(helper="won", holds=True), disk)
    if process.helper == "left" and lock_free:
        yield Move("helper wins late", process._replace(helper="late", holds=True), disk)
    if process.helper == "late":
        yield Move("helper releases", process._replace(helper="", holds=False), disk)


def _moves_of_plan(process: Process, disk: Disk, *, lock_free: bool) -> Iterator[Move]:
    if not process.todo:
        yield from _reports(process, disk)
        return
    action, doing = process.todo[0], process._replace(todo=process.todo[1:])
    if action is Action.RELEASE:
        yield Move(action.value, doing._replace(holds=False), disk)
    elif action is Action.RECORD_FAILURE:
        yield from _record_failure(doing, disk)
    elif action is Action.READ_ENTRY:
        yield _look_up(process, disk) if disk.edits and not process.during else _read(process, disk)
    elif action is Action.LOOK_AGAIN:
        yield _look_again(doing, disk)
    elif action is Action.TRY_LEASE:
        yield from _try_lease(doing, disk, lock_free=lock_free)
    else:
        yield from _publish(process, action, disk)


def _told(process: Process, happening: Happening, **changes: object) -> Process:
    plan, todo = step(process.plan, happening)
    return process._replace(plan=plan, todo=todo, **changes)


# --- looks ----------------------------------------------------------------------------------------


def _look_up(process: Process, disk: Disk) -> Move:
    """The first step of a look: the lists, and today's header."""
    today = disk.header
    found = process._replace(looked=today, listed=disk.lists[today], during=(today,), edited=False)
    return Move(f"looks up header {today}", found, disk)


def _read(process: Process, disk: Disk) -> Move:
    """The second one, or both: the entry, and where there is no good one, the failure record."""
    if not process.during:
        process = _look_up(process, disk).after
    happening, found = _see(process, disk)
    good = happening is Happening.FOUND
    return Move(f"reads: {happening.value}", _told(found, happening, verified=good), disk)


def _see(process: Process, disk: Disk) -> tuple[Happening, Process]:
    """What a look that knows the lists and the header comes to, and the process after it."""
    says, during = performer.seeks(process, disk), process.during
    process = process._replace(looked=None, listed=False, during=())
    entry = NONE if says is None else disk.entries[says]
    if says is not None and READ_AS[entry] is Happening.FOUND:
        content = says if entry == GOOD else 1 - says
        if content not in during:
            raise Violation("gets a stale entry from the disk")
        return Happening.FOUND, process._replace(key=says)
    if performer.believes(disk):
        assert disk.failure is not None
        if disk.failure.made_with not in during:
            raise Violation("believes the failure of another header")
        return Happening.FAILED_BEFORE, process
    return READ_AS[entry], process


def _look_again(process: Process, disk: Disk) -> Move:
    assert process.key is not None
    entry = disk.entries[process.key]
    told = _told(process, READ_AS[entry], confirmed=entry == BAD)
    return Move(f"looks again: {entry}", told, disk)


# --- leases and waits -----------------------------------------------------------------------------


def _try_lease(process: Process, disk: Disk, *, lock_free: bool) -> Iterator[Move]:
    if lock_free:
        yield Move("takes the lease", _told(process, Happening.LEASE_TAKEN, holds=True), disk)
    else:
        yield Move("finds the lease held", _told(process, Happening.LEASE_HELD), disk)
    without = _told(process, Happening.LEASE_UNAVAILABLE)
    yield Move("finds no locks", without, disk, fair=False, excuses=True)


def _ends_of_wait(process: Process, disk: Disk) -> Iterator[Move]:
    if process.helper == "won":
        yield Move("is given the lease", _told(process, Happening.LEASE_TAKEN, helper=""), disk)
    happening, seen = _see(_look_up(process, disk).after, disk)
    if happening in (Happening.FOUND, Happening.FAILED_BEFORE):
        good = happening is Happening.FOUND
        yield Move(f"sees: {happening.value}", _told(seen, happening, verified=good), disk)
    impatient = _told(process, Happening.PATIENCE_ENDED)
    yield Move("loses patience", impatient, disk, fair=False, excuses=True)
    if process.helper == "waiting":
        without = _told(process, Happening.LEASE_UNAVAILABLE, helper="")
        yield Move("finds no locks", without, disk, fair=False, excuses=True)


# --- compiles and what becomes of them ------------------------------------------------------------


def _reports(process: Process, disk: Disk) -> Iterator[Move]:
    """The outcomes of an action that takes time."""
    if process.plan.state is State.WAITING:
        yield from _ends_of_wait(process, disk)
    elif process.plan.state is State.COMPILING:
        if process.read is None:
            yield Move("reads the header", process._replace(read=disk.header), disk)
        else:
            yield from _ends_of_compile(process, disk)


def _ends_of_compile(process: Process, disk: Disk) -> Iterator[Move]:
    key = performer.digests_after(process, disk)
    made = process._replace(key=key, changed=False)
    sure = performer.is_sure(process, disk)
    done = Happening.COMPILED if sure else Happening.COMPILED_UNSHARED
    settles = None if process.edited else key
    yield Move(
        f"has {done.value}", _has_compiled(made, done), disk, settles=settles if sure else None
    )
    if sure:
        blind = _has_compiled(made, Happening.COMPILED_UNSHARED)
        yield Move("cannot see what it read", blind, disk, fair=False, excuses=True)
    sure = performer.is_sure_of_failure(process, disk)
    failed = _told(made, Happening.COMPILE_FAILED if sure else Happening.COMPILE_BROKE_OFF)
    yield Move("fails to compile", failed, disk, fair=False, settles=settles if sure else None)
    broken = _told(made, Happening.COMPILE_BROKE_OFF)
    yield Move("breaks off its compile", broken, disk, fair=False, excuses=True)


def _has_compiled(process: Process, happening: Happening) -> Process:
    told = _told(process, happening, compiled=True)
    # A plan that ends here has published nothing.
    return told._replace(key=None) if told.plan.ended else told


def _record_failure(process: Process, disk: Disk) -> Iterator[Move]:
    assert process.key is not None
    assert process.read is not None
    record = Failure(process.key, process.read)
    # There is one record: that of another header is lost.
    lost = disk.failure is not None and disk.failure.states != record.states
    yield Move(Action.RECORD_FAILURE.value, process, disk._replace(failure=record), excuses=lost)
    yield Move("cannot record the failure", process, disk, fair=False, excuses=True)


def _publish(process: Process, action: Action, disk: Disk) -> Iterator[Move]:
    if not process.compiled:
        raise Violation("publishes what it did not compile")
    what = performer.publishes[process.put]
    put = _put_entry if what == "entry" else _put_list
    moves = [put(process, action, disk)]
    if what == "entry" and action is Action.PUBLISH and performer.links_twice():
        assert process.key is not None
        unseen = disk.with_entry(process.key, NONE)  # the name is not seen here yet
        moves.append(put(process, action, unseen))
    for move in moves:
        yield from _has_put(process, move, disk)


def _has_put(process: Process, move: Move, disk: Disk) -> Iterator[Move]:
    after = move.after._replace(put=move.after.put + 1)
    if after.put >= len(performer.publishes):
        after = _told(after, Happening.PUBLISHED, put=0)
    yield move._replace(after=after)
    if move.disk != disk or process.put == 0:
        failed = _told(process, Happening.PUBLISH_FAILED, put=0)
        yield Move("cannot publish", failed, disk, fair=False, excuses=True, spoils=True)


def _put_entry(process: Process, action: Action, disk: Disk) -> Move:
    assert process.key is not None
    there = disk.entries[process.key]
    replacing = action is Action.PUBLISH_REPLACING
    overwrites = replacing and there == GOOD
    if overwrites and not process.confirmed:
        raise Violation("overwrites a good entry blindly")
    if there != NONE and not replacing:
        if not performer.lists_what_is_there():
            process = process._replace(put=len(performer.publishes))
        # It looked for another entry, since the header said something else. The next look sees it.
        return Move("finds an entry there", process, disk)
    made = GOOD if process.read == process.key else WRONG
    put = disk.with_entry(process.key, made)
    return Move(f"{action.value}: entry {process.key}", process, put, overwrites=overwrites)


def _put_list(process: Process, action: Action, disk: Disk) -> Move:
    assert process.key is not None
    return Move(f"{action.value}: its list", process, disk.with_list(process.key, there=True))


def _cancel(process: Process, disk: Disk) -> Iterator[Move]:
    if not process.plan.ended:
        yield Move(
            "is cancelled", _told(process, Happening.CANCELLED), disk, fair=False, excuses=True
        )
