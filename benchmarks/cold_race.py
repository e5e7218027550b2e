"""Many processes want one cold kernel that takes seconds to compile, through several caches.

ajit, cuda.core's FileStreamProgramCache, Triton's cache, and the recipe with filelock that projects
write for themselves; each beside one process alone with the same cache, in the same run. CUB by
NVRTC for sm_90a, and for Triton a matrix product of its own.
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
    """One cache in the race: alone, before, between and after the crowds, and in them."""

    alone_seconds: float
    crowds: dict[int, Race]

    def ratio(self, processes: int) -> float:
        """Wall time of a crowd over one process's."""
        return self.crowds[processes].wall_seconds / self.alone_seconds


def rows() -> list[Row]:
    """Measure all."""
    entrants = {"ajit": _enter("ajit")}
    missing = {peer for peer, package in PEERS.items() if not _is_installed(package)}
    entrants |= {peer: _enter(peer) for peer in PEERS if peer not in missing}
    found = [row for processes in PROCESSES for row in _rows(processes, entrants)]
    found += [
        Row(f"cold race beside {peer}", "skipped: not installed (pip install 'ajit[peers]')")
        for peer in sorted(missing)
    ]
    return found


def _rows(processes: int, entrants: dict[str, Entrant]) -> list[Row]:
    ours = entrants["ajit"].crowds[processes]
    ratio = entrants["ajit"].ratio(processes)
    others = {peer: entrant for peer, entrant in entrants.items() if peer != "ajit"}
    lags = "; ".join(f"{peer}: {_lags(e.crowds[processes])}" for peer, e in others.items())
    return [
        Row(
            f"{processes} processes, one cold kernel: compiles",
            str(ours.compiles),
            "1",
            ours.compiles == 1,
            "; ".join(f"{peer}: {e.crowds[processes].compiles}" for peer, e in others.items()),
        ),
        Row(
            f"{processes} processes, one cold kernel: wall time over one process's",
            _ratio(entrants["ajit"], processes),
            str(RATIO),
            ratio <= RATIO,
            "; ".join(f"{peer}: {_ratio(e, processes)}" for peer, e in others.items()),
        ),
        Row(
            f"{processes} processes: the others' wait after who compiled had it, median and last",
            _lags(ours),
            f"{seconds(LAG_SECONDS)} median",
            statistics.median(ours.lag_seconds) <= LAG_SECONDS,
            lags,
        ),
    ]


def _enter(peer: str) -> Entrant:
    """Race with one cache. Alone three times, around the crowds: the machine is shared."""
    alone = [_race(peer, 1).wall_seconds]
    crowds = {}
    for processes in PROCESSES:
        crowds[processes] = _race(peer, processes)
        alone.append(_race(peer, 1).wall_seconds)
    return Entrant(statistics.median(alone), crowds)


def _race(peer: str, processes: int) -> Race:
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as cache_dir:
        racers = race("benchmarks.racer", processes, peer, cache_dir)
    compiles = sum(report["compiled"] for report in racers.reports)
    return Race(compiles, racers.wall_seconds, _lag_seconds(racers))


def _lag_seconds(racers: Racers) -> tuple[float, ...]:
    done = [report["done"] for report in racers.reports]
    first = min(report["done"] for report in racers.reports if report["compiled"])
    done.remove(first)
    return tuple(sorted(time - first for time in done))


def _ratio(entrant: Entrant, processes: int) -> str:
    wall = seconds(entrant.crowds[processes].wall_seconds)
    return f"{entrant.ratio(processes):.2f} ({wall} / {seconds(entrant.alone_seconds)})"


def _lags(crowd: Race) -> str:
    return f"{_signed(statistics.median(crowd.lag_seconds))}, {_signed(crowd.lag_seconds[-1])}"


def _signed(value: float) -> str:
    return f"-{seconds(-value)}" if value < 0 else seconds(value)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
