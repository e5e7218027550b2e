"""What one rank knows of its group: its own state, and what it has seen of the others.

Both the event loop and the group's thread (`ajit._runtime.rank_group`) use it, so all is under one
lock, which is held for microseconds. No I/O in here.
"""

from __future__ import annotations

import secrets
import threading
import time
from typing import TYPE_CHECKING

from ajit._cache.leases.posts import RankPost
from ajit._core.readiness import (
    Action,
    Happening,
    Peer,
    Standing,
    State,
    is_ousted,
    look,
    standing,
    step,
    survey,
)
from ajit._runtime.ranks import RankStatus
from ajit._system.process import this_process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit._core.readiness import Limits
    from ajit._runtime.ranks import Ranks

__all__ = ["RankBoard"]

_NAMES = {one: one.name.lower() for one in Standing} | {Standing.COMPLETE: "ready"}
_OWN_NAMES = {State.COMPLETE: "ready", State.UNREADY: "ready", State.FETCHING: "shared"}
_BAD = ("failed", "silent", "missing", "ousted", "alone")


class RankBoard:
    """What one rank knows. Any thread may use it.

    Args:
        ranks: Which rank it is.
        limits: When others are lost.
    """

    def __init__(self, ranks: Ranks, limits: Limits) -> None:
        self.ranks = ranks
        self._limits = limits
        self._lock = threading.Lock()
        self._state = State.WORKING
        # By the time of the start: of two processes that are this rank, the later one is it.
        self._session = f"{time.time_ns():020d}-{secrets.token_hex(8)}"
        self._peers = [Peer()] * ranks.ranks
        self._seen: list[RankPost | None] = [None] * ranks.ranks
        self._ousted = False
        self._left: RankPost | None = None
        self._beat = 0
        self._done, self._total, self._detail = 0, 0, ""
        self._must_post = True
        self._problem = ""
        self._posted_at = self._looked_at = self._news_at = time.monotonic()

    @property
    def state(self) -> State:
        """Where this rank stands."""
        return self._state

    @property
    def is_ousted(self) -> bool:
        """Whether another process is this rank by now: then nothing is posted any more."""
        return self._ousted

    def progress(self, done: int, total: int) -> None:
        """Note how many kernels are ready."""
        with self._lock:
            self._done, self._total = done, total

    def happened(self, happening: Happening, detail: str = "") -> None:
        """Note what became of this rank's own work; nothing if it is over for this rank."""
        with self._lock:
            if self._state in (State.OUSTED, State.FAILED):
                return
            self._detail = detail or self._detail
            self._take(happening)
            if self.ranks.ranks == 1 and happening is not Happening.BROKE:
                self._take(survey(self._state, ()))

    def give_up_waiting(self) -> None:
        """Go on without the shares of others."""
        with self._lock:
            if self._state is State.SHARED:
                self._take(Happening.SHARES_IN)

    def take_in(self, found: Sequence[RankPost | None]) -> bool:
        """Take in what a look at all posts has shown; return whether anything has changed."""
        with self._lock:
            before = self._state, self._others()
            own = found[self.ranks.rank]
            self._left = self._left or own
            # What was there before this process, and does not go on, is of one that has ended: with
            # a clock that was ahead it would oust every later one.
            is_news = own is not None and own != self._left
            self._ousted = own is not None and is_news and is_ousted(self._session, own.post)
            now = time.monotonic()
            elapsed, self._looked_at = now - self._looked_at, now
            for rank, seen in enumerate(found):
                if rank != self.ranks.rank:
                    self._see(rank, seen, elapsed, now)
            happening = survey(self._state, self._others())
            self._take(Happening.OUSTED if self._ousted else happening)
            return (self._state, self._others()) != before

    def due(self, beat_seconds: float) -> RankPost | None:
        """Return the post that is to be written now, if any."""
        with self._lock:
            quiet = time.monotonic() - self._posted_at < beat_seconds
            if self._ousted or (quiet and not self._must_post):
                return None
            self._beat += 1
            self._must_post = False
            return self._own_post()

    def posted(self, problem: str) -> None:
        """Note that a post was written, or why not: then it is due again."""
        with self._lock:
            self._problem = problem
            if problem:
                self._must_post = True
            else:
                self._posted_at = time.monotonic()

    def broke_off(self, problem: str) -> None:
        """Note that nothing is posted any more."""
        with self._lock:
            self._problem, self._posted_at = problem, float("-inf")

    def quiet_seconds(self) -> float:
        """For how long nothing has happened."""
        with self._lock:
            return time.monotonic() - self._news_at

    def alone(self) -> str:
        """Why this rank has been unable to tell the others anything for long, or ""."""
        with self._lock:
            return self._alone()

    def lost(self) -> list[RankStatus]:
        """Return those that are waited for no more; also this rank, if it is none any more."""
        return [status for status in self.status() if status.standing in _BAD]

    def status(self) -> list[RankStatus]:
        """Return what each rank is, this one included."""
        with self._lock:
            return [
                self._own_status() if rank == self.ranks.rank else self._status(rank)
                for rank in range(self.ranks.ranks)
            ]

    # --- under the lock

    def _take(self, happening: Happening) -> None:
        before = self._state
        self._state, actions = step(self._state, happening)
        self._must_post |= Action.POST in actions
        if self._state is not before:
            self._news_at = time.monotonic()

    def _others(self) -> list[Standing]:
        peers = (peer for rank, peer in enumerate(self._peers) if rank != self.ranks.rank)
        return [standing(peer, self._limits) for peer in peers]

    def _see(self, rank: int, seen: RankPost | None, elapsed: float, now: float) -> None:
        was, echoed = self._peers[rank], self._echo(rank)
        post, dead = (None, False) if seen is None else (seen.post, seen.is_dead)
        me, session = self.ranks.rank, self._session
        self._peers[rank] = peer = look(was, post, me, session, elapsed, dead=dead)
        self._seen[rank] = seen or self._seen[rank]
        # Who is new waits for its echo.
        self._must_post |= self._echo(rank) != echoed
        if was.post is None or peer.post is None or peer.post[:2] != was.post[:2]:
            self._news_at = now

    def _echo(self, rank: int) -> str:
        post = self._peers[rank].post
        return "" if post is None else post.session

    def _own_post(self) -> RankPost:
        us = this_process()
        return RankPost(
            session=self._session,
            phase=self._state.phase,
            beat=self._beat,
            echoes=tuple(map(self._echo, range(self.ranks.ranks))),
            host=us.host,
            pid=us.pid,
            boot_id=us.boot_id,
            namespace=us.namespace,
            start_ticks=us.start_ticks,
            done=self._done,
            total=self._total,
            detail=self._detail,
        )

    def _status(self, rank: int) -> RankStatus:
        peer, post = self._peers[rank], self._seen[rank]
        found = standing(peer, self._limits)
        quiet = f"{peer.quiet_seconds:.0f} s"
        if post is None or not peer.believed:
            detail = f"not seen for {quiet}" if peer.quiet_seconds >= 1 else ""
            return RankStatus(rank=rank, standing=_NAMES[found], detail=detail)
        detail = post.detail
        if found is Standing.SILENT:
            gone = "its process is gone"
            detail = gone if peer.dead else f"no news for {quiet} while {post.phase.value}"
        return RankStatus(
            rank=rank,
            standing=_NAMES[found],
            host=post.host,
            pid=post.pid,
            done=post.done,
            total=post.total,
            detail=detail,
        )

    def _own_status(self) -> RankStatus:
        us, alone = this_process(), self._alone()
        name = _OWN_NAMES.get(self._state, self._state.value)
        detail = self._detail
        if self._state is State.OUSTED:
            detail = "another process, started later, is this rank"
        return RankStatus(
            rank=self.ranks.rank,
            standing="alone" if alone else name,
            host=us.host,
            pid=us.pid,
            done=self._done,
            total=self._total,
            detail=alone or detail,
        )

    def _alone(self) -> str:
        if self.ranks.ranks == 1 or self._state is State.READY:
            return ""
        silent = time.monotonic() - self._posted_at > self._limits.silence_seconds
        return self._problem if silent else ""
