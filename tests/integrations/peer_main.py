"""A process that compiles one kernel of a peer, through ajit or alone, as its parent says.

One argument, a JSON object: ``peer``, ``case``, ``settings`` of a runtime, or null for a peer
alone, ``folder`` for the peer's own cache, ``backend``. It says ``ready`` when all is imported and
open, waits for a line, compiles in a thread, and answers: how often it compiled, for how long, and
after how many seconds it was told that another process compiles.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import anyio
import anyio.to_thread

import ajit
from ajit import events
from tests.integrations.peers import PEERS, digest
from tests.runtime.program import say

begun = 0.0
told: list[float] = []
said: set[str] = set()

FINGERPRINT = "triton.runtime.cache"
"""Not a kernel: the digest of Triton's library, which one process works out as well."""


def on_event(event: object) -> None:
    """Note when this process is told of another that compiles; tell the parent of the kernel's."""
    waits = isinstance(event, events.Waiting)
    if waits:
        told.append(time.monotonic() - begun)
    if not isinstance(event, events.Waiting | events.CompileStarted) or FINGERPRINT in event.name:
        return
    if not waits or "waits" not in said:
        said.add("waits" if waits else "starts")
        say(event=type(event).__name__, pid=event.holder.pid if waits and event.holder else 0)


def compile_one(peer: Any, case: str) -> dict[str, Any]:
    """Compile, and return the answer."""
    global begun  # noqa: PLW0603  # the events are read against it
    sys.stdin.readline()
    begun = time.monotonic()
    try:
        made = peer.compile(case)
    except Exception as exc:  # noqa: BLE001  # it is the answer
        answer = {"failure": type(exc).__name__, "text": str(exc)}
    else:
        answer = {"answer": digest(made)}
    seconds = time.monotonic() - begun
    return {
        **answer,
        "compiles": peer.compiles,
        "counts": peer.counts,
        "seconds": seconds,
        "told_seconds": told[0] if told else None,
    }


async def main(order: dict[str, Any]) -> None:
    """Open, wait for the word, compile, answer."""
    peer = await anyio.to_thread.run_sync(PEERS[order["peer"]], order["folder"])
    if order["settings"] is None:
        with await anyio.to_thread.run_sync(peer.install, None):
            say(ready=os.getpid())
            say(**await anyio.to_thread.run_sync(compile_one, peer, order["case"]))
        return
    async with ajit.open_runtime(subscribers=[on_event], **order["settings"]) as runtime:
        with await anyio.to_thread.run_sync(peer.install, runtime):
            say(ready=os.getpid())
            say(**await anyio.to_thread.run_sync(compile_one, peer, order["case"]))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    anyio.run(main, given, backend=given["backend"])
