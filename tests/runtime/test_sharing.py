"""Several processes that want the same many kernels: they share the work, and none is stuck."""

from __future__ import annotations

import contextlib
import time

import pytest

from ajit._resolve.credits import CREDITS_PER_SLOT
from tests.runtime.processes import Peer

pytestmark = pytest.mark.slow  # every kernel is a process of the scripted compiler


@pytest.fixture
def start(options):
    """Start processes that want kernels; all of them have ended when the test has."""
    with contextlib.ExitStack() as stack:

        def start(*wanted, **changes):
            settings = {**options, **changes}
            return [
                stack.enter_context(Peer.wanting(settings, backend, **wants))
                for backend, wants in zip(("asyncio", "trio"), wanted, strict=True)
            ]

        yield start


def go(peers):
    """Let processes get what they want, once they are ready."""
    for peer in peers:
        peer.hear("ready")
    for peer in peers:
        peer.go()


def until_started(compiler, count):
    """Wait until that many compiles have been started, and are held."""
    deadline = time.monotonic() + 60
    while compiler.started < count:
        assert time.monotonic() < deadline, f"only {compiler.started} compiles are started"
        time.sleep(0.01)


def test_two_processes_that_warm_up_the_same_kernels_share_the_work(start, compiler):
    """Each key is compiled once, and each process compiles at least a quarter of them."""
    kernels = list(range(1, 201))

    peers = start({"warm": kernels}, {"warm": kernels})
    go(peers)
    answers = [peer.hear("answer") for peer in peers]

    shares = [answer["answer"] for answer in answers]
    assert compiler.started == sum(shares) == len(kernels)
    assert min(shares) >= len(kernels) // 4, shares


def test_latecomer_finds_kernels_that_are_not_yet_compiled(start, compiler):
    """One process wants everything and was first; another still gets its share of the work."""
    kernels, slots = list(range(1, 101)), 2
    compiler.hold()
    first, late = start({"awaited": kernels}, {"awaited": kernels}, compile_slots=slots)
    go([first])
    until_started(compiler, slots)

    go([late])
    until_started(compiler, 2 * slots)
    compiler.let_go()
    answers = [peer.hear("answer") for peer in (first, late)]

    shares = [answer["answer"] for answer in answers]
    assert compiler.started == sum(shares) == len(kernels)
    assert min(shares) >= len(kernels) // 4, shares
    permits = slots  # leases as well
    assert max(a["leases"] for a in answers) <= 2 * slots * CREDITS_PER_SLOT + permits


def test_opposite_orders_with_one_slot_and_one_permit_do_not_deadlock(start, compiler):
    """Each has leases that the other waits for, and both want the node's one permit."""
    forth, back = list(range(1, 31)), list(range(30, 0, -1))

    peers = start(
        {"warm": forth, "awaited": back},
        {"warm": back, "awaited": forth},
        compile_slots=1,
        node_compile_slots=1,
    )
    go(peers)
    answers = [peer.hear("answer") for peer in peers]

    assert [answer["failed"] for answer in answers] == [0, 0]
    assert compiler.started == len(forth)
