"""The test's end of the processes that `zygote_main` makes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["PROJECT", "Ended", "Process", "Zygote"]

PROJECT = Path(__file__).parents[2]
HEAR_SECONDS = 60.0
"""Far above what a line takes on a loaded machine: reaching it is a hang."""


class Ended(Exception):
    """The process has ended and will say no more."""


class Process:
    """One process, from `Zygote.process`. A context; it ends with the context.

    Attributes:
        pid: Process id.
        threads: Ids of its threads ``worker`` and ``helper``.
    """

    def __init__(self, path: Path) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(HEAR_SECONDS)
        self._connection.connect(str(path))
        self._lines = self._connection.makefile("r")
        first = self.hear()
        self.pid: int = first["pid"]
        self.threads: dict[str, int] = first["threads"]

    def say(self, **facts: Any) -> None:
        """Tell it something."""
        try:
            self._connection.sendall(json.dumps(facts).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise Ended from exc

    def hear(self) -> dict[str, Any]:
        """Return the next thing that it says.

        Raises:
            Ended: It has ended.
            TimeoutError: It says nothing: it hangs.
        """
        try:
            line = self._lines.readline()
        except ConnectionResetError as exc:
            raise Ended from exc
        if not line:
            raise Ended
        return dict(json.loads(line))

    def answer(self) -> dict[str, Any]:
        """Return what comes of the order: skips the news of waiting."""
        while (said := self.hear()).keys() == {"waiting"}:
            pass
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lines.close()
        self._connection.close()


class Zygote:
    """The program that makes processes. A context."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "zygote"
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote_main", str(self._path)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._program.stdout is not None
        if self._program.stdout.readline() != "ready\n":
            self._program.communicate()
            raise RuntimeError(f"the zygote ended with {self._program.returncode}")

    def process(self) -> Process:
        """Make a process."""
        return Process(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._program.communicate(timeout=HEAR_SECONDS)
