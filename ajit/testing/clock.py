"""A clock that a test moves on, instead of waiting.

ajit asks the standard module ``time`` for the time. While a `FakeClock` is installed, its modules
find a stand-in there, which adds what the test says to what the real clock shows. So time never
stands still, and never goes back.
"""

from __future__ import annotations

import time
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ajit.testing.seams import replaced

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from typing import Self

__all__ = ["FakeClock"]


class FakeClock:
    """What ajit's own clocks show is ahead of the real ones by what a test says. A context manager.

    It holds for what ajit decides by its own clock: how long a failed compile is remembered, how
    long a waiter is patient with a silent holder, and the times in events. It moves neither the
    clock of an event loop (deadlines of anyio; trio has a mock of its own), nor that of the kernel
    (ages of files, by which the cache evicts), nor that of C code (tickets). A thread that sleeps
    goes on sleeping: it sees the new time when it wakes.

    One at a time, for the whole process.

    Attributes:
        ahead_seconds: How far it is ahead.
    """

    def __init__(self) -> None:
        self.ahead_seconds = 0.0
        self._installed: ExitStack | None = None

    def advance(self, seconds: float) -> None:
        """Move it on.

        Raises:
            ValueError: The number is negative: clocks of this kind do not go back.
        """
        if not seconds >= 0:
            raise ValueError(f"a clock goes forward, not by {seconds!r}")
        self.ahead_seconds += seconds

    def time(self) -> float:
        """Return the Unix time, in seconds."""
        return time.time() + self.ahead_seconds

    def monotonic(self) -> float:
        """Return the time for differences, in seconds."""
        return time.monotonic() + self.ahead_seconds

    def __enter__(self) -> Self:
        self._installed = replaced("time", time, _Time(self))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._installed is not None
        self._installed.close()

    def __repr__(self) -> str:
        return f"<FakeClock ahead_seconds={self.ahead_seconds}>"


class _Time(ModuleType):
    """The module ``time`` with another time in it."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__("time")
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        real = getattr(time, name)
        if name in ("time", "monotonic", "perf_counter"):
            return self._moved(real, 1)
        if name in ("time_ns", "monotonic_ns", "perf_counter_ns"):
            return self._moved(real, 1_000_000_000)
        return real

    def _moved(self, real: Callable[[], Any], units: int) -> Callable[[], Any]:
        return lambda: real() + type(real())(self._clock.ahead_seconds * units)
