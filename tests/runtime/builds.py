"""Builds under a test's control: shell commands that count themselves and wait at a gate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

import ajit

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ScriptedBuild"]

LIMIT_SECONDS = 60.0

# The gate is looked for by a path of the kernel's, which is no read of the build.
_BEGIN = """
echo $$ >> "$STARTED"
while [ -e "/proc/self/root$GATE" ]; do sleep 0.01; done
"""


class ScriptedBuild:
    """A build whose runs are counted, and held when the test says so.

    Args:
        folder: Where its switches are; to be made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._gate = folder / "gate"
        self._started = folder / "started"

    def build(
        self,
        script: str = "echo made > out.txt",
        outputs: Iterable[str] = ("out.txt",),
        **more: Any,
    ) -> ajit.Build:
        """Return the build that runs a shell script."""
        env = {"STARTED": str(self._started), "GATE": str(self._gate), **more.pop("env", {})}
        files = more.pop("files", {})
        command = ajit.Command(["sh", "-e", "-c", _BEGIN + script], env=env, files=files)
        return ajit.Build("scripted", command, outputs, **more)

    @property
    def pids(self) -> list[int]:
        """The shells that have been started, by any process."""
        return [int(pid) for pid in self._started.read_text().split()] if self.started else []

    @property
    def started(self) -> int:
        """How many runs have been started, by any process."""
        return len(self._started.read_text().split()) if self._started.exists() else 0

    def hold(self) -> None:
        """Let runs from now on wait for `let_go`."""
        self._gate.touch()

    def let_go(self) -> None:
        """Let all go on."""
        self._gate.unlink()

    async def wait_started(self, count: int = 1) -> None:
        """Wait until that many runs have been started."""
        with anyio.fail_after(LIMIT_SECONDS):
            while self.started < count:  # noqa: ASYNC110  # it is another process that counts
                await anyio.sleep(0.005)

    def until_started(self, count: int = 1) -> None:
        """The same, for tests without a loop."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while self.started < count:
            assert time.monotonic() < deadline, f"only {self.started} runs are started"
            time.sleep(0.01)


def write_text(text: str) -> None:
    """A function that a build may call."""
    Path("out").write_text(text)
