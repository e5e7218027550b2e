"""One start of the server, seen from outside: when it was ready, and how long each answer took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from examples.zero_jit.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from anyio.abc import Process

__all__ = ["Answer", "ServerFailed", "Start", "environment_of", "run_command", "run_server"]

ROOT = Path(__file__).resolve().parents[2]
LOG = "server.log"
MOST_LINE_BYTES = 1 << 20
LIMIT_SECONDS = 1800.0
"""For one answer: a module of FlashInfer takes minutes on a small machine."""
END_SECONDS = 30.0


class ServerFailed(RuntimeError):
    """The server ended by itself, or said something that is no answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        request: What was asked for.
        seconds: How long it took.
        says: What it says.
    """

    request: Mapping[str, Any]
    seconds: float
    says: Mapping[str, Any]


@dataclass(slots=True)
class Start:
    """What one start came to.

    Attributes:
        ready_seconds: From the start of the process until it was ready.
        ready: What it said then.
        answers: In order.
        end: What it said at its end.
    """

    ready_seconds: float
    ready: Mapping[str, Any]
    answers: list[Answer] = field(default_factory=list)
    end: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all_seconds(self) -> float:
        """From the start of the process until everything had been answered once."""
        return self.ready_seconds + sum(answer.seconds for answer in self.answers)

    @property
    def slowest(self) -> Answer:
        """The answer that took longest."""
        return max(self.answers, key=lambda answer: answer.seconds)


class Server:
    """A running server."""

    def __init__(self, process: Process, log: Path) -> None:
        self._process, self._log = process, log
        assert process.stdout is not None  # it is a pipe
        self._lines = BufferedByteReceiveStream(process.stdout)

    async def ask(self, request: Mapping[str, Any]) -> Answer:
        """Send a request, and wait for its answer."""
        assert self._process.stdin is not None  # it is a pipe
        begun = perf_counter()
        await self._process.stdin.send(json.dumps(request).encode() + b"\n")
        says = await self.said("answer")
        return Answer(request, perf_counter() - begun, says)

    async def said(self, word: str) -> Mapping[str, Any]:
        """Wait until it says something of one kind.

        Raises:
            ServerFailed: It has ended, or takes too long.
        """
        try:
            with anyio.fail_after(LIMIT_SECONDS):
                while True:
                    line = await self._lines.receive_until(b"\n", MOST_LINE_BYTES)
                    if line.startswith(b"{") and word in (said := json.loads(line)):
                        found: Mapping[str, Any] = said[word]
                        return found
        except (anyio.EndOfStream, anyio.IncompleteRead, TimeoutError) as exc:
            raise ServerFailed(f"no {word}; the server's log ends with:\n{self._tail()}") from exc

    async def stop(self) -> Mapping[str, Any]:
        """Close its input, and wait for its last word and its end."""
        assert self._process.stdin is not None  # it is a pipe
        await self._process.stdin.aclose()
        end = await self.said("end")
        with anyio.fail_after(END_SECONDS):
            await self._process.wait()
        return end

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])


@asynccontextmanager
async def run_server(
    home: Path, shared: Path, peers: Sequence[str], *, record: Path, replay: Path | None = None
) -> AsyncIterator[tuple[Server, Start]]:
    """Start the server in a home, wait until it is ready, and end it after the body.

    Args:
        home: Where caches of ajit and of the peers are.
        shared: For files that belong to the machine and not to a home.
        peers: Whose kernels it uses.
        record: Where it writes down what it uses.
        replay: What it makes ready first.

    Raises:
        ServerFailed: See there.
    """
    order = {"record": str(record), "replay": str(replay or ""), "peers": list(peers)}
    begun = perf_counter()
    with (home / LOG).open("wb") as log:
        process = await anyio.open_process(
            [sys.executable, "-m", "examples.zero_jit.server", json.dumps(order)],
            cwd=ROOT,
            env=environment_of(home, shared, peers),
            stderr=log,
        )
    try:
        server = Server(process, home / LOG)
        says = await server.said("ready")
        start = Start(perf_counter() - begun, says)
        yield server, start
        start.end = await server.stop()
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()


def environment_of(home: Path, shared: Path, peers: Sequence[str] = ()) -> dict[str, str]:
    """Return the environment of a user whose home this is, and who has set nothing of ajit."""
    own = ("AJIT_", "XDG_", "TRITON_", "FLASHINFER_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    (home / "tmp").mkdir(exist_ok=True, parents=True)
    for name in peers:
        environ |= PEERS[name].environment(shared)
    return environ | {"HOME": str(home), "TMPDIR": str(home / "tmp")}


async def run_command(home: Path, shared: Path, *arguments: object) -> dict[str, Any]:
    """Run an `ajit` command in a home; return its JSON.

    Raises:
        ServerFailed: It has failed.
    """
    command = [sys.executable, "-m", "ajit", *map(str, arguments), "--json"]
    ended = await anyio.run_process(
        command, cwd=ROOT, env=environment_of(home, shared), check=False, stderr=subprocess.PIPE
    )
    if ended.returncode:
        raise ServerFailed(f"ajit {arguments[0]} {arguments[1]}: {ended.stderr.decode()}")
    said: dict[str, Any] = json.loads(ended.stdout)
    return said
