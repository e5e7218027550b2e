"""One rank of a server: opens a runtime and makes ready what a record lists, as its parent says.

Started with one argument, a JSON object: ``backend``, ``settings`` (of `open_runtime`), ``replay``
(arguments of `ajit.replay`). Writes one JSON object a line: ``{"ready": pid}``, waits for a line on
standard input, then every start of a compile as it happens, and ``{"answer": ...}`` or
``{"failure": ...}``; then it waits for the end of its input before it closes the runtime.
"""

from __future__ import annotations

import json
import os
import sys

import anyio
import anyio.to_thread

import ajit
from tests.runtime.program import say


def on_event(event: object) -> None:
    """Tell the parent of compiles and failures."""
    name = type(event).__name__
    if name in ("CompileStarted", "CompileFailed"):
        say(event=name, key=event.key)


async def main(order: dict) -> None:
    """Open, wait for the word, become ready, answer, wait for the end."""
    async with ajit.open_runtime(subscribers=[on_event], **order["settings"]) as runtime:
        say(ready=os.getpid())
        await anyio.to_thread.run_sync(sys.stdin.readline)
        replay = ajit.replay(**order["replay"])
        try:
            if order.get("only_warmup"):
                report = await runtime.warmup(replay)
            else:
                report = await ajit.ready(runtime, replay).wait()
        except ajit.RanksNotReady as exc:
            say(failure="RanksNotReady", missing=exc.missing, text=str(exc))
        else:
            say(
                answer={
                    "total": report.total,
                    "share": report.share,
                    "compiled": report.compiled,
                    "from_disk": report.from_disk,
                    "failures": [str(failure.error) for failure in report.failures],
                    "unresolved": [line.reason for line in report.unresolved],
                }
            )
        await anyio.to_thread.run_sync(sys.stdin.readline)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    backend, _, uvloop = given["backend"].partition("+")
    options = {"use_uvloop": True} if uvloop else {}
    anyio.run(main, given, backend=backend, backend_options=options)
