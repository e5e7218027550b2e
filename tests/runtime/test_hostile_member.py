"""A member of the group without the secret can cost the others their patience, and no more."""

from __future__ import annotations

import contextlib

import pytest

from tests.cache.helpers import poll
from tests.runtime.processes import Peer

PATIENCE_SECONDS = 2.0
"""More than from one beat to the next, or the liveliest holder would seem silent."""

SECRET = "a secret that the fleet shares"  # noqa: S105  # of this test


@pytest.fixture
def start(options):
    """Start processes on the cache; all of them have ended when the test has."""
    with contextlib.ExitStack() as stack:
        yield lambda backend, **changes: stack.enter_context(
            Peer({**options, "node_compile_slots": 1, **changes}, backend)
        )


def begin(peer):
    """Let it resolve."""
    peer.hear("ready")
    peer.go()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_lively_holder_without_the_secret_costs_patience(start, compiler, backend):
    """It holds the lease and the machine's only permit, and beats: a compile that never ends."""
    compiler.hold()
    hostile = start("asyncio")
    begin(hostile)
    hostile.hear_event("CompileStarted")
    served = start(backend, hmac_key=SECRET, patience_seconds=PATIENCE_SECONDS)
    begin(served)
    ended = served.hear_event("WaitEnded")
    poll(lambda: compiler.started == 2)
    compiler.let_go()
    answer = served.answer()

    assert ended["outcome"] == "patience"
    assert ended["waited_seconds"] >= PATIENCE_SECONDS
    assert answer["answer"] == "compiled"
    assert all(event.get("holder") is None for event in served.events("Waiting"))
    assert hostile.answer()["answer"] == "compiled"


def test_a_lively_holder_with_the_secret_is_waited_for(start, compiler):
    """For as long as it takes: its beats are believed, and what it published is used."""
    compiler.hold()
    holder = start("asyncio", hmac_key=SECRET)
    begin(holder)
    holder.hear_event("CompileStarted")
    waiter = start("trio", hmac_key=SECRET, patience_seconds=PATIENCE_SECONDS)
    begin(waiter)
    waiter.hear(lambda line: line.get("waited_seconds", 0) > 2 * PATIENCE_SECONDS)
    compiler.let_go()

    assert (holder.answer()["answer"], waiter.answer()["answer"]) == ("compiled", "disk")
    assert compiler.started == 1
    assert waiter.events("Waiting")[-1]["holder"]["pid"] == holder.pid
