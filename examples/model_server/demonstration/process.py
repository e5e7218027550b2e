"""The server's process: started in its own process group, stopped, and never left running."""

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

    from anyio.abc import Process

__all__ = ["MARK", "Server", "ServerFailed", "log_tail", "run_server"]

ROOT = Path(__file__).resolve().parents[3]
MARK = "MODEL_SERVER_DEMO"
"""A variable in the environment of everything the demo starts, so that leftovers can be found."""
LOG = "server.log"
START_SECONDS = 30.0
STOP_SECONDS = 30.0
END_SECONDS = 5.0
"""How long a server may take to end in good order when the demo is broken off."""


class ServerFailed(RuntimeError):
    """The server did not start, or did not stop by itself. It is not running any more."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that listens at `url`."""

    url: str
    process: Process

    @property
    def ended(self) -> bool:
        """Whether it has ended, which it should not do by itself."""
        return self.process.returncode is not None


@asynccontextmanager
async def run_server(folder: Path, workers: int) -> AsyncIterator[Server]:
    """Run the server in the body; afterwards it is gone, and its children too.

    Args:
        folder: Where its cache, its temporary files and its log are put.
        workers: How many worker processes.

    Raises:
        ServerFailed: It did not start or stop, or the body ran into a `TimeoutError`: with the
            end of its log.
    """
    with (folder / LOG).open("wb") as output:
        process = await anyio.open_process(
            _command(workers),
            cwd=ROOT,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that killing takes workers and compilers along
        )
    try:
        yield Server(await _url(process, folder), process)
        await _stop(process, folder)
    except TimeoutError as exc:
        raise ServerFailed(f"{exc}; the server's log ends with:\n{log_tail(folder)}") from exc
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


def _command(workers: int) -> list[str]:
    return [
        *(sys.executable, "-m", "uvicorn", "examples.model_server.app:app"),
        *("--workers", str(workers), "--port", "0", "--no-access-log", "--no-use-colors"),
        # Clients keep their connections, and with them their worker.
        *("--timeout-keep-alive", "120"),
        # A worker that is told to stop lets the requests finish that it has, for this long.
        *("--timeout-graceful-shutdown", "20"),
    ]


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        MARK: str(folder),
        "AJIT_CACHE_DIR": str(folder / "cache"),
        "TMPDIR": str(folder / "tmp"),
    }


async def _url(process: Process, folder: Path) -> str:
    """Wait for the line of the log in which uvicorn says where it listens."""
    with anyio.move_on_after(START_SECONDS):
        while process.returncode is None:
            text = await anyio.Path(folder / LOG).read_text(errors="replace")
            if match := re.search(r"running on (http://\S+)", text):
                return match.group(1)
            await anyio.sleep(0.05)
    raise ServerFailed(f"the server did not start; its log ends with:\n{log_tail(folder)}")


async def _stop(process: Process, folder: Path) -> None:
    """Ask it to end, as a service manager would."""
    process.send_signal(signal.SIGTERM)
    with anyio.move_on_after(STOP_SECONDS):
        await process.wait()
    if process.returncode is None:
        raise ServerFailed(f"the server did not stop in {STOP_SECONDS:.0f} s:\n{log_tail(folder)}")


async def _end(process: Process) -> None:
    """End the whole group, if the server still runs: the demo was broken off, or it hangs."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
            with anyio.move_on_after(END_SECONDS):
                await process.wait()
            os.killpg(process.pid, signal.SIGKILL)
    await process.aclose()


def log_tail(folder: Path) -> str:
    """The last lines of the server's log."""
    log = folder / LOG
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:]) or "(nothing)"
