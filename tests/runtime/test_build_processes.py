"""Several processes that want one build: one runs it, the others see it, and none is stuck."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import psutil
import pytest

from tests.runtime.builds import ScriptedBuild
from tests.runtime.processes import Peer


@pytest.fixture
def scripted(tmp_path):
    """A build that is counted, and held when the test says so."""
    return ScriptedBuild(tmp_path / "scripted")


@pytest.fixture
def start(options, tmp_path):
    """Start processes on the cache; all of them have ended when the test has."""
    with contextlib.ExitStack() as stack:

        def start(build, count=1, **changes):
            settings = {**options, "views_dir": str(tmp_path / "views"), **changes}
            return [
                stack.enter_context(Peer.building(settings, ("asyncio", "trio")[number % 2], build))
                for number in range(count)
            ]

        yield start


def all_ready(peers):
    """Wait until every process has opened its runtime, then let them all go."""
    for peer in peers:
        peer.hear("ready")
    for peer in peers:
        peer.go()


def first_to_build(peers, scripted):
    """Wait until one process builds and each other waits for it; return it, then the others."""
    scripted.until_started()
    said = {peer: peer.hear(is_start_or_wait)["event"] for peer in peers}
    (holder,) = (peer for peer, event in said.items() if event == "CompileStarted")
    return holder, [peer for peer in peers if peer is not holder]


def is_start_or_wait(line):
    """Whether a line says that a process builds, or that it waits."""
    return line.get("event") in ("CompileStarted", "Waiting")


@pytest.mark.slow
def test_eight_processes_run_one_build_and_share_one_view(start, scripted, tmp_path):
    """Seven wait for the eighth, see who it is, and all load from the same files."""
    scripted.hold()
    peers = start(scripted.build("echo made by $$ > out.txt"), 8)
    all_ready(peers)
    holder, waiters = first_to_build(peers, scripted)

    scripted.let_go()
    built = holder.answer()
    answers = [peer.answer() for peer in waiters]

    assert scripted.started == 1
    assert built["answer"] == "compiled"
    assert [answer["answer"] for answer in answers] == ["disk"] * 7
    assert {answer["folder"] for answer in answers} == {built["folder"]}
    assert {answer["head"] for answer in answers} == {built["head"]}
    assert {answer["waited_for"]["pid"] for answer in answers} == {holder.pid}
    views = [path for path in tmp_path.glob("views/*/*/*") if path.is_dir()]
    assert len(views) == 1


@pytest.mark.slow
def test_failing_build_is_run_once_for_all_processes(start, scripted):
    """Each gets the first errors of the one that ran."""
    scripted.hold()
    peers = start(scripted.build("echo noise; echo 'x.cu(1): error: of '$$; exit 1"), 4)
    all_ready(peers)
    first_to_build(peers, scripted)

    scripted.let_go()
    failures = [peer.answer() for peer in peers]

    assert [failure["failure"] for failure in failures] == ["CompileError"] * 4
    assert {failure["log"] for failure in failures} == {failures[0]["log"]}
    assert failures[0]["log"].startswith(f"x.cu(1): error: of {scripted.pids[0]}\n")
    assert scripted.started == 1


@pytest.mark.slow
def test_builder_that_is_killed_is_replaced_by_a_waiter(start, scripted):
    """Its processes end with it, the next one builds, and the rest find what that made."""
    scripted.hold()
    peers = start(scripted.build(), 3)
    all_ready(peers)
    holder, waiters = first_to_build(peers, scripted)
    killed = scripted.pids[0]

    holder.send(signal.SIGKILL)
    holder.wait()
    scripted.until_started(2)
    scripted.let_go()
    answers = sorted(peer.answer()["answer"] for peer in waiters)

    assert answers == ["compiled", "disk"]
    assert scripted.started == 2
    assert not psutil.pid_exists(killed) or psutil.Process(killed).status() == "zombie"


@pytest.mark.slow
def test_large_bundle_is_never_whole_in_memory(start, scripted, tmp_path):
    """300 MB are built, kept, found and put into a view with a tenth of that in memory."""
    script = "head -c 300000000 /dev/urandom > out.txt"
    limits = {"compile_memory_limit_bytes": 64 * 1024 * 1024}
    (first,) = start(scripted.build(script), **limits)
    all_ready([first])
    built = first.answer()
    (second,) = start(scripted.build(script), views_dir=str(tmp_path / "elsewhere"))
    all_ready([second])
    found = second.answer()

    assert (built["answer"], found["answer"]) == ("compiled", "disk")
    assert (Path(found["folder"]) / "out.txt").stat().st_size == 300_000_000
    assert built["grown_kib"] < 30_000
    assert found["grown_kib"] < 30_000
