"""The command line as a user runs it: in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[2]
LIMIT_SECONDS = 100


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON object on standard output."""
        return json.loads(self.out)


FAILING = """
import sys
from ajit._cache.entries import bundles, collector, history_reader, last_lines
from ajit.cli.main import run
from ajit.testing import FakeFileSystem

with FakeFileSystem(sys.argv[1]) as system:
    system.fail(sys.argv[2])
    sys.exit(run(sys.argv[3:]))
"""
"""Runs a command while one call fails with EIO below a directory. Modules come before the fault."""


class CommandLine:
    """Runs `ajit` with a cache and an environment of this test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache_dir = folder / "cache"
        self._started: list[subprocess.Popen[str]] = []
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("AJIT_")}
        path = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environ |= {
            "AJIT_CACHE_DIR": str(self.cache_dir),
            "AJIT_CONFIG_FILE": "",
            "PYTHONPATH": os.pathsep.join(path),
        }

    def start(
        self, *args: object, through: tuple[str, ...] = (), **environ: str
    ) -> subprocess.Popen[str]:
        """Start a command in the test's folder, perhaps through another program."""
        process = subprocess.Popen(
            [*through, sys.executable, "-m", "ajit", *map(str, args)],
            cwd=self.folder,
            env=self.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def while_failing(self, call: str, path: Path, *args: str) -> Ended:
        """Run a command to its end, while a call of ``os`` fails with EIO below a directory."""
        ended = subprocess.run(
            [sys.executable, "-c", FAILING, str(path), call, *args],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def close(self) -> None:
        """Kill what a failing test left running."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def end(self, process: subprocess.Popen[str]) -> Ended:
        """Wait for a command's end."""
        try:
            out, err = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"the command did not end; it said: {out}{err}")
        return Ended(process.returncode, out, err)

    def __call__(self, *args: object, through: tuple[str, ...] = (), **environ: str) -> Ended:
        """Run a command to its end."""
        return self.end(self.start(*args, through=through, **environ))


@pytest.fixture
def ajit(tmp_path: Path) -> Iterator[CommandLine]:
    """Run `ajit` commands on an empty cache."""
    command_line = CommandLine(tmp_path)
    yield command_line
    command_line.close()
