"""What one process can do that follows the table of claims, each atomic step of it.

It plays the performer (`ajit._cache.leases.claims`) and the holder's compile. All on its mount is
seen at once, all else when the mount shows it; ``mkdir`` is decided where the truth is.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ajit._core import claim
from ajit._core.claim import Action, Happening, Mark, Seen, State
from tests.core.claim_things import BEATS, Move, Process, Rules, Server

if TYPE_CHECKING:
    from collections.abc import Iterator


@cache
def moves_of(process: Process, server: Server, rules: Rules) -> tuple[Move, ...]:
    """Every step that a process can take now, but for what its adversary does to it."""
    if not process.moves:
        return ()
    if process.todo:
        return tuple(_does(process, server, rules))
    if process.state is State.HOLDING:
        return tuple(_holds(process, server, rules))
    return tuple(_waits(process, server, rules))


def _told(process: Process, happening: Happening, **changes: object) -> Process:
    state, todo = claim.step(process.state, happening)
    return process._replace(state=state, todo=todo, **changes)


def _served(process: Process) -> Process:
    """Gone, and what it knew counts no more."""
    return Process(process.mount, life="served")


def _waits(process: Process, server: Server, rules: Rules) -> Iterator[Move]:
    view = server.views[process.mount]
    if view.entry:
        yield Move("sees the entry", _served(_told(process, Happening.LEAVES)), server)
    if process.busy:
        return
    watch, happening = claim.look(process.watch, view.newest(), 1, rules.limits)
    # More silence than enough makes no difference, only more worlds.
    quiet = min(watch.quiet_seconds, max(rules.limits))
    watch = watch._replace(quiet_seconds=quiet)
    if happening is Happening.FRESH and not rules.seeks:
        happening = Happening.FREE
    told = _told(process, happening, watch=watch, busy=True)
    told = told._replace(todo=tuple(doing for doing in told.todo if doing is not Action.REST))
    yield Move(f"looks: {happening.value}", told, server)


def _does(process: Process, server: Server, rules: Rules) -> Iterator[Move]:
    action, process = process.todo[0], process._replace(todo=process.todo[1:])
    if action is Action.SEEK:
        found = server.views[process.mount].entry
        after = _served(_told(process, Happening.LEAVES)) if found else process
        yield Move("seeks", after, server)
    elif action is Action.MAKE:
        yield from _makes(process, server, rules)
    elif action is Action.WRITE:
        beat = (process.beat + 1) % BEATS
        record = Seen(process.number, Mark.HELD, beat)
        written = _wrote(server, process.number, record, process.mount)
        yield Move("writes", process._replace(beat=beat, busy=True), written)
    elif action is Action.MARK:
        yield Move("leaves", _served(process), _marked(process, server, rules))


def _makes(process: Process, server: Server, rules: Rules) -> Iterator[Move]:
    newest = process.watch.seen
    silent = newest.mark in (Mark.HELD, Mark.UNWRITTEN, Mark.DEAD) and newest.number
    if rules.makes_anew and silent:
        # Two steps: away with it, whatever it is by now; then a new one of this name.
        anew = process._replace(
            watch=process.watch._replace(seen=Seen(newest.number, Mark.LEFT)),
            todo=(Action.MAKE, *process.todo),
        )
        there = server.claims[newest.number - 1]
        gone = _wrote(server, newest.number, None, process.mount) if there else server
        yield Move("renames away", anew, gone)
        return
    again = rules.removes or rules.makes_anew
    number = max(newest.number, 1) if again else newest.number + 1
    exists = number <= len(server.claims) and server.claims[number - 1] is not None
    if exists and rules.exclusive:
        watch = process.watch.knows_of(number)
        told = _told(process, Happening.EXISTS, watch=watch)
        yield Move("finds it made", told._replace(todo=()), server)
        return
    made = _told(process, Happening.MADE, number=number, phase="looks")
    yield Move(f"makes {number}", made, server if exists else server.made(number, process.mount))


def _wrote(server: Server, number: int, seen: Seen | None, mount: int) -> Server:
    """A record is written only where its claim is: nothing is made by writing."""
    if server.claims[number - 1] is None:
        return server
    return server.wrote(number, seen, mount)


def _marked(process: Process, server: Server, rules: Rules) -> Server:
    if not rules.marks:
        return server
    number = len(server.claims) if rules.marks_newest else process.number
    if rules.removes:
        return _wrote(server, number, None, process.mount)
    mark = Mark.PUBLISHED if process.published else Mark.LEFT
    return _wrote(server, number, Seen(number, mark), process.mount)


def _holds(process: Process, server: Server, rules: Rules) -> Iterator[Move]:
    if process.phase == "looks":
        found = server.views[process.mount].entry
        after = process._replace(phase="leaves" if found else "compiles")
        yield Move("finds the entry" if found else "finds nothing, compiles", after, server)
    elif process.phase == "compiles":
        if not process.busy:
            beats = rules.beats
            after = _told(process, Happening.BEAT) if beats else process._replace(busy=True)
            yield Move("beats", after, server)
        yield Move("has compiled", process._replace(phase="publishes"), server, compiled=True)
    elif process.phase == "publishes":
        after = process._replace(phase="leaves", published=True)
        yield Move("publishes", after, server.has_entry(process.mount))
    else:
        yield Move("is done", _told(process, Happening.DONE), server)
