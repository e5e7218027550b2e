"""The model server under uvicorn, ended while a request compiles: what is left of it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from examples.model_server import wire
from tests.compile.gates import GatedCompiler
from tests.compile.support import group_members, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
GRACE_SECONDS = 1
"""How long uvicorn waits for requests: the one here would never be answered."""


class ServerUnderTest:
    """uvicorn with the example, whose compiler begins and never ends."""

    def __init__(self, folder: Path) -> None:
        self.gate = GatedCompiler(folder)
        self.cache_dir, self.scratch = folder / "cache", folder / "scratch"
        self.scratch.mkdir()
        self._log = folder / "log"
        command = [sys.executable, "-m", "uvicorn", "examples.model_server.app:app"]
        command += ["--host", "127.0.0.1", "--port", "0"]
        command += ["--timeout-graceful-shutdown", str(GRACE_SECONDS)]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("AJIT_")} | {
            "AJIT_DEVICE": "cpu",
            "AJIT_CACHE_DIR": str(self.cache_dir),
            "AJIT_HOST_COMPILER": self.gate.compiler,
            "AJIT_COMPILE_SLOTS": "1",  # so that no other worker is just about to begin
            "TMPDIR": str(self.scratch),
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=log, stdout=log)
        wait_until(lambda: self._port() != 0, "the server")
        self.connection = socket.create_connection(("127.0.0.1", self._port()))

    def ask(self) -> set[int]:
        """Ask for what needs kernels; return the process groups of the compilers at work."""
        body, headers = wire.encode(np.ones((1, 8), "float32"))
        lines = [f"{name}: {value}" for name, value in headers.items()]
        lines += ["host: 127.0.0.1", f"content-length: {len(body)}"]
        head = "\r\n".join(["POST /v1/infer?features=8 HTTP/1.1", *lines, "", ""])
        self.connection.sendall(head.encode() + bytes(body))
        wait_until(lambda: bool(self.gate.pids()), "a compiler at work")
        return {os.getpgid(pid) for pid in self.gate.pids()}

    def end(self) -> None:
        """Whatever the test did: no process stays."""
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def _port(self) -> int:
        found = re.search(r"running on http://127\.0\.0\.1:(\d+)", self._log.read_text())
        return int(found[1]) if found else 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerUnderTest]:
    """A server that serves."""
    server = ServerUnderTest(tmp_path)
    yield server
    server.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_ended_server_leaves_no_compiler_no_lock_and_no_file(
    server: ServerUnderTest, number: signal.Signals
) -> None:
    """Told to end it closes its runtime; killed, the kernel and the workers do what is left."""
    groups = server.ask()
    held = _locks_of(server.cache_dir)
    os.kill(server.process.pid, number)
    server.process.wait(timeout=60)

    for group in groups:
        wait_until(lambda group=group: not group_members(group), "the end of the compilers")
    wait_until(lambda: not list(server.scratch.iterdir()), "the removal of the private folders")
    assert held
    assert _locks_of(server.cache_dir) == []
    assert list((server.cache_dir / "tmp").iterdir()) == []


def _locks_of(cache_dir: Path) -> list[str]:
    """Lines of the kernel's lock table about files of a cache."""
    inodes = {str(path.stat().st_ino) for path in cache_dir.rglob("*.lock")}
    lines = Path("/proc/locks").read_text().splitlines()
    return [line for line in lines if line.split()[-3].rpartition(":")[2] in inodes]
