"""The server's process: started in a group of its own, stopped, and never left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["MARK", "ServerFailed", "ServerProcess", "run_server"]

ROOT = Path(__file__).resolve().parents[3]
MARK = "MODEL_SERVER_DEMO"
"""A variable in the environment of everything the demo starts, so that leftovers can be found."""
START_SECONDS = 30.0
STOP_SECONDS = 30.0


class ServerFailed(RuntimeError):
    """The server did not start, or did not stop by itself. It is not running any more."""


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server that is listening.

    Attributes:
        url: Where.
        log: The file with what it printed on standard error.
    """

    url: str
    log: Path


@asynccontextmanager
async def run_server(folder: Path, workers: int) -> AsyncIterator[ServerProcess]:
    """Run the server in the body; afterwards it is gone, with every process that it started.

    Args:
        folder: Where its cache, its temporary files and its log are put.
        workers: How many worker processes.

    Raises:
        ServerFailed: It did not start, with the end of its log; or it had to be killed.
    """
    log = folder / "server.log"
    command = [sys.executable, "-m", "examples.model_server.serve"]
    command += ["--port", "0", "--workers", str(workers)]
    with log.open("ab") as errors:
        process = await anyio.open_process(
            command,
            cwd=ROOT,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # so that killing takes workers and compilers along
        )
    try:
        yield ServerProcess(await _announced_url(process, log), log)
        await _stop(process, log)
    finally:
        with anyio.CancelScope(shield=True):
            await _kill(process)


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        MARK: str(folder),
        "AJIT_CACHE_DIR": str(folder / "cache"),
        "TMPDIR": str(folder / "tmp"),
        "PYTHONUNBUFFERED": "1",
    }


async def _announced_url(process: anyio.abc.Process, log: Path) -> str:
    """Read the line with which the server says where it listens."""
    line = b""
    with anyio.move_on_after(START_SECONDS), suppress(anyio.EndOfStream):
        while not line.endswith(b"\n"):
            line += await process.stdout.receive()
    match = re.search(r"http://\S+", line.decode(errors="replace"))
    if match is None:
        raise ServerFailed(f"the server did not start; its log ends with:\n{_tail(log)}")
    return match.group()


async def _stop(process: anyio.abc.Process, log: Path) -> None:
    """Ask it to end, as a service manager would."""
    process.send_signal(signal.SIGTERM)
    with anyio.move_on_after(STOP_SECONDS):
        await process.wait()
    if process.returncode is None:
        raise ServerFailed(f"the server did not stop in {STOP_SECONDS:.0f} s:\n{_tail(log)}")


async def _kill(process: anyio.abc.Process) -> None:
    """End the whole group, if the server has not ended by itself."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.aclose()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:]) or "(nothing)"
