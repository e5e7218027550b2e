"""The parts of the demo that judge: they must be able to say that something went wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from examples.model_server.demonstration.counts import count_kernels
from examples.model_server.demonstration.leftovers import find_leftovers
from examples.model_server.demonstration.load import Latencies, Load
from examples.model_server.demonstration.process import MARK
from examples.model_server.demonstration.scenario import Result
from examples.model_server.demonstration.workload import Query, kernel_specs, make_workload

if TYPE_CHECKING:
    from pathlib import Path

HOLD_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def workload() -> list[Query]:
    """The demo's requests."""
    return make_workload()


def test_the_workload_is_wide_enough(workload: list[Query]) -> None:
    """At least six shapes, each in both dtypes, and every kernel once."""
    shapes = {(*query.x.shape, query.features) for query in workload}
    specs = kernel_specs()

    assert len(shapes) >= 6
    assert {"float32", "float16"} == {query.x.dtype.name for query in workload}
    assert len(specs) == len(set(specs))


def test_the_expected_answer_passes(workload: list[Query]) -> None:
    """NumPy agrees with itself."""
    assert not any(query.error_in(query.expected) for query in workload)


@pytest.mark.parametrize("index", [0, 1], ids=["float32", "float16"])
def test_a_wrong_answer_is_found(workload: list[Query], index: int) -> None:
    """One wrong value, a NaN, another dtype or shape: each is an error."""
    query = workload[index]
    scaled, poisoned = query.expected.copy(), query.expected.copy()
    scaled[-1, -1] *= query.expected.dtype.type(1.05)
    poisoned[0, 0] = np.nan

    for wrong in (scaled, poisoned, query.expected.astype(np.float64), query.expected[:, 1:]):
        assert query.error_in(wrong)


def _load(*workers: dict[str, dict[str, Any]]) -> Load:
    load = Load({}, [], lambda: None)
    load.stats = {pid: {"kernels": kernels} for pid, kernels in enumerate(workers)}
    return load


def _line(tier: str, *, compiles: int = 0, waits: int = 0) -> dict[str, Any]:
    return {"name": "k", "tier": tier, "compiles": compiles, "waits": waits, "seconds": 1.5}


@pytest.mark.parametrize("seconds", [[3.0], [1.0, 3.0], [3.0, *[1.0] * 200]], ids=len)
def test_latencies_of_any_number_of_answers(seconds: list[float]) -> None:
    """One answer is enough: a run in which nearly all failed is reported as well."""
    latencies = Latencies(seconds)

    assert latencies.median <= latencies.p99 <= latencies.maximum == 3.0


def test_counts_add_up_over_workers() -> None:
    """One compiled, one waited and then read, one read."""
    load = _load(
        {"key": _line("compiled", compiles=1)},
        {"key": _line("disk", waits=1)},
        {"key": _line("disk")},
    )

    (kernel,) = count_kernels(load)

    assert (kernel.asked, kernel.compiles, kernel.waited, kernel.disk) == (3, 1, 1, 2)


def test_a_second_compile_is_a_problem() -> None:
    """Two workers that both compiled are reported, with the kernel's name."""
    result = Result(
        cold=_load({"key": _line("compiled", compiles=1)}, {"key": _line("compiled", compiles=1)})
    )

    assert any("k was compiled 2 times" in problem for problem in result.problems())


def test_a_compile_after_the_restart_is_a_problem() -> None:
    """The second start must find everything on disk."""
    result = Result(restart=_load({"key": _line("compiled", compiles=1)}))

    assert any("restart: k was compiled 1 times" in problem for problem in result.problems())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a stopped server leaves it: an entry, lock files, nothing else."""
    kept = ("cache/entries/00/a.ajit", "cache/locks/00/a.lock", "cache/locks/pe/node.waiting")
    for name in (*kept, "tmp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if path.suffix else path.mkdir()
    return tmp_path


def test_a_clean_folder_has_no_leftovers(folder: Path) -> None:
    """Entries and lock files are meant to stay."""
    assert not find_leftovers(folder)


@pytest.mark.parametrize("name", ["tmp/kernel.cu", "cache/entries/00/.a.ajit.host.1.x"])
def test_a_temporary_file_is_found(folder: Path, name: str) -> None:
    """In the temporary folder, and beside the entries."""
    (folder / name).touch()

    (leftover,) = find_leftovers(folder)

    assert name in leftover


def test_a_held_lock_is_found(folder: Path) -> None:
    """Another process that still holds a lock is seen; its file alone is not."""
    lock = folder / "cache/locks/00/a.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        found = find_leftovers(folder)
        process.stdin.close()

    assert found == ["a.lock is still locked"]
    assert not find_leftovers(folder)


def test_a_running_process_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that the server started is found by its environment, in whatever session."""
    monkeypatch.setattr("examples.model_server.demonstration.leftovers.GRACE_SECONDS", 0.0)
    with subprocess.Popen(
        [sys.executable, "-c", "print('up', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {MARK: str(folder)},
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == b"up\n"
        (leftover,) = find_leftovers(folder)
        process.communicate(b"\n")

    assert f"process {process.pid} is still running" in leftover
