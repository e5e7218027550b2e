"""What the cells of `benchmarks.completion` share: loops, busy threads, and how to time.

A cell is a separate process, with one kind of event loop and a number of busy Python threads. It
prints one JSON list of what it measured: see `Measured`.
"""

from __future__ import annotations

import statistics
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

SOURCE = 'extern "C" __global__ void nothing(float* x, int n) {}'
LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
SINGLE, PAUSED = "one, back to back", "one, after a pause"
PAUSE_SECONDS = 0.001
"""Before each measurement. Back to back, the loop and its helper thread pass the GIL to one another
many times before a busy thread gets it again, and nearly all hops look free; a server's requests
come to a loop that was asleep, with the busy thread at work."""
IN_FLIGHT = (1, 4, 16, 64, 256, 1024)
SINGLES = 1000
BURSTS = 20
LEAST = 3
"""Measurements of one thing: at most these, and as many as go into its time, but never fewer."""


@dataclass(frozen=True)
class Measured:
    """One thing that was measured. Times are seconds, of `count` operations together.

    Attributes:
        who: ``ajit``, or which peer.
        what: Which pattern of waiting.
        count: How many operations each time is about.
        runs: How many times were taken.
    """

    who: str
    what: str
    count: int
    runs: int
    least: float
    median: float
    p90: float
    p99: float
    most: float

    @classmethod
    def of(cls, who: str, what: str, count: int, values: list[float]) -> Measured:
        ordered = sorted(values)
        p90, p99 = (ordered[round(share * (len(ordered) - 1))] for share in (0.9, 0.99))
        return cls(
            who, what, count, len(ordered), ordered[0], statistics.median(ordered), p90, p99,
            ordered[-1],
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """With four digits of each time: a fifth would mean nothing."""
        return {
            name: float(f"{value:.4g}") if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Effort:
    """How much a cell may measure.

    Attributes:
        seconds: For each thing that is measured, about.
        in_flight: How many operations at once.
    """

    seconds: float
    in_flight: tuple[int, ...] = IN_FLIGHT

    @classmethod
    def named(cls, name: str) -> Effort:
        return {
            "full": cls(2.0),
            "brief": cls(1.5, (64,)),
            "budgets": cls(1.0, ()),
            "quick": cls(0.05, (1, 16)),
        }[name]


async def times(
    operation: Callable[[], Awaitable[object]], runs: int, seconds: float, *, pause: bool
) -> list[float]:
    """Time an operation, often."""
    await operation()
    values: list[float] = []
    end = time.perf_counter() + seconds
    while len(values) < runs and (len(values) < LEAST or time.perf_counter() < end):
        if pause:
            await anyio.sleep(PAUSE_SECONDS)
        begun = time.perf_counter()
        await operation()
        values.append(time.perf_counter() - begun)
    return values


async def single(
    who: str, operation: Callable[[], Awaitable[object]], effort: Effort
) -> list[Measured]:
    """Measure one operation at a time."""
    return [
        Measured.of(who, what, 1, await times(operation, SINGLES, effort.seconds, pause=pause))
        for what, pause in ((SINGLE, False), (PAUSED, True))
    ]


async def bursts(
    who: str, operation: Callable[[], Awaitable[object]], effort: Effort
) -> list[Measured]:
    """Measure many at once, each in a separate task."""
    made = []
    for count in effort.in_flight:

        async def burst(count: int = count) -> None:
            async with anyio.create_task_group() as tasks:
                for _ in range(count):
                    tasks.start_soon(operation)

        values = await times(burst, BURSTS, effort.seconds, pause=True)
        made.append(Measured.of(who, "tasks in flight", count, values))
        if min(values) > effort.seconds / LEAST:
            break  # more of them take too long to measure
    return made


@contextmanager
def busy_threads(count: int) -> Iterator[None]:
    """Python threads that compute all the time."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
