"""Other processes, each with its own runtime, started and read by a test (see ``program.py``)."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.runtime.sources import ARCH, SAXPY_SOURCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["PROJECT", "Peer"]

PROJECT = Path(__file__).parents[2]
HEAR_SECONDS = 60.0

Line = dict[str, Any]


class Peer:
    """One other process. A context: a process still running at its end is killed.

    Attributes:
        lines: What it has said so far and was heard.
        hear_seconds: How long what is waited for may take.
    """

    hear_seconds = HEAR_SECONDS

    def __init__(
        self, settings: dict[str, Any], backend: str = "asyncio", source: str = SAXPY_SOURCE
    ) -> None:
        spec = {"source": source, "entries": "saxpy", "name": "saxpy"}
        order = {"backend": backend, "settings": settings, "spec": spec, "arch": ARCH}
        self._start("tests.runtime.program", order)

    @classmethod
    def wanting(
        cls,
        settings: dict[str, Any],
        backend: str,
        warm: Iterable[int] = (),
        awaited: Iterable[int] = (),
    ) -> Self:
        """Start a process that wants many variants of saxpy (see ``many_main.py``)."""
        peer = cls.__new__(cls)
        order = {"backend": backend, "settings": settings, "warm": [*warm], "awaited": [*awaited]}
        peer._start("tests.runtime.many_main", order)
        return peer

    @classmethod
    def building(cls, settings: dict[str, Any], backend: str, build: Any) -> Self:
        """Start a process that asks for a build (see ``build_main.py``)."""
        peer = cls.__new__(cls)
        run = build.run
        order = {"backend": backend, "settings": settings, "argv": run.argv, "env": dict(run.env)}
        peer._start("tests.runtime.build_main", {**order, "outputs": build.outputs})
        return peer

    def _start(self, module: str, order: dict[str, Any]) -> None:
        self.lines: list[Line] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(order)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._said: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def hear(self, what: str | Callable[[Line], bool]) -> Line:
        """Return the next line that has a word, or that a function accepts."""
        deadline = time.monotonic() + self.hear_seconds
        wanted = what if callable(what) else lambda line: what in line
        while True:
            try:
                line = self._said.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"{what} was not said; heard {self.lines}") from None
            if line is None:
                raise EOFError(f"{what} was not said; heard {self.lines}")
            self.lines.append(line)
            if wanted(line):
                return line

    def hear_event(self, name: str) -> Line:
        """Return the next event of a kind."""
        return self.hear(lambda line: line.get("event") == name)

    def go(self) -> None:
        """Let it resolve."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def answer(self) -> Line:
        """Return what it ends with: a line with ``answer`` or with ``failure``."""
        return self.hear(lambda line: "answer" in line or "failure" in line)

    def events(self, name: str) -> list[Line]:
        """Return the events of a kind among the lines heard."""
        return [line for line in self.lines if line.get("event") == name]

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for its end and return its exit code."""
        return self._process.wait(HEAR_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None and self.lines and not self._said_last():
            self._process.kill()
        self._process.communicate()
        self._listener.join()

    def _said_last(self) -> bool:
        return "answer" in self.lines[-1] or "failure" in self.lines[-1]

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(json.loads(line))
        self._said.put(None)
