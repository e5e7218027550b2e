"""The demo's processes: a service and engines, killed on purpose, and none of them left running."""

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

from examples.model_server.demonstration.process import MARK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import Process

__all__ = ["Failed", "Running", "run_engine", "run_service"]

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 90.0
"""For a start on a busy machine: the first engine compiles the kernels. Arbitrary."""
STOP_SECONDS = 20.0


class Failed(RuntimeError):
    """A process did not start, ended by itself, or did not stop. It is not running any more."""


@dataclass(frozen=True, slots=True)
class Running:
    """A process that has started.

    Attributes:
        name: Of it, for messages.
        process: It.
        said: What it said when it was ready: where it listens.
    """

    name: str
    process: Process
    said: str

    async def kill(self) -> None:
        """End it at once, as a machine that is out of memory does."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def run_service(folder: Path, limit: str) -> AsyncIterator[Running]:
    """Run ``ajit kv serve`` in the body; it is gone afterwards.

    Raises:
        Failed: It did not start, or stop.
    """
    command = ["ajit", "kv", "serve", "--socket", str(folder / "kv.sock"), "--limit", limit]
    async with _run("service", command, folder, r"serving up to .* on (\S+)") as running:
        yield running


@asynccontextmanager
async def run_engine(folder: Path, name: str) -> AsyncIterator[Running]:
    """Run an engine in the body; it is gone afterwards. Its ``said`` is its URL.

    Raises:
        Failed: It did not start, or stop.
    """
    command = [
        *("uvicorn", "examples.kv_engine.server:app", "--port", "0"),
        *("--no-access-log", "--no-use-colors", "--timeout-graceful-shutdown", "10"),
    ]
    async with _run(f"engine {name}", command, folder, r"running on (http://\S+)") as running:
        yield running


@asynccontextmanager
async def _run(name: str, command: list[str], folder: Path, ready: str) -> AsyncIterator[Running]:
    log = folder / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        process = await anyio.open_process(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C is the demo's; killing takes compilers along
        )
    try:
        yield Running(name, process, await _said(name, process, log, ready))
        await _stop(name, process, log)
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        MARK: str(folder),
        "AJIT_CACHE_DIR": str(folder / "cache"),
        "KV_ENGINE_SOCKET": str(folder / "kv.sock"),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(folder / "tmp"),
    }


async def _said(name: str, process: Process, log: Path, ready: str) -> str:
    """Wait for the line of the log in which a process says where it listens."""
    with anyio.move_on_after(START_SECONDS):
        while process.returncode is None:
            text = await anyio.Path(log).read_text(errors="replace")
            if match := re.search(ready, text):
                return match.group(1)
            await anyio.sleep(0.05)
    raise Failed(f"{name} did not start; its log ends with:\n{_tail(log)}")


async def _stop(name: str, process: Process, log: Path) -> None:
    """Ask it to end, as a service manager would; one that was killed has ended."""
    if process.returncode is not None:
        if process.returncode != -signal.SIGKILL:
            raise Failed(f"{name} has ended by itself; its log ends with:\n{_tail(log)}")
        return
    process.terminate()
    with anyio.move_on_after(STOP_SECONDS):
        await process.wait()
    if process.returncode is None:
        raise Failed(f"{name} did not stop in {STOP_SECONDS:.0f} s:\n{_tail(log)}")


async def _end(process: Process) -> None:
    """End the whole group, if it still runs: the demo was broken off, or it hangs."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
            with anyio.move_on_after(STOP_SECONDS / 4):
                await process.wait()
            os.killpg(process.pid, signal.SIGKILL)
    await process.aclose()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:]) or "(nothing)"
