"""What a runtime's resolutions and its upkeep of the cache add up to."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """Sums since the runtime was opened. Belongs to its event loop.

    Attributes:
        compile_seconds: What compiles of this runtime took, failed ones included.
        queue_seconds: For how long they had waited before, for a slot or a permit.
        saved_seconds: What the compiles had taken whose results were found in the cache.
        handovers: Leases that came to this runtime after a wait, without a result to use.
        evicted_entries: Entries that this runtime removed because of the cache's limits.
        evicted_bytes: Bytes that it removed so, of entries and all else.
        cache_entries: Entries of the cache, when this runtime last looked; None before that.
        cache_bytes: Their size, with reading lists and digests, likewise.
        background_errors: Calls on the cache that failed in the background, where no request gets
            the error.
    """

    compile_seconds: float = 0.0
    queue_seconds: float = 0.0
    saved_seconds: float = 0.0
    handovers: int = 0
    evicted_entries: int = 0
    evicted_bytes: int = 0
    cache_entries: int | None = None
    cache_bytes: int | None = None
    background_errors: int = 0
