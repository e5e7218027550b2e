"""Other people's compilers with 8 processes on a cold cache, through ajit and alone.

For each peer that is installed (make integrations): how often the kernel was compiled, what the
crowd took over one process's time, when those who wait were told, what follows when the one that
compiles is killed, what a kernel costs that cannot be compiled, and a warm start. Processes have
imported everything before they begin. Without a GPU: for sm_90, and nothing is launched.
"""

from __future__ import annotations

import importlib.util
import signal
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import Row, console, seconds
from tests.integrations.peer_processes import crowd

PROCESSES = 8
PEERS = {
    "cuda_core": "cuda.core",
    "triton": "triton",
    "flashinfer": "flashinfer",
    "quack": "quack",
    "tilelang": "tilelang",
    "warp": "warp",
}
TOLD_SECONDS = 1.0


@dataclass(frozen=True)
class Crowd:
    """What processes that began together have answered."""

    answers: list[dict[str, Any]]

    @property
    def compiles(self) -> int:
        counted = [answer["compiles"] for answer in self.answers]
        return max(counted) if self.answers[0]["counts"] == "all" else sum(counted)

    @property
    def wall_seconds(self) -> float:
        return max(answer["seconds"] for answer in self.answers)

    @property
    def told_seconds(self) -> float | None:
        told = [answer["told_seconds"] for answer in self.answers if answer["told_seconds"]]
        return max(told, default=None)


class Place:
    """A cold cache: a directory of its own, for processes with ajit or without."""

    def __init__(self, peer: str, *, ajit: bool) -> None:
        self._peer = peer
        self._folder = tempfile.TemporaryDirectory(prefix="ajit-bench-")
        self._own = 0
        root = self._folder.name
        self._settings = (
            {"cache_dir": f"{root}/cache", "views_dir": f"{root}/views", "device": "none"}
            if ajit
            else None
        )

    def processes(self, count: int, case: str = "good", *, fresh: bool = False) -> Any:
        """Start processes; those that are fresh have an empty cache of the peer's own."""
        self._own += fresh
        folder = f"{self._folder.name}/own{self._own}"
        return crowd(count, self._peer, self._settings, folder, case)

    def run(self, count: int, case: str = "good", *, fresh: bool = False) -> Crowd:
        """Let processes compile at the same moment."""
        with self.processes(count, case, fresh=fresh) as started:
            for process in started:
                process.go()
            answers = [process.answer() for process in started]
        for answer in answers:
            if ("failure" in answer) != (case == "bad"):
                raise RuntimeError(f"{self._peer} did not compile as it should: {answer}")
        return Crowd(answers)


def rows() -> list[Row]:
    """Measure all."""
    found: list[Row] = []
    for peer, module in PEERS.items():
        if _is_there(module):
            measured = _rows(peer)
            found += measured
            for row in measured:  # it takes minutes
                console.print(f"[dim]{row.what}: {row.measured} ({row.beside})[/dim]")
        else:
            found.append(Row(peer, f"skipped: {module} is not installed (make integrations)"))
    return found


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _rows(peer: str) -> list[Row]:
    one = Place(peer, ajit=True).run(1)
    place = Place(peer, ajit=True)
    ours, warm = place.run(PROCESSES), place.run(1, fresh=True)
    alone_one = Place(peer, ajit=False).run(1)
    alone = Place(peer, ajit=False).run(PROCESSES)
    bad = Place(peer, ajit=True).run(PROCESSES, "bad") if peer != "cuda_core" else None
    alone_bad = Place(peer, ajit=False).run(PROCESSES, "bad")
    after_seconds, again = _killed(peer)
    told = ours.told_seconds
    return [
        Row(
            f"{peer}: compiles of {PROCESSES} processes",
            str(ours.compiles),
            "1",
            ours.compiles == 1,
            f"alone: {alone.compiles}",
        ),
        Row(
            f"{peer}: {PROCESSES} processes' time over one's",
            _ratio(ours, one),
            beside=f"alone: {_ratio(alone, alone_one)}",
        ),
        Row(
            f"{peer}: the last waiter was told after",
            "never" if told is None else seconds(told),
            seconds(TOLD_SECONDS),
            told is not None and told <= TOLD_SECONDS,
            "alone: never",
        ),
        Row(
            f"{peer}: holder killed",
            f"{again} compile, all had it {seconds(after_seconds)} later",
            "1 compile",
            again == 1,
        ),
        Row(
            f"{peer}: compiles of a kernel that fails",
            "not shared: the hook does not tell" if bad is None else str(bad.compiles),
            "" if bad is None else "1",
            None if bad is None else bad.compiles == 1,
            f"alone: {alone_bad.compiles}",
        ),
        Row(
            f"{peer}: warm start, the peer's own cache empty",
            f"{seconds(warm.wall_seconds)}, {warm.compiles - _before(ours)} compiles",
            "0 compiles",
            warm.compiles == _before(ours),
        ),
    ]


def _before(crowd: Crowd) -> int:
    """Compiles that a later process of the same place counts as well."""
    return crowd.compiles if crowd.answers[0]["counts"] == "all" else 0


def _killed(peer: str) -> tuple[float, int]:
    """Kill the process that compiles; return how long the others took, and how many compiled."""
    place = Place(peer, ajit=True)  # kept: its folder is removed with it
    with place.processes(PROCESSES) as started:
        for process in started:
            process.go()
        events = {each: each.hear(_is_start_or_wait)["event"] for each in started}
        holder = next(each for each in started if events[each] == "CompileStarted")
        holder.send(signal.SIGKILL)
        begun = time.monotonic()
        holder.wait()
        rest = [each for each in started if each is not holder]
        for process in rest:
            if "failure" in (answer := process.answer()):
                raise RuntimeError(f"{peer} did not compile as it should: {answer}")
        again = sum(len(process.events("CompileStarted")) for process in rest)
    return time.monotonic() - begun, again


def _is_start_or_wait(line: dict[str, Any]) -> bool:
    return line.get("event") in ("CompileStarted", "Waiting")


def _ratio(many: Crowd, one: Crowd) -> str:
    ratio = many.wall_seconds / one.wall_seconds
    return f"{ratio:.2f} ({seconds(many.wall_seconds)} over {seconds(one.wall_seconds)})"
