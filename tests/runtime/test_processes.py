"""Several processes on one cold cache: one compiles, the others see it, and none is stuck.

The compiler is held at a gate, so that "while the holder compiles" is a state and not a moment.
"""

from __future__ import annotations

import contextlib
import platform
import signal
import time

import psutil
import pytest

from tests.runtime.processes import Peer
from tests.runtime.sources import SAXPY_SOURCE


@pytest.fixture
def start(options):
    """Start processes on the cache; all of them have ended when the test has."""
    with contextlib.ExitStack() as stack:

        def start(count=1, *, backends=("asyncio", "trio"), source=SAXPY_SOURCE, **changes):
            settings = {**options, **changes}
            return [
                stack.enter_context(Peer(settings, backends[number % len(backends)], source))
                for number in range(count)
            ]

        yield start


def all_ready(peers):
    """Wait until every process has opened its runtime, then let them all go."""
    for peer in peers:
        peer.hear("ready")
    for peer in peers:
        peer.go()


def first_to_compile(peers, compiler):
    """Wait until one process compiles and each other waits for it; return it, then the others."""
    until_started(compiler, 1)
    said = {peer: peer.hear(is_start_or_wait)["event"] for peer in peers}
    (holder,) = (peer for peer, event in said.items() if event == "CompileStarted")
    return holder, [peer for peer in peers if peer is not holder]


def until_started(compiler, count):
    """Wait until that many compiles have been started."""
    deadline = time.monotonic() + 60
    while compiler.started < count:
        assert time.monotonic() < deadline, f"only {compiler.started} compiles are started"
        time.sleep(0.01)


def is_start_or_wait(line):
    """Whether a line says that a process compiles, or that it waits."""
    return line.get("event") in ("CompileStarted", "Waiting")


def tells_of_a_holder_at_work(line):
    """Whether a line is of a wait for a holder that has compiled for about a second."""
    if line.get("event") != "Waiting" or line["holder"] is None:
        return False
    return line["holder"]["phase"] == "compiling" and line["holder"]["age_seconds"] > 0.8


def test_eight_processes_on_one_cold_cache_compile_once(start, compiler):
    """One says compiled, seven say disk, and each of the seven saw who compiled, and waited."""
    compiler.hold()
    peers = start(8)
    all_ready(peers)
    holder, waiters = first_to_compile(peers, compiler)

    compiler.let_go()
    compiled = holder.answer()
    answers = [peer.answer() for peer in waiters]

    assert compiled["answer"] == "compiled"
    assert compiled["waited_for"] is None
    assert [answer["answer"] for answer in answers] == ["disk"] * 7
    assert {answer["key"] for answer in answers} == {compiled["key"]}
    for answer in answers:
        assert answer["waited_for"]["host"] == platform.node()
        assert answer["waited_for"]["pid"] == holder.pid
        assert answer["waited_for"]["seconds"] > 0
    assert compiler.started == 1


def test_waiters_see_holder_phase_compiler_and_age(start, compiler):
    """A waiter says at once whom it waits for, and again each second with the holder's news."""
    compiler.hold()
    peers = start(2)
    all_ready(peers)
    holder, (waiter,) = first_to_compile(peers, compiler)

    (first,) = waiter.events("Waiting")
    later = waiter.hear(tells_of_a_holder_at_work)
    compiler.let_go()
    waiter.answer()
    ended = waiter.events("WaitEnded")

    assert first["waited_seconds"] < later["waited_seconds"]
    assert later["holder"]["pid"] == holder.pid
    # Between taking the lock and writing who it is, a holder can be caught in the act.
    assert first["holder"] is None or first["holder"]["pid"] == holder.pid
    assert later["holder"]["host"] == platform.node()
    assert later["holder"]["compiler"].startswith("host gcc")
    assert [event["outcome"] for event in ended] in (["lease"], ["entry"])


def test_holder_killed_while_it_compiles_is_replaced_by_a_waiter(start, compiler):
    """SIGKILL frees the lease and takes the compiler along; one waiter compiles, the rest read."""
    compiler.hold()
    peers = start(3)
    all_ready(peers)
    holder, waiters = first_to_compile(peers, compiler)
    children = psutil.Process(holder.pid).children(recursive=True)

    holder.send(signal.SIGKILL)
    holder.wait()
    until_started(compiler, 2)
    compiler.let_go()
    answers = sorted(peer.answer()["answer"] for peer in waiters)
    _, alive = psutil.wait_procs(children, timeout=60)

    assert answers == ["compiled", "disk"]
    assert compiler.started == 2
    assert children
    assert alive == []


def test_stopped_holder_costs_a_waiter_its_patience_and_loses_cleanly(start, compiler):
    """A holder that is frozen is not waited for; when it goes on, it finds an entry and is well."""
    compiler.hold()
    peers = start(2, patience_seconds=1.0)
    all_ready(peers)
    holder, (waiter,) = first_to_compile(peers, compiler)

    holder.send(signal.SIGSTOP)
    ended = waiter.hear_event("WaitEnded")
    compiler.let_go()
    impatient = waiter.answer()
    holder.send(signal.SIGCONT)
    thawed = holder.answer()

    assert ended["outcome"] == "patience"
    assert ended["waited_seconds"] >= 1
    assert impatient["answer"] == "compiled"
    assert impatient["waited_for"]["pid"] == holder.pid
    assert thawed["answer"] == "compiled"
    assert thawed["key"] == impatient["key"]
    assert (holder.wait(), waiter.wait()) == (0, 0)
    assert compiler.started == 2


def test_damaged_entry_of_a_stopped_holder_is_mended_by_the_first_newcomer(
    start, compiler, cache_dir
):
    """The first pays its patience and a compile, the second finds a good entry at once.

    The holder, when it goes on, finds that entry as well, and leaves it where it is.
    """
    (earlier,) = start()
    all_ready([earlier])
    key = earlier.answer()["key"]
    entry = cache_dir / "entries" / key[:2] / f"{key}.ajit"
    entry.write_bytes(entry.read_bytes()[:-1])
    compiler.hold()
    (holder,) = start()
    all_ready([holder])
    holder.hear_event("CompileStarted")
    holder.send(signal.SIGSTOP)

    first, second = start(2, patience_seconds=1.0)
    all_ready([first])
    ended = first.hear_event("WaitEnded")
    compiler.let_go()
    mended = first.answer()
    good = entry.stat().st_ino
    all_ready([second])
    served = second.answer()
    holder.send(signal.SIGCONT)
    thawed = holder.answer()

    assert (ended["outcome"], mended["answer"]) == ("patience", "compiled")
    assert (served["answer"], served["waited_for"]) == ("disk", None)
    assert thawed["answer"] == "compiled"
    assert entry.stat().st_ino == good
    assert compiler.started == 3


def test_failing_compile_is_done_by_one_process_and_told_to_all(start, compiler):
    """A rejected source is compiled once: the holder's error and log reach every waiter."""
    compiler.hold()
    peers = start(4, source=SAXPY_SOURCE + "\nthis is no C++;\n")
    all_ready(peers)
    holder, waiters = first_to_compile(peers, compiler)

    compiler.let_go()
    error = holder.answer()
    told = [peer.answer() for peer in waiters]

    assert error["failure"] == "CompileError"
    assert "saxpy.cu:11:" in error["log"]
    assert [answer["failure"] for answer in told] == ["CompileError"] * 3
    assert [answer["log"] for answer in told] == [error["log"]] * 3
    assert sum(len(peer.events("CompileStarted")) for peer in peers) == 1


def test_holders_crash_is_no_failure_of_its_waiters(start, compiler):
    """A compiler that is killed is not the source's fault: a waiter compiles for itself."""
    compiler.hold()
    compiler.die_by("KILL")
    peers = start(2)
    all_ready(peers)
    holder, (waiter,) = first_to_compile(peers, compiler)

    compiler.let_go()
    crashed = holder.answer()
    second = waiter.answer()

    assert crashed["failure"] == "CompilerCrashed"
    assert "SIGKILL" in crashed["text"]
    assert second["failure"] == "CompilerCrashed"
    assert compiler.started == 2


def test_asyncio_and_trio_processes_share_one_compile(start, compiler):
    """The event loop of a process makes no difference to the cache."""
    compiler.hold()
    peers = start(1, backends=["asyncio"]) + start(1, backends=["trio"])
    all_ready(peers)
    first_to_compile(peers, compiler)

    compiler.let_go()
    answers = sorted(peer.answer()["answer"] for peer in peers)

    assert answers == ["compiled", "disk"]
    assert compiler.started == 1


def test_warm_cache_serves_every_process_without_a_compiler_or_a_worker(start, compiler):
    """On a warm cache no process waits, locks or starts a worker process."""
    (first,) = start()
    all_ready([first])
    assert first.answer()["answer"] == "compiled"

    peers = start(4)
    all_ready(peers)
    answers = [peer.answer() for peer in peers]

    assert [answer["answer"] for answer in answers] == ["disk"] * 4
    assert [answer["waited_for"] for answer in answers] == [None] * 4
    assert [answer["pool"]["workers_started"] for answer in answers] == [0] * 4
    assert compiler.started == 1
