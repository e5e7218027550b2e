"""Many processes want one cold kernel that takes seconds to compile, through several caches.

ajit, cuda.core's FileStreamProgramCache, Triton's cache, and the recipe with filelock that projects
write for themselves; each beside one process that asks alone, with the same cache, in the same run.
CUB by NVRTC for sm_90a, and for Triton a matrix product.

While one asks alone, as many others as in the crowd are there and wait for nothing. Their mere
presence costs something on a virtual machine: a compiler touches 400 MB, and where those who are
there have the memory that was used before, each of its pages is the host's to find first (measured:
0.3 s of system time without them, 0.7 to 1.4 s with 31 of them idle). That is not the race's.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
from dataclasses import dataclass

from benchmarks.harness import Racers, Row, race, seconds

PROCESSES = (8, 32)
PEERS = {"cuda.core": "cuda.core", "triton": "triton", "filelock": "filelock"}
"""Peers, and the package that each needs. Those that are missing are left out, with the reason."""

RATIO = 1.1
LAG_SECONDS = 0.010


@dataclass(frozen=True)
class Race:
    """Processes that wanted one kernel at once.

    Attributes:
        compiles: How many of them compiled it.
        wall_seconds: From the start to the last answer.
        lag_seconds: From the first compiled answer to each other process's. Below zero where the
            entry was on the disk, and found, before the process that compiled had answered.
    """

    compiles: int
    wall_seconds: float
    lag_seconds: tuple[float, ...]


@dataclass(frozen=True)
class Entrant:
    """One cache in the race.

    Attributes:
        only_seconds: What one process takes where there is no other.
        alone_seconds: What one process takes that asks alone, by the number of those that are
            there; the mean of before and after the crowd, for the machine may be shared.
        crowds: The races, by the number of processes.
    """

    only_seconds: float
    alone_seconds: dict[int, float]
    crowds: dict[int, Race]

    def ratio(self, processes: int) -> float:
        """Wall time of a crowd over one process's."""
        return self.crowds[processes].wall_seconds / self.alone_seconds[processes]


def rows() -> list[Row]:
    """Measure all."""
    entrants = {"ajit": _enter("ajit")}
    missing = {peer for peer, package in PEERS.items() if not _is_installed(package)}
    entrants |= {peer: _enter(peer) for peer in PEERS if peer not in missing}
    found = [row for processes in PROCESSES for row in _rows(processes, entrants)]
    only = {peer: seconds(entrant.only_seconds) for peer, entrant in entrants.items()}
    found.append(
        Row(
            "one process, one cold kernel, with no other process there",
            only.pop("ajit"),
            beside=_each(only),
        )
    )
    found += [
        Row(f"cold race beside {peer}", "skipped: not installed (pip install 'ajit[peers]')")
        for peer in sorted(missing)
    ]
    return found


def _rows(processes: int, entrants: dict[str, Entrant]) -> list[Row]:
    ours = entrants["ajit"].crowds[processes]
    ratio = entrants["ajit"].ratio(processes)
    others = {peer: entrant for peer, entrant in entrants.items() if peer != "ajit"}
    return [
        Row(
            f"{processes} processes, one cold kernel: compiles",
            str(ours.compiles),
            "1",
            ours.compiles == 1,
            _each({peer: e.crowds[processes].compiles for peer, e in others.items()}),
        ),
        Row(
            f"{processes} processes, one cold kernel: wall time over one process's",
            _ratio(entrants["ajit"], processes),
            str(RATIO),
            ratio <= RATIO,
            _each({peer: _ratio(e, processes) for peer, e in others.items()}),
        ),
        Row(
            f"{processes} processes: the others' wait after who compiled had it, median and last",
            _lags(ours),
            f"{seconds(LAG_SECONDS)} median",
            statistics.median(ours.lag_seconds) <= LAG_SECONDS,
            _each({peer: _lags(e.crowds[processes]) for peer, e in others.items()}),
        ),
    ]


def _each(values: dict[str, object]) -> str:
    return "; ".join(f"{peer}: {value}" for peer, value in values.items())


def _enter(peer: str) -> Entrant:
    """Race with one cache."""
    alone, crowds = {}, {}
    for processes in PROCESSES:
        before = _race(peer, processes, asked=1)
        crowds[processes] = _race(peer, processes)
        after = _race(peer, processes, asked=1)
        alone[processes] = (before.wall_seconds + after.wall_seconds) / 2
    return Entrant(_race(peer, 1).wall_seconds, alone, crowds)


def _race(peer: str, processes: int, asked: int | None = None) -> Race:
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as cache_dir:
        racers = race("benchmarks.racer", processes, peer, cache_dir, asked=asked)
    compiles = sum(report["compiled"] for report in racers.reports)
    return Race(compiles, racers.wall_seconds, _lag_seconds(racers))


def _lag_seconds(racers: Racers) -> tuple[float, ...]:
    done = [report["done"] for report in racers.reports]
    first = min(report["done"] for report in racers.reports if report["compiled"])
    done.remove(first)
    return tuple(sorted(time - first for time in done))


def _ratio(entrant: Entrant, processes: int) -> str:
    wall = seconds(entrant.crowds[processes].wall_seconds)
    alone = seconds(entrant.alone_seconds[processes])
    return f"{entrant.ratio(processes):.2f} ({wall} / {alone})"


def _lags(crowd: Race) -> str:
    return f"{_signed(statistics.median(crowd.lag_seconds))}, {_signed(crowd.lag_seconds[-1])}"


def _signed(value: float) -> str:
    return f"-{seconds(-value)}" if value < 0 else seconds(value)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
