"""A process that opens a runtime and resolves one spec, as its parent says, line by line.

Started with one argument, a JSON object: ``backend``, ``settings`` (of `open_runtime`), ``spec``
(of `Spec`), ``arch``. Writes one JSON object a line: ``{"ready": pid}``, then waits for a line
on standard input, then every event as it happens, and ``{"answer": ...}`` or ``{"failure": ...}``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys

import anyio
import anyio.to_thread

import ajit


def say(**facts: object) -> None:
    """Write one line to the parent."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def on_event(event: object) -> None:
    """Tell the parent about an event."""
    say(event=type(event).__name__, **dataclasses.asdict(event))


async def main(order: dict) -> None:
    """Open, wait for the word, resolve, answer."""
    spec = ajit.Spec(**order["spec"])
    async with ajit.open_runtime(subscribers=[on_event], **order["settings"]) as runtime:
        say(ready=os.getpid())
        await anyio.to_thread.run_sync(sys.stdin.readline)
        try:
            resolution = await runtime.resolve(spec, arch=order["arch"])
        except ajit.AjitError as exc:
            say(failure=type(exc).__name__, text=str(exc), log=getattr(exc, "log", ""))
            return
        waited = resolution.waited_for
        say(
            answer=resolution.tier,
            key=resolution.artifact.key,
            waited_for=dataclasses.asdict(waited) if waited else None,
            pool=dataclasses.asdict(runtime.statistics().pool),
        )


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    anyio.run(main, given, backend=given["backend"])
