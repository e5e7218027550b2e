"""Which rank of how many a process is, and what the others are to it."""

from __future__ import annotations

from dataclasses import dataclass

from ajit._cache.leases.posts import MOST_RANKS
from ajit._core.short_repr import short_repr
from ajit.errors import UsageError

__all__ = ["START_SECONDS", "RankStatus", "Ranks"]

START_SECONDS = 60.0
"""How long a rank may take to be seen for the first time. Pretty arbitrary: they start together,
and load what they import, one more slowly than the other."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which rank of how many, in which group.

    Attributes:
        ranks: How many there are.
        rank: Which one this process is, from 0 on.
        group: What tells this server from others that use the same cache, such as a job's id.
        start_seconds: How long a rank may take to be seen for the first time.
    """

    ranks: int = 1
    rank: int = 0
    group: str = ""
    start_seconds: float = START_SECONDS

    def __post_init__(self) -> None:
        for name in ("ranks", "rank"):
            if type(getattr(self, name)) is not int:
                raise UsageError(f"{name} is {getattr(self, name)!r}, must be a number")
        if not 1 <= self.ranks <= MOST_RANKS:
            raise UsageError(f"ranks is {self.ranks}, must be 1 to {MOST_RANKS}")
        if not 0 <= self.rank < self.ranks:
            raise UsageError(f"rank is {self.rank}, must be 0 to {self.ranks - 1}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStatus:
    """What one rank is to this one.

    Attributes:
        rank: Which one.
        standing: ``ready`` if it has everything, else ``absent`` (not seen yet), ``working``,
            ``shared`` (it waits for the others' shares); or, if it is waited for no more,
            ``failed``, ``silent``, ``missing`` (never seen); of this process itself also
            ``ousted`` (another one is this rank) and ``alone`` (it can tell the others nothing).
        host: Where it runs; "" if that is not known.
        pid: Its process id there.
        done: Kernels that it has ready.
        total: Kernels that it wants.
        detail: Why it has failed, or how long it was silent.
    """

    rank: int
    standing: str
    host: str = ""
    pid: int = 0
    done: int = 0
    total: int = 0
    detail: str = ""

    def __repr__(self) -> str:
        return short_repr(self)

    def __str__(self) -> str:
        """``rank 3 (pid 71 on node2): silent, 4 of 10 kernels ready``."""
        who = f" (pid {self.pid} on {self.host})" if self.host else ""
        how_far = f", {self.done} of {self.total} kernels ready" if self.total else ""
        why = f": {self.detail}" if self.detail else ""
        return f"rank {self.rank}{who} is {self.standing}{how_far}{why}"
