"""Whether there is memory for one more compile: free memory minus the claims.

A compile that has just started has allocated little, so by free memory alone a compiler would start
on every CPU in the same tenth of a second, and all of them would die a minute later. So each
running compile has a claim: the memory that compiles of its kind are known to need. The part that
it has not allocated yet counts as used.

A claim begins with the setting's estimate and grows with the peaks that are seen. It shrinks slowly
when later compiles need less: one giant must not make every compile after it wait for ever.

One compile is always admitted: without one, no memory would be released here, and the wait would
never end.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ajit._core.job import CompilerName

__all__ = ["Claim", "MemoryLedger"]

RESERVE_BYTES = 256 * 1024 * 1024
"""Memory left for the server and other processes. Pretty arbitrary."""

FORGET_SHARE = 8
"""A smaller peak takes this fraction of the difference off the estimate. Pretty arbitrary."""


@dataclass(eq=False, slots=True)
class Claim:
    """The memory of one running compile.

    Only the slot's thread calls `note`; any thread may read.
    """

    compiler: CompilerName
    expected_bytes: int
    jobs: int = 1
    used_bytes: int = 0
    peak_bytes: int = 0

    def note(self, used_bytes: int) -> None:
        """Say how much the compile uses now."""
        self.used_bytes = used_bytes
        self.peak_bytes = max(self.peak_bytes, used_bytes)

    def outstanding_bytes(self) -> int:
        """What it may still take."""
        return max(0, self.expected_bytes - self.used_bytes)


class MemoryLedger:
    """The claims of the compiles that run. Thread-safe.

    Args:
        estimate_bytes: Memory that a compile needs, until peaks are seen; 0 admits everything.
        limit_bytes: The memory limit of a compile.
    """

    def __init__(self, estimate_bytes: int, limit_bytes: int) -> None:
        self._estimate_bytes = estimate_bytes
        self._limit_bytes = limit_bytes
        self._peaks: dict[CompilerName, int] = {}
        self._claims: set[Claim] = set()
        self._lock = threading.Lock()

    @property
    def asks(self) -> bool:
        """Whether free memory matters now. If not, it need not be measured."""
        return bool(self._estimate_bytes and self._claims)

    def expected_bytes(self, compiler: CompilerName) -> int:
        """What a compile of that kind is expected to need."""
        expected = max(self._estimate_bytes, self._peaks.get(compiler, 0))
        return min(expected, self._limit_bytes)

    def admits(self, compiler: CompilerName, available_bytes: int | None, jobs: int = 1) -> int:
        """How many jobs of one more compile may start; 0: it has to wait.

        Args:
            compiler: Of which kind.
            available_bytes: How much memory is free; None: not known.
            jobs: How many it could make use of. Where nothing runs, one is always admitted.
        """
        with self._lock:
            expected = self.expected_bytes(compiler)
            if not self._estimate_bytes or available_bytes is None or not expected:
                return jobs
            promised = sum(claim.outstanding_bytes() for claim in self._claims)
            room = available_bytes - promised - RESERVE_BYTES
            return max(min(jobs, room // expected), 0 if self._claims else 1)

    def enter(self, compiler: CompilerName, jobs: int = 1) -> Claim:
        """Begin a claim; it counts until `leave`."""
        with self._lock:
            claim = Claim(compiler, self.expected_bytes(compiler) * jobs, jobs)
            self._claims.add(claim)
            return claim

    def leave(self, claim: Claim) -> None:
        """End a claim, and learn from it."""
        with self._lock:
            self._claims.discard(claim)
            known, peak = self._peaks.get(claim.compiler, 0), claim.peak_bytes // claim.jobs
            less = (known - peak) // FORGET_SHARE
            self._peaks[claim.compiler] = max(peak, known - max(0, less))
