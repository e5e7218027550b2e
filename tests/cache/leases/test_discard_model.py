"""Every order of the steps of acquiring and removing a lock file, with a crash at each of them.

A model of `ajit._cache.leases.lock_file`: processes open the file that has the name (or make it),
take the lock of what they opened, look whether it has the name still, and hold. A collector does
the same, and unlinks before it closes. The file system knows names, files and locks.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest


class Process(NamedTuple):
    """One process: what it does next, the file that it has open, and how often it began again."""

    kind: str
    step: str = "open"
    file: int = 0


class World(NamedTuple):
    """The file that has the name (0: none), who has which file's lock, files so far, crashes."""

    processes: tuple[Process, ...]
    named: int
    locks: tuple[tuple[int, int], ...]
    files: int
    crashes: int


def explore(kinds: tuple[str, ...], *, crashes: int, looks: bool = True) -> tuple[int, set[str]]:
    """Return the number of states, and what went wrong in any of them."""
    first = World(tuple(map(Process, kinds)), 1, (), 1, crashes)
    seen, todo, wrong = {first}, [first], set()
    while todo:
        world = todo.pop()
        following = [new for who in range(len(kinds)) for new in steps(world, who, looks=looks)]
        if not following and any(p.step not in ("over", "dead") for p in world.processes):
            wrong.add("stuck")
        if sum(process.step in ("work", "unlink") for process in world.processes) > 1:
            wrong.add("two holders")
        if any(p.step == "unlink" and p.file != world.named for p in world.processes):
            wrong.add("a file of another is removed")
        fresh = set(following) - seen
        seen |= fresh
        todo += fresh
    return len(seen), wrong


def steps(world: World, who: int, *, looks: bool) -> list[World]:
    """What may come next of one process."""
    process = world.processes[who]
    if process.step in ("over", "dead"):
        return []
    held = dict(world.locks)
    dead = [moved(world, who, "dead", locks=without(held, who))._replace(crashes=world.crashes - 1)]
    return following(world, who, process, held, looks=looks) + (dead if world.crashes else [])


def following(
    world: World, who: int, process: Process, held: dict[int, int], *, looks: bool
) -> list[World]:
    """The steps of a process that lives."""
    match process.step:
        case "open":
            made = world if world.named else world._replace(named=world.files + 1)
            made = made._replace(files=max(made.files, made.named))
            return [moved(made, who, "lock", file=made.named)]
        case "lock":
            taken = process.file in held.values()
            won = "look" if looks else mine(process)
            got = moved(world, who, won, locks={**held, who: process.file})
            # A collector does not wait, and a waiter may lose its patience.
            return [moved(world, who, "over")] if taken else [got]
        case "look":
            lost = process.file != world.named
            return [moved(world, who, "close" if lost else mine(process))]
        case "unlink":
            return [moved(world._replace(named=0), who, "end")]
        case "close":
            return [moved(world, who, "open", locks=without(held, who))]
        case _:  # work, end
            return [moved(world, who, "over", locks=without(held, who))]


def mine(process: Process) -> str:
    """What a process does with the lock."""
    return "unlink" if process.kind == "collector" else "work"


def without(held: dict[int, int], who: int) -> dict[int, int]:
    """The locks after a process has closed its file, or died."""
    return {other: file for other, file in held.items() if other != who}


def moved(
    world: World, who: int, step: str, *, file: int = 0, locks: dict[int, int] | None = None
) -> World:
    """The world after a step."""
    processes = list(world.processes)
    old = processes[who]
    processes[who] = old._replace(step=step, file=file or old.file)
    known = world.locks if locks is None else tuple(sorted(locks.items()))
    return world._replace(processes=tuple(processes), locks=known)


WORKERS = ("worker", "worker", "worker")


@pytest.mark.parametrize("crashes", [0, 1, 2])
@pytest.mark.parametrize("kinds", [(*WORKERS, "collector"), (*WORKERS[:2], *["collector"] * 2)])
def test_there_is_one_holder_at_a_time_in_every_order(kinds, crashes):
    """With any crash; and a file that has the name is removed by its holder only."""
    states, wrong = explore(kinds, crashes=crashes)

    assert wrong == set()
    assert states > 500


def test_without_the_look_there_are_two_holders():
    """The model finds what the look is for."""
    _, wrong = explore((*WORKERS[:2], "collector"), crashes=0, looks=False)

    assert "two holders" in wrong
