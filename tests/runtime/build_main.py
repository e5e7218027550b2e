"""A process that opens a runtime and asks for one build, as its parent says, line by line.

As ``program.py``: one argument, a JSON object with ``backend``, ``settings``, ``argv``, ``env`` and
``outputs``. The answer has the view, the text of its first file, and how many bytes this process
had in memory at most.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import anyio
import anyio.to_thread

import ajit
from tests.runtime.program import on_event, say


def peak_kib() -> int:
    """The most memory that this process had; what `getrusage` says of that passes ``exec``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise LookupError("VmHWM")


async def main(order: dict) -> None:
    """Open, wait for the word, build, answer."""
    command = ajit.Command(order["argv"], env=order["env"])
    build = ajit.Build("scripted", command, order["outputs"])
    async with ajit.open_runtime(subscribers=[on_event], **order["settings"]) as runtime:
        say(ready=os.getpid())
        await anyio.to_thread.run_sync(sys.stdin.readline)
        before = peak_kib()
        try:
            bundle = await runtime.build(build)
        except ajit.AjitError as exc:
            say(failure=type(exc).__name__, text=str(exc), log=getattr(exc, "log", ""))
            return
        folder = await bundle.materialize()
        waited = bundle.waited_for
        say(
            answer=bundle.tier,
            key=bundle.key,
            folder=str(folder),
            head=(folder / bundle.files[0].path).open("rb").read(64).hex(),
            waited_for=dataclasses.asdict(waited) if waited else None,
            grown_kib=peak_kib() - before,
        )


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    anyio.run(main, given, backend=given["backend"])
