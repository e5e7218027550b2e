"""All worlds that ranks which follow the table of readiness can get into, and what is promised.

Time goes by in ticks. In each one a rank that lives looks at all posts and writes its own, before
or after the others do; a post that was written in this tick may still be seen as it was before, so
that to look and to write need be no two steps. Each rank finishes its share, and its fetching,
whenever it likes. Ranks start late, a post of yesterday's start may lie in each one's place, and
crashes, stalls, failures and new processes in the place of dead ones happen at every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from ajit._core import readiness
from ajit._core.readiness import Happening, Limits, Peer, Phase, Post, State
from tests.core.searching import search, story_of, that_cannot_reach

if TYPE_CHECKING:
    from collections.abc import Iterator

STALE = "0"
BEATS = 3

_LAST = (Phase.COMPLETE, Phase.FAILED)

TOLD = (State.READY, State.UNREADY, State.FAILED, State.OUSTED)


class Violation(AssertionError):
    """A promise does not hold."""


class Rules(NamedTuple):
    """What a performer does. A test breaks one of them.

    Attributes:
        limits: In ticks.
        start_by: In which tick the last rank has started, if nothing goes wrong.
        echoes: Whether a post is believed only if it echoes the reader's session.
        beats: Whether a rank that waits writes again and again.
        posts_before_leaving: Whether a rank writes what it has seen before it leaves.
        takes_over: Whether it makes what a lost rank should have made.
        replaces: Whether a new process takes the place of one that is dead or stalled.
        stale: Phases of what may lie in the place of each rank at the start.
    """

    limits: Limits = Limits(silence_seconds=4, absence_seconds=5)
    start_by: int = 1
    echoes: bool = True
    beats: bool = True
    posts_before_leaving: bool = True
    takes_over: bool = True
    replaces: bool = True
    stale: tuple[Phase | None, ...] = (Phase.COMPLETE,)


class Rank(NamedTuple):
    """One rank.

    Attributes:
        life: ``unborn``, ``live``, ``left``, ``stalled`` or ``crashed``.
        state: By the table.
        session: Of its process.
        peers: What it knows of each rank; of itself, nothing.
        looked: Whether it has looked, and written, in this tick.
        beat: Its last one.
        must_post: Whether it has something new to write.
    """

    life: str = "unborn"
    state: State = State.WORKING
    session: str = ""
    peers: tuple[Peer, ...] = ()
    looked: bool = False
    beat: int = 0
    must_post: bool = True


class File(NamedTuple):
    """What lies in a rank's place.

    Attributes:
        post: As it is.
        before: As it was before this tick.
    """

    post: Post | None = None
    before: Post | None = None


class World(NamedTuple):
    """Where everything stands.

    Attributes:
        ranks: All of them.
        files: Of each rank.
        made: Of each rank, whether its share is in the cache.
        complete: Of each rank, whether it had everything in this start.
        faults: How often something may still happen.
        tick: Up to the last start.
    """

    ranks: tuple[Rank, ...]
    files: tuple[File, ...]
    made: tuple[bool, ...]
    complete: tuple[bool, ...]
    faults: int
    tick: int = 0


Step = tuple[str, World, bool]


@dataclass
class Exploration:
    """Every world that can be reached, breadth first."""

    count: int = 2
    faults: int = 0
    rules: Rules = field(default_factory=Rules)
    origins: dict[World, tuple[World, str] | None] = field(default_factory=dict)
    before: dict[World, list[World]] = field(default_factory=dict)

    def run(self) -> None:
        """Visit every world and check every promise.

        - a rank is ready only if each rank had everything, in this start;
        - without faults none is named, all become ready, and none makes what is another's share;
        - from every world, what is fair leads to one in which each rank that lives knows: so none
          waits for ever.

        Raises:
            Violation: A promise is broken; the message has a shortest way there.
        """
        search(self._first_worlds(), self._steps, self._check, self.origins, self.before)
        self._check_none_waits_for_ever()

    def story(self, world: World) -> str:
        """How a world came about, a line for each step."""
        return story_of(self.origins, world)

    def _first_worlds(self) -> Iterator[World]:
        no = (False,) * self.count
        for phases in product(self.rules.stale, repeat=self.count):
            files = tuple(File(*[self._stale(phase)] * 2) for phase in phases)
            ranks = (Rank(),) * self.count
            yield World(ranks, files, no, no, self.faults)

    def _stale(self, phase: Phase | None) -> Post | None:
        return None if phase is None else Post(STALE, phase, 0, (STALE,) * self.count)

    # --- promises ---

    def _check(self, world: World) -> None:
        for number, rank in enumerate(world.ranks):
            if rank.state is State.READY and not all(world.complete):
                raise Violation(f"{number} is ready too early:\n{self.story(world)}")
            named = rank.state in (State.UNREADY, State.FAILED, State.OUSTED)
            if named and world.faults == self.faults:
                raise Violation(f"{number} names one that is well:\n{self.story(world)}")

    def _check_none_waits_for_ever(self) -> None:
        stuck = that_cannot_reach(self._ended, self.origins, self.before)
        if stuck is not None:
            raise Violation(f"a rank waits for ever:\n{self.story(stuck)}")

    def _ended(self, world: World) -> bool:
        if world.faults == self.faults:
            return all(rank.life == "left" for rank in world.ranks)
        return all(rank.state in TOLD for rank in world.ranks if rank.life in ("live", "left"))

    # --- steps ---

    def _steps(self, world: World) -> Iterator[Step]:
        for number, rank in enumerate(world.ranks):
            for label, after in self._moves(world, number, rank):
                yield f"{number} {label}", after, True
            for label, after in self._fates(world, number, rank):
                yield f"{number} {label}", after, False
        later = self._later(world)
        if later is not None:
            yield "-- a tick", later, True

    def _moves(self, world: World, number: int, rank: Rank) -> Iterator[tuple[str, World]]:
        if rank.life == "unborn":
            yield "starts", self._with(world, number, self._born(world, "1"))
        if rank.life != "live":
            return
        if not rank.looked:
            yield from self._looks(world, number, rank)
        yield from self._works(world, number, rank)
        if rank.state is State.READY:
            yield "leaves", self._with(world, number, self._gone(rank, "left"))

    def _born(self, world: World, generation: str) -> Rank:
        return Rank("live", session=generation, peers=(Peer(),) * self.count)

    def _gone(self, rank: Rank, life: str) -> Rank:
        return Rank(life, rank.state, rank.session)

    def _looks(self, world: World, number: int, rank: Rank) -> Iterator[tuple[str, World]]:
        choices = [
            {file.post, file.before} if other != number else {file.post}
            for other, file in enumerate(world.files)
        ]
        for seen in product(*choices):
            after = self._looked(number, rank, seen)
            leaves = after.state is State.READY and not self.rules.posts_before_leaving
            if after.must_post and not leaves:
                yield "looks and writes", self._writes(world, number, after)
            else:
                yield "looks", self._with(world, number, after)

    def _looked(self, number: int, rank: Rank, seen: tuple[Post | None, ...]) -> Rank:
        if readiness.is_ousted(rank.session, seen[number]):
            state, _ = readiness.step(rank.state, Happening.OUSTED)
            return self._gone(rank._replace(state=state), "live")._replace(
                looked=True, must_post=False
            )
        peers = tuple(
            self._peer(number, rank, peer, post) if other != number else peer
            for other, (peer, post) in enumerate(zip(rank.peers, seen, strict=True))
        )
        standings = [
            readiness.standing(peer, self.rules.limits)
            for other, peer in enumerate(peers)
            if other != number
        ]
        state, _ = readiness.step(rank.state, readiness.survey(rank.state, standings))
        changed = state is not rank.state or self._echoes(peers) != self._echoes(rank.peers)
        must = rank.must_post or changed or self.rules.beats
        return rank._replace(peers=peers, state=state, looked=True, must_post=must)

    def _peer(self, number: int, rank: Rank, peer: Peer, post: Post | None) -> Peer:
        if not self.rules.echoes and post is not None:
            post = post._replace(echoes=(rank.session,) * self.count)
        after = readiness.look(peer, post, number, rank.session, 1, dead=False)
        # More silence than enough makes no difference, only more worlds.
        most = self.rules.limits[0 if after.believed else 1]
        if rank.state is State.READY or (after.believed and after.post.phase in _LAST):
            most = 0
        return after._replace(quiet_seconds=min(after.quiet_seconds, most))

    def _echoes(self, peers: tuple[Peer, ...]) -> tuple[str, ...]:
        return tuple("" if peer.post is None else peer.post.session for peer in peers)

    def _writes(self, world: World, number: int, rank: Rank) -> World:
        beat = (rank.beat + 1) % BEATS
        post = Post(rank.session, rank.state.phase, beat, self._echoes(rank.peers))
        file = world.files[number]._replace(post=post)
        files = (*world.files[:number], file, *world.files[number + 1 :])
        rank = rank._replace(must_post=False, beat=beat)
        return self._with(world, number, rank)._replace(files=files)

    def _works(self, world: World, number: int, rank: Rank) -> Iterator[tuple[str, World]]:
        if rank.state is State.WORKING:
            state, _ = readiness.step(rank.state, Happening.SHARE_DONE)
            after = self._with(world, number, rank._replace(state=state, must_post=True))
            yield "has done its share", after._replace(made=_set(world.made, number))
        if rank.state is State.FETCHING:
            if not all(world.made):
                if world.faults == self.faults:
                    raise Violation(f"{number} makes what is another's:\n{self.story(world)}")
                if not self.rules.takes_over:
                    return
            state, _ = readiness.step(rank.state, Happening.HAS_ALL)
            after = self._with(world, number, rank._replace(state=state, must_post=True))
            complete = _set(world.complete, number)
            yield "has everything", after._replace(made=(True,) * self.count, complete=complete)

    def _fates(self, world: World, number: int, rank: Rank) -> Iterator[tuple[str, World]]:
        spent = world._replace(faults=world.faults - 1)
        if world.faults and rank.life == "live":
            yield "crashes", self._with(spent, number, self._gone(rank, "crashed"))
            if rank.state not in TOLD:
                yield "stalls", self._with(spent, number, rank._replace(life="stalled"))
        if rank.life == "stalled":
            yield "goes on", self._with(world, number, rank._replace(life="live"))
        gone = rank.life in ("crashed", "stalled") and rank.session == "1"
        if gone and self.rules.replaces:
            yield "is replaced", self._with(world, number, self._born(world, "2"))
        if (
            world.faults
            and rank.life == "live"
            and (rank.state, Happening.BROKE) in (readiness._TABLE)
        ):
            state, _ = readiness.step(rank.state, Happening.BROKE)
            broken = rank._replace(state=state, must_post=True)
            yield "fails", self._with(spent, number, broken)

    def _later(self, world: World) -> World | None:
        """A tick later; None if something takes no time and is not done, or nothing waits."""
        late = world.tick >= self.rules.start_by
        for rank in world.ranks:
            if rank.life == "live" and not rank.looked:
                return None
            if rank.life == "unborn" and late:
                return None
        ranks = tuple(
            rank._replace(looked=False) if rank.life == "live" else rank for rank in world.ranks
        )
        files = tuple(File(file.post, file.post) for file in world.files)
        tick = min(world.tick + 1, self.rules.start_by)
        return world._replace(ranks=ranks, files=files, tick=tick)

    def _with(self, world: World, number: int, rank: Rank) -> World:
        return world._replace(ranks=(*world.ranks[:number], rank, *world.ranks[number + 1 :]))


def _set(flags: tuple[bool, ...], number: int) -> tuple[bool, ...]:
    return (*flags[:number], True, *flags[number + 1 :])
