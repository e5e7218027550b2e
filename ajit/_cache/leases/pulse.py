"""Which looks at a holder's record show a new beat.

A beat that is seen is what a waiter goes on waiting for, so nothing may pass for one that its
holder did not just do. The holder of a lock can write any bytes into its file. Without a key those
have no good seal, but they may be copies of records that were good: of an earlier lease of this
lock. So a beat only counts if it is later than all that this waiter has seen of that lease. And
where seals are asked for, the times in a lease's records must keep pace with our clock, and the
first that is seen of a lease must be of just now: copies of leases that are over buy nothing, and
those of one that is watched while it lives no more time than it has.

So with seals, a holder on a node whose clock is more than `LAG_SECONDS` behind ours counts as
silent: its waiters lose patience, and compile.

Pure: the clocks are arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ajit._cache.leases.holder import HolderRecord

__all__ = ["Pulse"]

LAG_SECONDS = 5.0
"""How far the times of a lease may fall behind our clock. Pretty arbitrary: more than a network
file system takes to show a write, less than patience."""

MOST_LEASES = 256
"""Leases of one lock that a waiter remembers. Pretty arbitrary: a few for each rank of a node."""


class _Seen(NamedTuple):
    beat: int
    ahead_seconds: float  # the holder's clock minus ours, at most


class Pulse:
    """Tells beats from what was seen before. Belongs to one waiter.

    Args:
        paced: Whether the times in the records must keep pace with our clock, and be of just now.
    """

    def __init__(self, *, paced: bool) -> None:
        self._paced = paced
        self._seen: dict[tuple[str, int, int, float], _Seen] = {}

    def is_beat(self, record: HolderRecord | None, now: float, unix_now: float) -> bool:
        """Whether a record shows a beat that was not seen before.

        Args:
            record: What was read; None if there is none, or it has no good seal.
            now: When, monotonic.
            unix_now: When, Unix time.
        """
        if record is None:
            return False
        lease = (record.host, record.pid, record.start_ticks, record.started)
        seen = self._seen.get(lease)
        ahead = record.beat_time - now
        if seen is None:
            if self._paced and record.beat_time < unix_now - LAG_SECONDS:
                return False  # a copy, of a lease that is long over
            if len(self._seen) >= MOST_LEASES:
                if self._paced:  # or old leases could be shown round and round
                    return False
                del self._seen[next(iter(self._seen))]
        elif record.beat <= seen.beat or (self._paced and ahead < seen.ahead_seconds - LAG_SECONDS):
            return False
        best = ahead if seen is None else max(ahead, seen.ahead_seconds)
        self._seen[lease] = _Seen(record.beat, best)
        return True
