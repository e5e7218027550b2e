"""``ajit dash`` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import psutil

from tests.runtime.processes import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Served"]

END_SECONDS = 60.0


class Served:
    """A server over a cache. A context; at its end it is told to end, and must."""

    def __init__(self, cache_dir: Path | str, boards: Path | str, *options: str) -> None:
        environ = {name: value for name, value in os.environ.items() if name[:5] != "AJIT_"}
        self._command = [sys.executable, "-m", "ajit", "dash", "--json"]
        self._command += ["--cache-dir", str(cache_dir), *options]
        self._environ = environ | {"AJIT_BOARD": str(boards)}
        self.url = ""
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Start it; once more where it was."""
        port = self.url.rpartition(":")[2].strip("/") or "0"
        self._process = subprocess.Popen(
            [*self._command, "--port", port],
            cwd=PROJECT,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = self._first_object()["url"]

    def connections(self) -> int:
        """How many connections it has."""
        assert self._process is not None
        found = psutil.Process(self._process.pid).net_connections("tcp")
        return sum(one.status != psutil.CONN_LISTEN for one in found)

    def _first_object(self) -> Any:
        text = ""
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text += line
            if line.startswith("}"):
                return json.loads(text)
        raise AssertionError(f"it did not start: {text}{self._process.communicate()}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return the exit code and standard error."""
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(number)
        try:
            _, err = process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return process.returncode, err

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.end(signal.SIGKILL)
