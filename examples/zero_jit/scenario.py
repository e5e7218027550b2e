"""What happens, in order, and what it came to."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from examples.zero_jit.kernels import WIDTHS
from examples.zero_jit.peers import PEERS
from examples.zero_jit.start import run_command, run_server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from examples.zero_jit.start import Answer, Start

__all__ = ["UNSEEN", "Result", "run_scenario", "workload"]

UNSEEN = 320
"""A width that no request has had."""


@dataclass(slots=True)
class Result:
    """What was found out; a field is empty if it broke off before.

    Attributes:
        peers: Whose kernels were used.
        left_out: Peers that are not installed, and what is missing.
        cold: The first start.
        carried: What was exported and imported.
        warm: The second start, in a home that had nothing but the archive's entries.
        compiled_warm: What the second start had compiled when all of the workload was answered.
        late: The answer to a width that nobody had asked for, and what was told of it.
        broke_off: Why it ended early, or "".
    """

    peers: Sequence[str] = ()
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    cold: Start | None = None
    carried: dict[str, Any] = field(default_factory=dict)
    warm: Start | None = None
    compiled_warm: int = -1
    late: tuple[Answer, Answer] | None = None
    broke_off: str = ""

    @property
    def fraction(self) -> float | None:
        """The second start's time until it was ready, of the first one's until all was answered."""
        if self.cold is None or self.warm is None:
            return None
        return self.warm.ready_seconds / self.cold.all_seconds

    def problems(self) -> list[str]:
        """Everything that is not as it should be, a line each. Times are not judged."""
        problems = [self.broke_off] if self.broke_off else []
        for name, start in (("cold", self.cold), ("second", self.warm)):
            wrong = (
                [answer.request for answer in start.answers if not _is_fine(answer)]
                if start
                else []
            )
            problems += [f"{name} start: a wrong answer to {request}" for request in wrong]
        if self.warm is not None:
            problems += [f"replay: {line}" for line in self.warm.ready["failures"]]
            if self.compiled_warm:
                problems.append(f"second start: {self.compiled_warm} compiles, not 0")
        if self.late is not None:
            problems += _problems_of_late(*self.late)
        return problems


async def run_scenario(
    folder: Path, peers: Sequence[str], result: Result, say: Callable[[str], None]
) -> None:
    """Start cold, carry what was made, start again.

    Args:
        folder: An empty folder for everything that is written.
        peers: Whose kernels are used as well.
        result: Filled step by step.
        say: Told of each step.

    Raises:
        ServerFailed: The server ended, or a command failed.
    """
    result.peers = peers
    first, second, shared = (folder / name for name in ("first", "second", "shared"))
    for path in (first, second, shared):
        path.mkdir()
    say("first start, cold: every first request waits for a compile")
    async with run_server(first, shared, peers, record=first / "used.ajit") as (server, cold):
        for request in workload(peers):
            cold.answers.append(await server.ask(request))
    result.cold = cold
    say("exported, and imported into an empty home; the first one is removed")
    await _carry(first, second, shared, result)
    say("second start: the record is replayed, and the server frozen")
    running = run_server(
        second, shared, peers, record=second / "used.ajit", replay=shared / "used.ajit"
    )
    async with running as (server, warm):
        result.warm = warm
        for request in workload(peers):
            warm.answers.append(await server.ask(request))
        result.compiled_warm = max((await server.ask({"counts": True})).says.values())
        say(f"a width that nobody has asked for before: {UNSEEN}")
        result.late = (await server.ask({"rms_norm": UNSEEN}), await server.ask({"late": True}))


def workload(peers: Sequence[str]) -> list[dict[str, Any]]:
    """Return the requests that a server gets: its own kernels first, the one for any width last."""
    own = [{"rms_norm": width} for width in (*WIDTHS, 0)]
    cases = [{"peer": name, "case": case} for name in peers for case in PEERS[name].cases]
    return [*own, {"build": "rope"}, *cases]


async def _carry(first: Path, second: Path, shared: Path, result: Result) -> None:
    """Make an archive and a record of the first home, and a cache of them in the second."""
    archive, record = shared / "kernels.ajit", shared / "used.ajit"
    exported = await run_command(first, shared, "cache", "export", "-o", archive)
    merged = await run_command(first, shared, "record", "merge", first / "used.ajit", "-o", record)
    shutil.rmtree(first)
    imported = await run_command(second, shared, "cache", "import", archive)
    checked = await run_command(second, shared, "cache", "check", "--archive", archive)
    result.carried = {
        "entries": imported["entries"],
        "reading_lists": imported["reading_lists"],
        "bytes": exported["bytes"],
        "archive_bytes": exported["archive_bytes"],
        "recorded": merged["kernels"],
        "lacking": len(checked["lacking"]),
    }


def _is_fine(answer: Answer) -> bool:
    says = answer.says
    return bool(says.get("ok", True)) and not says.get("fallback") and says.get("bytes", 1) >= 0


def _problems_of_late(answer: Answer, told: Answer) -> list[str]:
    problems = []
    if not answer.says["fallback"] or not answer.says["ok"]:
        problems.append(f"width {UNSEEN}: no fallback has served it, or a wrong answer")
    if told.says["late"] != 1 or str(UNSEEN) not in told.says["told"]["name"]:
        problems.append(f"width {UNSEEN}: it was not told as the one late compile")
    return problems
