"""A file server that is stopped, killed or started anew in mid-compile, seen by several processes.

Each process is served within its patience and a compile, and ends.
"""

from __future__ import annotations

import errno
import time

import pytest

from tests.fuse.mounts import why_no_fuse
from tests.runtime.processes import Peer

NO_FUSE = why_no_fuse()
pytestmark = pytest.mark.skipif(bool(NO_FUSE), reason=NO_FUSE)

PATIENCE_SECONDS = 2.0
SLACK_SECONDS = 8.0
"""For hand-overs and a compile of this compiler, on a busy machine."""


@pytest.fixture
def start(options, mount):
    """Start processes whose cache is on it; they are at their end when the test is."""
    peers = []

    def start(**more):
        settings = {**options, "cache_dir": str(mount.path / "cache"), **more}
        peers.append(Peer({"patience_seconds": PATIENCE_SECONDS, **settings}))
        peers[-1].hear("ready")
        return peers[-1]

    yield start
    mount.go_on()
    mount.answer()
    for peer in peers:
        with peer:
            pass


def answer_of(peer, begun):
    """What it ends with, and after how long."""
    answer = peer.answer()["answer"]
    return answer, time.monotonic() - begun


def a_waiter_of_a_holder(start, compiler):
    """One process compiles, and another one waits for it."""
    compiler.hold()
    holder = start(patience_seconds=PATIENCE_SECONDS)
    holder.go()
    holder.hear_event("CompileStarted")
    waiter = start(patience_seconds=PATIENCE_SECONDS)
    waiter.go()
    waiter.hear_event("Waiting")
    return holder, waiter


def test_server_that_stops_in_mid_compile_costs_a_waiter_its_patience(start, mount, compiler):
    """And its holder, who comes to publish, the same: not the time for which the server hangs."""
    holder, waiter = a_waiter_of_a_holder(start, compiler)
    mount.stop()
    begun = time.monotonic()
    ended = waiter.hear_event("WaitEnded")
    ended_after = time.monotonic() - begun
    compiler.let_go()
    holder_answer = answer_of(holder, begun)
    waiter_answer = answer_of(waiter, begun)
    mount.go_on()
    # Not before: the kernel lets no process end while the server has one of its calls in hand.
    codes = holder.wait(), waiter.wait()

    assert ended["outcome"] == "patience"
    assert ended_after < PATIENCE_SECONDS + 2.0
    assert (holder_answer[0], waiter_answer[0]) == ("compiled", "compiled")
    assert holder_answer[1] < 2 * PATIENCE_SECONDS + SLACK_SECONDS
    assert waiter_answer[1] < 2 * PATIENCE_SECONDS + SLACK_SECONDS
    assert codes == (0, 0)


def test_server_that_stores_nothing_any_more_costs_a_waiter_the_holder_s_patience(
    start, mount, compiler
):
    """Locks and beats work, and writing an entry hangs: the holder gives up and releases its lease.

    That is how a file server looks that restarts behind a client which keeps small files itself.
    """
    holder, waiter = a_waiter_of_a_holder(start, compiler)
    mount.hang("/tmp/")
    compiler.let_go()
    begun = time.monotonic()
    answers = [answer_of(peer, begun) for peer in (holder, waiter)]
    mount.answer()
    # Not before: the kernel lets no process end while the server has one of its calls in hand.
    codes = holder.wait(), waiter.wait()

    assert [tier for tier, _ in answers] == ["compiled", "compiled"]
    assert answers[0][1] < PATIENCE_SECONDS + SLACK_SECONDS
    assert answers[1][1] < 2 * PATIENCE_SECONDS + SLACK_SECONDS
    assert codes == (0, 0)


@pytest.mark.parametrize("code", ["ESTALE", "ENOTCONN", "EIO"])
def test_server_that_fails_in_mid_compile_costs_a_waiter_its_patience_at_most(
    start, mount, compiler, code
):
    """Every call is an error for longer than the patience: locks, records, entries."""
    holder, waiter = a_waiter_of_a_holder(start, compiler)
    mount.fail(getattr(errno, code))
    begun = time.monotonic()
    waiter.hear_event("WaitEnded")
    ended_after = time.monotonic() - begun
    compiler.let_go()
    answers = [answer_of(peer, begun) for peer in (holder, waiter)]
    mount.answer()

    assert ended_after < PATIENCE_SECONDS + 2.0
    assert [tier for tier, _ in answers] == ["compiled", "compiled"]
    assert max(seconds for _, seconds in answers) < PATIENCE_SECONDS + SLACK_SECONDS


def test_server_that_is_killed_and_started_anew_in_mid_compile(start, mount, compiler):
    """Who waits is served; and so is a later one, which waits for its patience at most.

    The holder could not mark its claim as left: so that counts until its silence is long enough.
    """
    holder, waiter = a_waiter_of_a_holder(start, compiler)
    mount.close()
    begun = time.monotonic()
    waiter.hear_event("WaitEnded")
    mount.serve()
    compiler.let_go()
    answers = [answer_of(peer, begun) for peer in (holder, waiter)]
    later = start(patience_seconds=PATIENCE_SECONDS)
    later.go()

    assert later.answer()["answer"] == "compiled"
    assert max(seconds for _, seconds in answers) < PATIENCE_SECONDS + SLACK_SECONDS
