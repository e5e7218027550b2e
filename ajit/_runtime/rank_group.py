"""The ranks of one server: performs the protocol of `ajit._core.readiness` for this process.

A thread looks at the posts of the other ranks, writes this one's, and tells the event loop what has
changed. It is a thread and not a task, so that a loop that is busy, as with loading weights, is not
taken for a dead rank. All calls on the cache have a deadline (`ajit._system.guarded_calls`): while
the cache does not answer there is no news, which ends like any silence.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio

from ajit._cache.leases.claims import limits_for, pause_seconds
from ajit._cache.leases.posts import RankPosts, group_name
from ajit._core.readiness import Happening, Limits, State
from ajit._core.seal import CannotSeal
from ajit._runtime.rank_board import RankBoard
from ajit._system.guarded_calls import NoAnswer
from ajit._system.loop import LoopHandle
from ajit._system.threads import DaemonThreads
from ajit._system.warn import warn_only
from ajit.errors import CacheError, RanksNotReady

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._cache.leases.posts import RankPost
    from ajit._resolve.services import Services
    from ajit._runtime.ranks import Ranks, RankStatus

__all__ = ["RankGroup"]

T = TypeVar("T")

BEAT_SECONDS = 1.0

READY_SECONDS = 1.0
"""How often a rank looks once all are ready: for those that are started anew."""

_threads = DaemonThreads("ajit-ranks")


class RankGroup:
    """This process as one rank of its group. Belongs to the event loop, but for its thread.

    Args:
        services: The runtime's.
        ranks: Which rank it is.
        scope: What tells the group from others of the same name.
    """

    def __init__(self, services: Services, ranks: Ranks, scope: str) -> None:
        self.ranks = ranks
        self._services = services
        silence = limits_for(services.settings.patience_seconds).silence_seconds
        self._board = RankBoard(ranks, Limits(silence, max(silence, ranks.start_seconds)))
        group = group_name(scope, ranks.group, ranks.ranks)
        self._posts = RankPosts(services.store.directory, group, services.trust)
        self._loop = LoopHandle.current()
        self._changed = anyio.Event()
        # What a wait was told last. One that is tried again at once would only spin on it.
        self._told: frozenset[tuple[int, str, str, int]] = frozenset()
        self._wake, self._stop, self._ended = (threading.Event() for _ in range(3))

    # --- the event loop's side

    def start(self) -> None:
        """Start the thread; of one rank alone, none is needed.

        Raises:
            RuntimeError: No thread can be started.
        """
        if self.ranks.ranks > 1:
            _threads.run(self._serve)
        else:
            self._ended.set()

    @property
    def state(self) -> State:
        """Where this rank stands."""
        return self._board.state

    def progress(self, done: int, total: int) -> None:
        """Note how many kernels are ready, for the others to see."""
        self._board.progress(done, total)

    def happened(self, happening: Happening, detail: str = "") -> None:
        """Note what became of this rank's own work."""
        self._board.happened(happening, detail)
        self._wake.set()
        self._tell()

    def broke(self, error: BaseException) -> None:
        """Note that this rank's work was broken off: by an error, or a cancellation."""
        self.happened(Happening.BROKE, f"its warm-up was broken off: {type(error).__name__}")

    async def wait_shares(self) -> None:
        """Wait until all shares are in or lost. Returns at once if none can be waited for."""
        with anyio.move_on_after(self._longest_seconds()):
            while self.state is State.SHARED and not self._board.alone():
                await self._next()
        self._board.give_up_waiting()

    async def wait_ready(self) -> None:
        """Wait until all ranks have everything.

        Raises:
            RanksNotReady: A rank is lost or has failed, or another process is this rank; or the
                runtime is being closed. The work of this one goes on, and so may a later wait. That
                one is told of the same ranks once there is news of them, or after the patience.
        """
        told = self._told
        again_at = time.monotonic() + self._services.settings.patience_seconds
        with anyio.move_on_after(self._longest_seconds()):
            while self.state is not State.READY and not self._stop.is_set():
                lost = self._board.lost()
                about = frozenset((one.rank, one.standing, one.host, one.pid) for one in lost)
                if lost and (about != told or time.monotonic() >= again_at):
                    self._told = about
                    raise self._not_ready(lost)
                told = about  # who was back is told anew
                await self._next()
            if self.state is State.READY:
                return
        raise self._not_ready([one for one in self.status() if one.standing != "ready"])

    def status(self) -> list[RankStatus]:
        """Return what each rank is, this one included."""
        return self._board.status()

    def begin_closing(self) -> None:
        """Let the thread write what is to be known, and end."""
        if self.state in (State.WORKING, State.SHARED, State.FETCHING):
            self._board.happened(Happening.BROKE, "its runtime was closed")
        self._stop.set()
        self._wake.set()
        self._tell()

    def join(self) -> None:
        """Wait until the thread has ended. Blocks."""
        self._ended.wait()

    def _not_ready(self, missing: list[RankStatus]) -> RanksNotReady:
        return RanksNotReady(
            rank=self.ranks.rank,
            ranks=self.ranks.ranks,
            missing=[(one.rank, str(one)) for one in missing],
        )

    def _longest_seconds(self) -> float | None:
        """How long it waits for ranks that beat and never end."""
        return self._services.settings.patience_total_seconds or None

    async def _next(self) -> None:
        """Wait for a change, or a while: time alone may have lost a rank."""
        with anyio.move_on_after(BEAT_SECONDS):
            await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def __repr__(self) -> str:
        return f"<RankGroup {self.ranks.rank} of {self.ranks.ranks} {self.state.value}>"

    # --- the thread's side

    def _serve(self) -> None:
        try:
            self._on_cache(self._posts.sweep)
            while not self._stop.is_set() and not self._board.is_ousted:
                self._turn()
                self._wake.wait(self._pause())
                self._wake.clear()
            self._post(float("inf"))
        except Exception as exc:  # noqa: BLE001  # a defect: the waiters are told, and do not hang
            warn_only(f"rank {self.ranks.rank} of {self.ranks.ranks} is on its own: {exc!r}")
            self._board.broke_off(repr(exc))
        finally:
            self._ended.set()

    def _pause(self) -> float:
        if self.state is State.READY:
            return READY_SECONDS
        return pause_seconds(self._board.quiet_seconds())

    def _turn(self) -> None:
        """Look, take in what was seen, write, and tell."""
        found, _ = self._on_cache(self._read_all)
        changed = self._board.take_in(found or [None] * self.ranks.ranks)
        self._post(BEAT_SECONDS)
        if changed:  # after the post: who is told that all are ready may leave at once
            self._loop.call_soon(self._tell)

    def _read_all(self) -> list[RankPost | None]:
        return [self._posts.read(rank) for rank in range(self.ranks.ranks)]

    def _post(self, beat_seconds: float) -> None:
        post = self._board.due(beat_seconds)
        if post is not None:
            write = partial(self._posts.write, self.ranks.rank, post)
            self._board.posted(self._on_cache(write)[1])

    def _on_cache(self, call: Callable[[], T]) -> tuple[T | None, str]:
        """Make a call on the cache; return what it returned, and why it could not be made."""
        directory = self._services.store.directory
        if directory.access != "writable":
            return None, f"the cache {directory.path} cannot be written: {directory.problem}"
        try:
            seconds = self._services.settings.patience_seconds
            return self._services.guard.call_blocking(call, seconds=seconds, lane="watch"), ""
        except (OSError, CacheError, CannotSeal, NoAnswer) as exc:
            return None, str(exc) or type(exc).__name__
