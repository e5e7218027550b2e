"""What a compile pool says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._core.short_repr import short_repr

if TYPE_CHECKING:
    from ajit._compile.pool.admission import HeldBack

__all__ = ["PoolStatistics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """What a pool is doing and has done. A job is one compile or build.

    Attributes:
        slots: Jobs that may run at once.
        running: Jobs that run now.
        queued: Jobs that wait for a slot, or with a slot for what `held_back` says.
        queued_background: Of these, how many are background work.
        held_back: What the next job waits for although a slot is free: ``memory``, a ``permit``
            from outside, the end of ``foreground`` traffic, or "" if nothing holds it back.
        finished: Jobs that gave a result, since the runtime was opened; as all that follow.
        failed: Jobs that gave an error.
        killed: Jobs that were cancelled after they had started.
        workers: Worker processes alive now.
        workers_started: Worker processes started so far.
        workers_recycled: Of these, how many were replaced for age or size.
    """

    slots: int
    running: int
    queued: int
    queued_background: int
    held_back: HeldBack
    finished: int
    failed: int
    killed: int
    workers: int
    workers_started: int
    workers_recycled: int

    def __repr__(self) -> str:
        return short_repr(self)
