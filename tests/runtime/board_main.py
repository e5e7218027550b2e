"""A process with open runtimes, which does what its parent says, a word a line (see test_board.py).

Started with a JSON object: ``backend``, ``settings`` (of `open_runtime`) and ``count`` of runtimes.
Writes ``ready``; then for each word: ``block`` blocks the event loop until the next line, ``end``
closes. Each is answered by ``done``.
"""

from __future__ import annotations

import contextlib
import json
import sys

import anyio
import anyio.to_thread

import ajit


def say(word: str) -> None:
    """Write one line to the parent."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def main(order: dict) -> None:
    """Open, and obey."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(order["count"]):
            await stack.enter_async_context(ajit.open_runtime(**order["settings"]))
        say("ready")
        word = ""
        while word != "end":
            word = (await anyio.to_thread.run_sync(sys.stdin.readline)).strip()
            if word == "block":
                say("done")
                sys.stdin.readline()
            say("done")


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    anyio.run(main, given, backend=given["backend"])
