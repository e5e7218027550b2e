"""Several processes of one peer, on a cold cache: one compiles, the others see it and get it."""

from __future__ import annotations

import importlib.util
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.integrations.peer_processes import PeerProcess, crowd

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NEEDED = {
    "cuda_core": "cuda.core",
    "flashinfer": "flashinfer",
    "quack": "quack",
    "tilelang": "tilelang",
    "triton": "triton",
    "warp": "warp",
}
SHARE_FAILURES = ("flashinfer", "quack", "tilelang", "triton", "warp")
_COLOUR = re.compile(r"\x1b\[\d+m")
TOLD_SECONDS = 2.0
"""A waiter is told at once; the rest is for a machine that is busy with as many compilers."""


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(
    params=[
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                not _is_there(module), reason=f"{module} is not installed: make integrations"
            ),
        )
        for name, module in NEEDED.items()
    ]
)
def peer(request: pytest.FixtureRequest) -> str:
    """A peer that is installed."""
    return request.param


def compiles(answers: list[dict[str, Any]]) -> int:
    """How often all of them together have compiled."""
    counted = [answer["compiles"] for answer in answers]
    return max(counted) if answers[0]["counts"] == "all" else sum(counted)


def holder_and_waiters(processes: list[PeerProcess]) -> tuple[PeerProcess, list[PeerProcess]]:
    """Let all go; return the one that compiles and those that wait for it.

    On a busy machine one may come when it is over: that is none of them.
    """
    for process in processes:
        process.go()
    said = {process: process.hear(_tells_its_part).get("event") for process in processes}
    (holder,) = (each for each, event in said.items() if event == "CompileStarted")
    waiters = [each for each, event in said.items() if event == "Waiting"]
    assert waiters
    return holder, waiters


def _tells_its_part(line: dict[str, Any]) -> bool:
    return line.get("event") in ("CompileStarted", "Waiting") or "answer" in line


def test_one_process_compiles_for_all(peer: str, options: dict[str, Any], tmp_path: Path) -> None:
    """The others wait, are told for whom, and have the same binary."""
    with crowd(4, peer, options, str(tmp_path / "own")) as processes:
        holder, waiters = holder_and_waiters(processes)
        answers = [process.answer() for process in (holder, *waiters)]

    assert compiles(answers) == 1
    assert len({answer["answer"] for answer in answers}) == 1
    assert {each.events("Waiting")[0]["pid"] for each in waiters} == {holder.pid}
    assert max(each.lines[-1]["told_seconds"] for each in waiters) < TOLD_SECONDS


def test_process_that_is_killed_while_it_compiles_is_replaced(
    peer: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """The kernel frees its lease, and the next one compiles."""
    with crowd(3, peer, options, str(tmp_path / "own")) as processes:
        holder, waiters = holder_and_waiters(processes)
        holder.send(signal.SIGKILL)
        holder.wait()
        answers = [process.answer() for process in waiters]

    assert compiles(answers) == 1
    assert len({answer["answer"] for answer in answers}) == 1


def test_warm_start_compiles_nothing(peer: str, options: dict[str, Any], tmp_path: Path) -> None:
    """A new process, with an empty cache of the peer's own, finds what another has made."""
    answers = []
    for number in range(2):
        with crowd(1, peer, options, str(tmp_path / f"own{number}")) as (process,):
            process.go()
            answers.append(process.answer())

    assert compiles(answers) == 1
    assert answers[0]["answer"] == answers[1]["answer"]


def test_failing_kernel_is_compiled_once(
    peer: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """All processes get the first one's error, of the peer's own kind."""
    if peer not in SHARE_FAILURES:
        pytest.skip(f"the hook of {peer} does not tell of a failure")
    with crowd(4, peer, options, str(tmp_path / "own"), "bad") as processes:
        for process in processes:
            process.go()
        answers = [process.answer() for process in processes]

    assert {answer["failure"] for answer in answers} <= {
        "CompileTimeAssertionFailure",
        "CompilerDiagnosticError",
        "Exception",
        "RuntimeError",
    }
    assert len({_COLOUR.sub("", answer["text"]) for answer in answers}) == 1
    assert compiles(answers) == 1
