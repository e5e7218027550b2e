"""System calls of a thread: seen, and made to fail, by ``strace``."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["FILE_CALLS", "KILL", "Call", "Strace", "read_calls", "why_impossible"]

FILE_CALLS = "%file,%desc"
"""Every call with a file name or a descriptor; those on the cache are picked from the trace."""

KILL = "SIGKILL"

END_SECONDS = 60.0

_CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*?)(?:\)\s+= (?P<result>.*)|<unfinished.*)?$")
_WHAT_TO_DO = re.compile(r"\b(?:O_[A-Z_|]+|F_(?!WRLCK|RDLCK|UNLCK)[A-Z_]+)")
"""Flags of an open, command of a fcntl; of a lock that is asked for the answer does not count."""

_WITH_DATA = {"read", "write", "pread64", "pwrite64", "readv", "writev", "getdents64"}


@dataclass(frozen=True, slots=True)
class Call:
    """One line of a trace.

    Attributes:
        name: The system call.
        ordinal: The how manyeth call of that name in its thread, from 1.
        target: The files that it is about, and what it is to do with them, without what is random
            or differs between runs (numbers of descriptors, bytes).
        result: Its result, as ``strace`` writes it; "" if it did not return.
    """

    name: str
    ordinal: int
    target: str
    result: str

    @property
    def injected(self) -> bool:
        """Whether ``strace`` made it fail, or it was the call on whose entry the process died."""
        return "(INJECTED)" in self.result or self.result in ("", "?")

    def __str__(self) -> str:
        return f"{self.name} #{self.ordinal} ({self.target})"


def read_calls(lines: list[str], masks: dict[str, str]) -> list[Call]:
    """Read the trace of one thread.

    Args:
        lines: What ``strace -y`` wrote.
        masks: Regular expressions of names that differ between runs, and what stands for them.
    """
    calls: list[Call] = []
    counts: dict[str, int] = {}
    for line in lines:
        found = _CALL.match(line)
        if found is None:  # a signal, the end
            continue
        name = found["name"]
        counts[name] = counts.get(name, 0) + 1
        target = _target(name, found["arguments"])
        for pattern, mask in masks.items():
            target = re.sub(pattern, mask, target)
        calls.append(Call(name, counts[name], target, (found["result"] or "").strip()))
    return calls


def _target(name: str, arguments: str) -> str:
    files = re.findall(r"\d+<([^>]*)>", arguments)
    names = [] if name in _WITH_DATA else re.findall(r'"([^"]*)"', arguments)
    return " ".join([*files, *filter(None, names), *_WHAT_TO_DO.findall(arguments)])


class Strace:
    """Traces one thread of a running process, and makes one of its calls fail. A context.

    Args:
        thread: Its id.
        output: The file for the trace.
        calls: Which system calls are traced.
        inject: What else is done to them, in the words of ``strace -e inject=``; "" for nothing.
    """

    def __init__(self, thread: int, output: Path, calls: str, inject: str = "") -> None:
        self.output = output
        command = ["strace", "-y", "-s", "512", "-o", str(output), "-e", f"trace={calls}"]
        if inject:
            command += ["-e", f"inject={inject}"]
        # Not -f: the thread that is named, and no other, so that its calls can be counted.
        self._program = subprocess.Popen(
            [*command, "-p", str(thread)], stderr=subprocess.PIPE, text=True
        )
        assert self._program.stderr is not None
        self.said = self._program.stderr.readline()
        if "attached" not in self.said:
            self.end()
            raise OSError(self.said.strip())

    def end(self) -> None:
        """Wait until the thread has ended and everything is written."""
        self._program.communicate(timeout=END_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._program.poll() is None:
            self._program.terminate()  # it detaches
        self.end()


@functools.cache
def why_impossible() -> str:
    """Say why nothing can be traced here, or "" if it can: asked by doing it."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    # A child that waits for its input, traced by another child: as the tests do it.
    waiting = [sys.executable, "-I", "-S", "-c", _WAIT]
    with subprocess.Popen(
        waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()
        try:
            with Strace(program.pid, Path("/dev/null"), "close", "close:error=EIO:when=60000"):
                pass
        except OSError as exc:
            return f"strace cannot trace a process here: {exc}"
        finally:
            assert program.stdin is not None
            program.stdin.close()
    return ""


_WAIT = """
import ctypes, sys
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER: anybody
print("ready", flush=True)
sys.stdin.read()
"""
