"""A folder to build in, its own cache, and a launcher that is run as build systems run it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

GXX = shutil.which("g++") or ""
NVCC = shutil.which("nvcc") or ""

needs_gxx = pytest.mark.skipif(not GXX, reason="no g++ on PATH")
needs_nvcc = pytest.mark.skipif(not NVCC, reason="no nvcc on PATH")

LAUNCH = (sys.executable, "-m", "ajit", "cc", "--")

SECONDS = 100
"""Far above the slowest compile here."""

_NOISE = ("AJIT_", "CCACHE_", "NVCC_", "GCC_", "LC_")
_VARIABLES = ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "SOURCE_DATE_EPOCH", "LIBRARY_PATH")


@dataclass(frozen=True)
class Result:
    """All that a compile leaves: exit code, both texts, and its files with their modes."""

    code: int
    out: str
    err: str
    files: dict[str, tuple[int, bytes]]


class Build:
    """A project, and a launcher with a cache of its own.

    Attributes:
        folder: Where it is built.
        cache: The cache directory.
        env: The environment of every command.
        forgets: Whether memos are removed before each command, so that it has to look up.
    """

    def __init__(self, folder: Path, cache: Path, *, forgets: bool = False) -> None:
        self.folder, self.cache, self.forgets = folder, cache, forgets
        folder.mkdir(parents=True, exist_ok=True)
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_NOISE) and name not in _VARIABLES
        }
        self.env |= {"AJIT_CACHE_DIR": str(cache), "PWD": str(folder)}
        self._counted: dict[str, int] = {}
        self._started: list[subprocess.Popen[str]] = []

    def write(self, name: str, text: str) -> Path:
        """Write a file of the project, and its directories."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, *command: str, **env: str) -> Result:
        """Run a command through the launcher."""
        if self.forgets:
            self.forget()
        return self._run([*LAUNCH, *command], env)

    def run_plain(self, *command: str, **env: str) -> Result:
        """Run it without."""
        return self._run(list(command), env)

    def start(self, *command: str, **env: str) -> subprocess.Popen[str]:
        """Start a command through the launcher, in a process group of its own."""
        process = subprocess.Popen(
            [*LAUNCH, *command],
            cwd=self.folder,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """Kill what a failed test has left; its compilers end with it."""
        for process in self._started:
            process.kill()
            process.communicate()

    def counted(self) -> dict[str, int]:
        """Return what was counted since the last call, what did not change left out."""
        from ajit._launcher.tally import totals

        now = totals(str(self.cache))
        new = {what: number - self._counted.get(what, 0) for what, number in now.items()}
        self._counted = now
        return {what: number for what, number in new.items() if number}

    def forget(self) -> None:
        """Remove all memos."""
        for path in (self.cache / "launcher").glob("*"):
            if path.is_dir():
                shutil.rmtree(path)

    def check(self, *command: str, **env: str) -> dict[str, int]:
        """Run a command through the launcher and without; both must leave the same.

        Returns:
            What the launcher counted.
        """
        actual = self.run(*command, **env)
        self._remove(actual)
        expected = self.run_plain(*command, **env)
        self._remove(expected)

        assert expected == actual
        return self.counted()

    def _run(self, command: list[str], env: dict[str, str]) -> Result:
        before = self._files()
        ran = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        after = self._files()
        made = {name: value for name, value in after.items() if before.get(name) != value}
        return Result(ran.returncode, ran.stdout, ran.stderr, made)

    def _remove(self, result: Result) -> None:
        for name in result.files:
            (self.folder / name).unlink()

    def _files(self) -> dict[str, tuple[int, bytes]]:
        return {
            str(path.relative_to(self.folder)): (path.stat().st_mode, path.read_bytes())
            for path in self.folder.rglob("*")
            if path.is_file()
        }
