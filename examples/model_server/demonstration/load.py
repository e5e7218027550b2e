"""The load: every query to every worker, first cold and then warm, under probes of /healthz."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count, cycle
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import anyio
import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from examples.model_server.demonstration.client import Connection
    from examples.model_server.demonstration.workload import Query

__all__ = ["LIVENESS_SECONDS", "PROBE_EVERY_SECONDS", "WARM_ROUNDS", "Latencies", "Load"]

PROBE_EVERY_SECONDS = 0.020
LIVENESS_SECONDS = 1.0
"""Probes slower than this have failed: liveness limits in the field are 1 to 4 s."""
WARM_ROUNDS = 5


@dataclass(slots=True)
class Latencies:
    """Seconds until answers came."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.seconds)

    @property
    def p99(self) -> float:
        """The 99th percentile."""
        if len(self.seconds) == 1:  # too few for `quantiles`
            return self.maximum
        return quantiles(self.seconds, n=100, method="inclusive")[98]

    @property
    def maximum(self) -> float:
        """The slowest."""
        return max(self.seconds)


class Load:
    """One run of the load against a server, and what came out of it.

    Attributes:
        first: The first request of each query at each worker: kernels are found or compiled.
        warm: The later ones, one at a time for each worker.
        probes: /healthz, while the first requests ran.
        problems: Wrong results, failed requests and failed or slow probes, a line each.
        stats: By worker, its account of its kernels.
    """

    def __init__(
        self,
        workers: Mapping[int, Sequence[Connection]],
        queries: Sequence[Query],
        on_answer: Callable[[], None],
    ) -> None:
        """Prepare a run.

        Args:
            workers: Connections by worker, at least two; the last one is kept for probes.
            queries: What to ask.
            on_answer: Called after each answer.
        """
        self.first, self.warm, self.probes = Latencies(), Latencies(), Latencies()
        self.problems: list[str] = []
        self.stats: dict[int, dict[str, Any]] = {}
        self._workers = workers
        self._queries = queries
        self._on_answer = on_answer

    @staticmethod
    def answers(workers: int, queries: int) -> int:
        """How many answers a run waits for."""
        return workers * queries * (1 + WARM_ROUNDS)

    async def run(self) -> None:
        """Send every query to every worker, all at once; then, if all went well, one at a time."""
        async with anyio.create_task_group() as probing:
            probing.start_soon(self._probe_all)
            await self._ask_all(self.first, at_once=len(self._queries))
            probing.cancel_scope.cancel()
        for _ in range(WARM_ROUNDS if not self.problems else 0):
            await self._ask_all(self.warm, at_once=1)
        for pid, connections in self._workers.items():
            self.stats[pid] = await connections[0].stats()

    async def _ask_all(self, latencies: Latencies, *, at_once: int) -> None:
        async with anyio.create_task_group() as tasks:
            for *connections, _ in self._workers.values():
                used = cycle(connections[:at_once])
                for connection, query in zip(used, self._queries, strict=False):
                    tasks.start_soon(self._ask, connection, query, latencies)

    async def _ask(self, connection: Connection, query: Query, latencies: Latencies) -> None:
        try:
            answer, seconds = await connection.infer(query)
        except httpx.HTTPError as exc:
            self.problems.append(f"{query.label} failed: {_reason(exc)}")
        else:
            latencies.seconds.append(seconds)
            if error := query.error_in(answer):
                self.problems.append(f"worker {connection.pid} gave a wrong result: {error}")
        self._on_answer()

    async def _probe_all(self) -> None:
        """Probe one worker after the other, on time even while earlier probes are under way."""
        connections = cycle([connections[-1] for connections in self._workers.values()])
        begin = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for tick in count():
                await anyio.sleep_until(begin + tick * PROBE_EVERY_SECONDS)
                tasks.start_soon(self._probe, next(connections))

    async def _probe(self, connection: Connection) -> None:
        begin = anyio.current_time()
        try:
            await connection.healthz()
        except httpx.HTTPError as exc:
            self.problems.append(f"a health probe failed: {_reason(exc)}")
            return
        seconds = anyio.current_time() - begin
        self.probes.seconds.append(seconds)
        if seconds > LIVENESS_SECONDS:
            self.problems.append(f"a health probe of worker {connection.pid} took {seconds:.2f} s")


def _reason(error: httpx.HTTPError) -> str:
    """Its message; some of httpx's errors have none, and say it all by their type."""
    return str(error) or type(error).__name__
