"""All worlds that two engines and one store can get into, and what is promised.

Each engine looks its prompt up, reserves what is missing, writes it in two steps, commits, and
releases. Between any two steps of theirs the store may evict, let a reservation expire or discard a
chunk; an engine may crash, of which the store hears later, and its copies go on until it is gone;
or its connection breaks, and it lives and copies on. The books are the real ones
(`ajit.kv.ledger`), the memory is a list of the words that were written last.
"""

from __future__ import annotations

import pickle
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ajit.kv.arena import Arena
from ajit.kv.chunk import Found, Limits, Reserved
from ajit.kv.ledger import Ledger
from ajit.kv.shelves import Shelves
from ajit.kv.slots import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK_BYTES = 1
TORN = "half-written"
FORKED = (("a", "ab"), ("a", "ac"))
SAME = (("a", "ab"), ("a", "ab"))
"""Prompts of both engines. A chunk is called by all tokens up to its end."""


class Violation(AssertionError):
    """A promise does not hold."""


@dataclass(frozen=True)
class Rules:
    """What is tried.

    Attributes:
        slots: Chunks that there is memory for.
        rounds: How often each engine serves its prompt.
        faults: Crashes, broken connections, expiries and discarded chunks, all together.
        prompts: Of each engine.
    """

    slots: int = 2
    rounds: int = 1
    faults: int = 0
    prompts: tuple[tuple[str, ...], ...] = FORKED


@dataclass
class Engine:
    """One engine, and what it believes to hold.

    Attributes:
        prompt: Its chunks.
        rounds: How often it still serves it.
        owner: Its number in the books.
        life: ``live``, ``cut`` (its connection is broken), ``crashed``, ``unheard`` (the store has
            seen the end of the connection, and not yet that of the process), ``dead`` or ``left``.
        looked: Whether it has looked its prompt up in this round.
        lease: Its number; 0 for none.
        reads: The slots it reads, and what is in them.
        released: A lease that it has released before.
        reservation: Its number; 0 for none.
        writes: The slots it writes, and what is to be in them.
        written: How many of those are done.
    """

    prompt: tuple[str, ...]
    rounds: int
    owner: int = 0
    life: str = "live"
    looked: bool = False
    lease: int = 0
    reads: tuple[tuple[int, str], ...] = ()
    released: int = 0
    reservation: int = 0
    writes: tuple[tuple[int, str], ...] = ()
    written: int = 0


@dataclass
class World:
    """Where everything stands."""

    ledger: Ledger
    engines: list[Engine]
    memory: list[str]
    faults: int

    def key(self) -> object:
        """Equal for worlds that go on alike: without the numbers that are never used again."""
        owners = {engine.owner: number for number, engine in enumerate(self.engines)}
        chunks = sorted(
            (
                chunk.digest,
                chunk.state.value,
                chunk.slot,
                chunk.leases,
                owners.get(chunk.writer, -1),
                min(chunk.hits, 3),
                chunk.in_main,
                sorted(child.digest for child in chunk.children),
            )
            for chunk in self.ledger._chunks.values()
        )
        shelves = [
            ([e.digest for e in fifo._small], [e.digest for e in fifo._main], list(fifo._ghosts))
            for fifo in self.ledger.shelves._shelves.values()
        ]
        free = [slab.free for slab in self.ledger.arena._slabs]
        engines = [
            (
                (e.rounds, e.life, e.looked, bool(e.lease), e.reads, bool(e.released)),
                (bool(e.reservation), self._is_open(e), e.writes, e.written),
            )
            for e in self.engines
        ]
        return repr((chunks, shelves, free, engines, self.memory, self.faults))

    def _is_open(self, engine: Engine) -> bool:
        writing = self.ledger._writings.get(engine.reservation)
        return writing is not None and writing.open


@dataclass
class Exploration:
    """Every world that can be reached, breadth first."""

    rules: Rules = field(default_factory=Rules)
    origins: dict[object, tuple[object, str] | None] = field(default_factory=dict)
    ends: int = 0

    def run(self) -> None:
        """Visit every world and check every promise.

        Raises:
            Violation: A promise is broken; the message has a shortest way there.
        """
        first = self._first()
        self.origins[first.key()] = None
        queue = deque([first])
        while queue:
            world = queue.popleft()
            key = world.key()
            moves = list(self._steps(world))
            if not moves:
                self._check_end(world, key)
            for label, after in moves:
                found = after.key()
                if found not in self.origins:
                    self.origins[found] = (key, label)
                    self._check(after, found)
                    queue.append(after)

    def _first(self) -> World:
        arena = Arena(CHUNK_BYTES * self.rules.slots, 1)
        arena.add_slab()
        limits = Limits(reserved_bytes=100, leases=100)
        engines = [Engine(prompt, self.rules.rounds) for prompt in self.rules.prompts]
        ledger = Ledger(arena, Shelves(), limits)
        for engine in engines:
            engine.owner = ledger.join()
        ledger.kept = ledger.open(b"n", CHUNK_BYTES, b"")
        ledger._spaces = {}  # it is asked no more, and its weak references cannot be copied
        return World(ledger, engines, [""] * self.rules.slots, self.rules.faults)

    def story(self, key: object) -> str:
        """How a world came about, a line for each step."""
        lines = []
        while origin := self.origins[key]:
            key, label = origin
            lines.append(f"  {label}")
        return "\n".join(reversed(lines))

    # --- promises ---

    def _check(self, world: World, key: object) -> None:
        problem = self._problem(world)
        if problem:
            raise Violation(f"{problem}:\n{self.story(key)}")

    def _problem(self, world: World) -> str:
        engines = [
            (number, engine)
            for number, engine in enumerate(world.engines)
            if engine.life not in ("dead", "left")
        ]
        for number, engine in engines:
            for slot, word in engine.reads:
                if world.memory[slot] != word:
                    return f"{number} reads {world.memory[slot]!r} for {word!r}"
        written = [slot for _, engine in engines for slot, _ in engine.writes]
        for slot in written:
            if written.count(slot) > 1:
                return f"slot {slot} has two writers"
        return self._problem_of_index(world, written)

    def _problem_of_index(self, world: World, written: list[int]) -> str:
        for chunk in world.ledger._chunks.values():
            if chunk.state is State.READY:
                name = chunk.digest.decode()
                parent = world.ledger._chunks.get(name[:-1].encode())
                if chunk.slot in written:
                    return f"slot {chunk.slot} of {name!r} is written again"
                if len(name) > 1 and (parent is None or parent.state is not State.READY):
                    return f"{name!r} is without its parent"
        return ""

    def _check_end(self, world: World, key: object) -> None:
        """Nothing can happen any more, evictions included: all has been given back."""
        self.ends += 1
        ledger = world.ledger
        held = (
            ledger.arena.used_bytes, ledger.leases, ledger.reservations, ledger.chunks,
            ledger.owners, len(ledger.shelves.tenants()),
        )  # fmt: skip
        if any(held):
            raise Violation(f"something leaks, {held}:\n{self.story(key)}")

    # --- steps ---

    def _steps(self, world: World) -> Iterator[tuple[str, World]]:
        frozen = pickle.dumps(world, -1)

        def copied() -> World:
            return pickle.loads(frozen)  # noqa: S301 - ten times as fast as deepcopy

        for number, engine in enumerate(world.engines):
            for label in self._moves(engine):
                after = copied()
                self._do(after, after.engines[number], label)
                yield f"{number} {label}", after
            if world.faults:
                for label in self._fates(engine):
                    after = copied()
                    after.faults -= 1
                    self._do(after, after.engines[number], label)
                    yield f"{number} {label}", after
        yield from self._store(world, copied)

    def _store(self, world: World, copied: Callable[[], World]) -> Iterator[tuple[str, World]]:
        after = copied()
        if after.ledger._evict(after.ledger.shelves.victim(CHUNK_BYTES)):
            yield "the store evicts", after
        for chunk in list(world.ledger._chunks.values()) if world.faults else ():
            if chunk.state is State.READY:
                after = copied()
                after.faults -= 1
                after.ledger.discard(after.ledger.kept, chunk.digest)
                yield f"{chunk.digest.decode()} is discarded", after

    def _moves(self, engine: Engine) -> Iterator[str]:
        if engine.life == "live":
            yield from self._serves(engine)
        copying = engine.life in ("live", "cut", "crashed", "unheard") and engine.writes
        if copying and engine.written < len(engine.writes):
            yield "begins to write"
            yield "writes"
        if engine.life == "cut":
            yield "has ended its copies, and comes back"
        elif engine.life == "crashed":
            yield "is seen to be lost"
        elif engine.life == "unheard":
            yield "is seen to be gone"

    def _serves(self, engine: Engine) -> Iterator[str]:
        if engine.rounds and not engine.looked:
            yield "looks up"
        if engine.looked and not engine.reservation:
            if len(engine.reads) < len(engine.prompt):
                yield "reserves"
            if not engine.lease:
                yield "is done"
        if engine.reservation:
            yield "commits what it has written"
            yield "gives up"
        if engine.lease:
            yield "releases"
        if engine.released:
            yield "releases again"
        if not engine.rounds:
            yield "leaves"

    def _fates(self, engine: Engine) -> Iterator[str]:
        if engine.life == "live":
            yield "crashes"
            yield "loses its connection"
            if engine.reservation:
                yield "takes too long"

    def _do(self, world: World, engine: Engine, label: str) -> None:
        name = f"_{label.replace(',', '').replace(' ', '_')}"
        getattr(self, name)(world, engine)

    # --- what an engine does ---

    def _looks_up(self, world: World, engine: Engine) -> None:
        digests = [chunk.encode() for chunk in engine.prompt]
        found = world.ledger.find(engine.owner, world.ledger.kept, digests)
        assert isinstance(found, Found)
        engine.looked, engine.lease = True, found.lease
        engine.reads = tuple((chunk.slot, chunk.digest.decode()) for chunk in found.chunks)

    def _reserves(self, world: World, engine: Engine) -> None:
        have = len(engine.reads)
        parent = engine.prompt[have - 1].encode() if have else b""
        missing = [chunk.encode() for chunk in engine.prompt[have:]]
        got = world.ledger.reserve(engine.owner, world.ledger.kept, parent, missing)
        if isinstance(got, Reserved):
            engine.reservation, engine.written = got.reservation, 0
            engine.writes = tuple((chunk.slot, chunk.digest.decode()) for chunk in got.chunks)

    def _begins_to_write(self, world: World, engine: Engine) -> None:
        world.memory[engine.writes[engine.written][0]] = TORN

    def _writes(self, world: World, engine: Engine) -> None:
        slot, word = engine.writes[engine.written]
        world.memory[slot] = word
        engine.written += 1

    def _commits_what_it_has_written(self, world: World, engine: Engine) -> None:
        if not engine.written:
            self._gives_up(world, engine)
            return
        world.ledger.commit(engine.owner, engine.reservation, [0] * engine.written)
        engine.writes, engine.written = engine.writes[engine.written :], 0
        if not world._is_open(engine):
            engine.writes, engine.reservation = (), 0

    def _gives_up(self, world: World, engine: Engine) -> None:
        world.ledger.abort(engine.owner, engine.reservation)
        engine.writes, engine.reservation, engine.written = (), 0, 0

    def _releases(self, world: World, engine: Engine) -> None:
        world.ledger.release(engine.owner, engine.lease)
        engine.released, engine.lease, engine.reads = engine.lease, 0, ()

    def _releases_again(self, world: World, engine: Engine) -> None:
        world.ledger.release(engine.owner, engine.released)
        engine.released = 0

    def _is_done(self, world: World, engine: Engine) -> None:
        engine.rounds -= 1
        engine.looked, engine.reads = False, ()

    def _leaves(self, world: World, engine: Engine) -> None:
        world.ledger.gone(engine.owner)
        self._holds_nothing(engine, "left")

    # --- what becomes of it ---

    def _crashes(self, world: World, engine: Engine) -> None:
        engine.life = "crashed"

    def _is_seen_to_be_lost(self, world: World, engine: Engine) -> None:
        world.ledger.lost(engine.owner)
        engine.life = "unheard"

    def _is_seen_to_be_gone(self, world: World, engine: Engine) -> None:
        world.ledger.gone(engine.owner)
        self._holds_nothing(engine, "dead")

    def _loses_its_connection(self, world: World, engine: Engine) -> None:
        world.ledger.lost(engine.owner)
        engine.life = "cut"

    def _has_ended_its_copies_and_comes_back(self, world: World, engine: Engine) -> None:
        world.ledger.gone(engine.owner)
        self._holds_nothing(engine, "live")
        engine.owner = world.ledger.join()

    def _takes_too_long(self, world: World, engine: Engine) -> None:
        world.ledger.expire(engine.reservation)

    def _holds_nothing(self, engine: Engine, life: str) -> None:
        rounds = engine.rounds if life == "live" else 0
        fresh = Engine(engine.prompt, rounds, engine.owner, life)
        engine.__dict__.update(fresh.__dict__)
