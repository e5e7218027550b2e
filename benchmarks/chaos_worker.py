"""One server of the chaos run: asks for kernels, gives up, closes, opens again, until told to end.

``python -m benchmarks.chaos_worker ORDER``, where ORDER is a JSON object made by
`benchmarks.chaos`. It ends when its standard input does. Whatever happens to it is in its journal.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import random
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

import ajit
from ajit._core.events import Event
from benchmarks.chaos_journal import Journal
from benchmarks.chaos_kernels import is_rejected, spec_of

CLIENTS = 3
LIFE_SECONDS = (3.0, 12.0)
"""How long a runtime lives before it is closed and opened again."""
CANCEL_SHARE = 0.2
CANCEL_SECONDS = 0.8
PAUSE_SECONDS = 0.15
SETTLE_SECONDS = 15.0
"""How long descriptors may take to be closed: a thread that waits for a lock ends with the wait."""

Order = dict[str, Any]


class Worker:
    """The clients of one process, which share one runtime after another."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._rng = random.Random(order["seed"])  # noqa: S311 - chaos, not secrets
        self._journal = Journal(Path(order["journals"]))
        self._ending = anyio.Event()
        self._numbers = count()
        self._kernels = order["kernels"]
        headers = Path(order["headers"])
        self._specs = [spec_of(number, self._kernels, headers) for number in range(self._kernels)]

    async def run(self) -> None:
        """Serve until standard input ends, then close in good order."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen)
            await self._live()
            # What the first runtime has left open is what a process may keep: imports, the loop.
            allowed = await _settled(0, seconds=0.5)
            while not self._ending.is_set():
                await self._live()
        self._journal.note("ended", descriptors=await _settled(allowed), allowed=allowed)

    async def _listen(self) -> None:
        await anyio.to_thread.run_sync(sys.stdin.read)
        self._ending.set()

    async def _live(self) -> None:
        """Open a runtime, let the clients ask, and close it: gently, or while they still ask."""
        end = time.monotonic() + self._rng.uniform(*LIFE_SECONDS)
        gently = self._rng.random() < 0.5
        async with ajit.open_runtime(
            subscribers=[self._on_event], **self._order["settings"]
        ) as runtime:
            async with anyio.create_task_group() as group:
                for _ in range(CLIENTS):
                    group.start_soon(self._ask, runtime, end)
                while time.monotonic() < end and not self._ending.is_set():
                    await anyio.sleep(0.05)
                if not gently and not self._ending.is_set():
                    group.cancel_scope.cancel()
            self._journal.note("closing")
        self._journal.note("closed")

    async def _ask(self, runtime: ajit.Runtime, end: float) -> None:
        while time.monotonic() < end and not self._ending.is_set():
            await self._request(runtime, self._rng.randrange(self._kernels))
            await anyio.sleep(self._rng.random() * PAUSE_SECONDS)

    async def _request(self, runtime: ajit.Runtime, number: int) -> None:
        identity = next(self._numbers)
        gives_up = self._rng.random() < CANCEL_SHARE
        limit = self._rng.random() * CANCEL_SECONDS if gives_up else None
        self._journal.note("asked", request=identity, kernel=number)
        answer: dict[str, Any] = {"outcome": "cancelled"}
        try:
            with anyio.move_on_after(limit):
                answer = await self._answer(runtime, number)
        finally:
            self._journal.note("answered", request=identity, kernel=number, **answer)

    async def _answer(self, runtime: ajit.Runtime, number: int) -> dict[str, Any]:
        """Ask, and return how it ended, and for which contents of its headers the artifact is."""
        try:
            resolution = await runtime.resolve(self._specs[number], arch=self._order["arch"])
        except ajit.CompileError as exc:
            rejected = is_rejected(number, self._kernels)
            return {"outcome": "rejected" if rejected else f"failed: {exc}"}
        except ajit.AjitError as exc:
            return {"outcome": f"error: {type(exc).__name__}: {exc}"}
        digest = hashlib.sha256(resolution.artifact.data).hexdigest()
        right = self._order["digests"].get(str(number), {})
        if digest not in right:
            return {"outcome": "wrong"}
        return {
            "outcome": resolution.tier,
            "state": right[digest],
            "key": resolution.artifact.key,
        }

    def _on_event(self, event: Event) -> None:
        facts = dataclasses.asdict(event)
        self._journal.note(type(event).__name__, **facts)


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1


async def _settled(allowed: int, seconds: float = SETTLE_SECONDS) -> int:
    deadline = time.monotonic() + seconds
    while True:
        gc.collect()
        found = _descriptors()
        if found <= allowed or time.monotonic() > deadline:
            return found
        await anyio.sleep(0.05)


async def main(order: Order) -> None:
    """Run one server."""
    await Worker(order).run()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    anyio.run(main, given, backend=given["backend"])
