"""What the demo does, in order, and what it found out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

import ajit
from examples.model_server.demonstration.client import connect_to_all_workers
from examples.model_server.demonstration.counts import count_kernels
from examples.model_server.demonstration.load import Load
from examples.model_server.demonstration.process import log_tail, run_server
from examples.model_server.demonstration.workload import kernel_specs, make_workload

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from examples.model_server.demonstration.steps import Steps
    from examples.model_server.demonstration.workload import Query

__all__ = ["CUBIN_ARCH", "Result", "run_scenario"]

WORKERS = 4
CONNECTIONS = 7
"""To each worker: six requests at once, and one connection for its health probes."""
CUBIN_ARCH = "sm_90a"


@dataclass(slots=True)
class Result:
    """What the demo found out; a field is empty if it broke off before.

    Attributes:
        cold: The load on an empty cache.
        restart: The load on the cache that the first start left.
        cubins: The kernels compiled for `CUBIN_ARCH`.
        rejected: Kernels that could not be compiled for it, and why.
        leftovers: What the server left behind.
        broke_off: Why the demo ended early, or empty.
        seconds: How long it took.
    """

    cold: Load | None = None
    restart: Load | None = None
    cubins: list[ajit.Artifact] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    broke_off: str = ""
    seconds: float = 0.0

    def problems(self) -> list[str]:
        """Everything that went wrong, a line each."""
        kernels = len(kernel_specs())
        problems = [self.broke_off] if self.broke_off else []
        if self.cold is not None:
            problems += [f"cold start: {line}" for line in self.cold.problems]
            problems += _miscounted(self.cold, "cold start", kernels, compiles=1)
        if self.restart is not None:
            problems += [f"restart: {line}" for line in self.restart.problems]
            problems += _miscounted(self.restart, "restart", kernels, compiles=0)
        return problems + self.rejected + self.leftovers


async def run_scenario(folder: Path, result: Result, steps: Steps) -> None:
    """Serve on a cold cache, serve again on the warm one, then compile for a GPU.

    Args:
        folder: A folder with an empty ``tmp``, for everything that is written.
        result: Filled step by step, so that a failure leaves what was found out before.
        steps: Told about each step.

    Raises:
        ServerFailed: The server did not start or stop, or a worker could not be reached.
        AjitError: No runtime could be opened to compile for `CUBIN_ARCH`.
    """
    queries = make_workload()
    steps.say(f"{len(queries)} requests prepared, and answered by NumPy")
    result.cold = await _serve(folder, queries, "on an empty cache", steps)
    result.restart = await _serve(folder, queries, "again, on the warm cache", steps)
    await _compile_cubins(folder, result, steps)


async def _serve(folder: Path, queries: Sequence[Query], how: str, steps: Steps) -> Load:
    """Start the server, put the load on it, and stop it."""
    steps.say(f"starting the server {how}: {WORKERS} workers")
    async with (
        run_server(folder, WORKERS) as server,
        connect_to_all_workers(server, WORKERS, CONNECTIONS) as workers,
    ):
        steps.say(f"all {WORKERS} workers answer at {server.url}")
        with steps.bar("answers", Load.answers(WORKERS, len(queries))) as advance:
            load = Load(workers, queries, advance)
            await load.run()
        steps.say(_summary(load))
    steps.say("server stopped")
    if load.problems:
        steps.say(f"its log ends with:\n{log_tail(folder)}")
    return load


async def _compile_cubins(folder: Path, result: Result, steps: Steps) -> None:
    """Compile the same kernels with NVRTC; neither a GPU nor a driver is needed for it."""
    specs = kernel_specs()

    async def compile_one(spec: ajit.Spec) -> None:
        try:
            result.cubins.append(await runtime.compile(spec, arch=CUBIN_ARCH))
        except ajit.AjitError as exc:
            result.rejected.append(f"{spec.name} for {CUBIN_ARCH}: {exc}")
        advance()

    with steps.bar(f"cubins for {CUBIN_ARCH}", len(specs)) as advance:
        async with (
            ajit.open_runtime(device="none", cache_dir=folder / "cache") as runtime,
            anyio.create_task_group() as tasks,
        ):
            for spec in specs:
                tasks.start_soon(compile_one, spec)
    steps.say(f"{len(result.cubins)} cubins for {CUBIN_ARCH} compiled with NVRTC")


def _summary(load: Load) -> str:
    answers = len(load.first.seconds) + len(load.warm.seconds)
    outcome = f"{len(load.problems)} problems" if load.problems else "all as NumPy's"
    return f"{answers} answers, {len(load.probes.seconds)} health probes: {outcome}"


def _miscounted(load: Load, start: str, kernels: int, compiles: int) -> list[str]:
    counts = count_kernels(load)
    problems = [
        f"{start}: {kernel.name} was compiled {kernel.compiles} times, not {compiles}"
        for kernel in counts
        if kernel.compiles != compiles
    ]
    if len(counts) != kernels:
        problems.append(f"{start}: the workers know {len(counts)} kernels, not {kernels}")
    return problems
