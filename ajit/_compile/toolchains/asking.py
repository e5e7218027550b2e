"""Compilers are asked what they are: run for a moment, in a process group of their own.

A compiler on a slow disk, or a wrapper that waits for a license, may take its time. `Questions`
belongs to a runtime, and closing it ends all that it has asked, for no answer is needed any more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import suppress

from ajit._compile.toolchains.environment import compiler_environment
from ajit._system.scarce import limit_of

__all__ = ["Questions"]

ASK_SECONDS = 60.0
"""How long a compiler may take to say its version: the first start from a network disk is slow."""

FIRST_SIGNAL_STATUS = 128
"""Above it, a shell's exit code is that of a process which a signal has ended."""

TRIES = 2
"""One that was killed by a signal is asked again: so memory that ran out for a moment, of which the
kernel ends a process, does not mean that there is no compiler."""


class Questions:
    """Asks compilers. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for a few instructions only
        self._asked: set[int] = set()
        self._closed = False

    def ask(self, command: list[str]) -> str | None:
        """Return what a compiler says about itself. Blocks.

        None: it cannot be run, has failed, did not answer in time, or this was closed.

        Raises:
            LimitReached: This process may start no more of them; the compiler may well be there.
        """
        for _ in range(TRIES):
            try:
                text, status = self._answer(command)
            except (OSError, subprocess.TimeoutExpired) as exc:
                if limit := limit_of(exc):
                    raise limit from exc
                return None
            if status == "0":
                return text.strip()
            if not _is_signal(status):
                return None
        return None

    def close(self) -> None:
        """End what was asked, and ask no more. Does not wait; any thread may call it."""
        with self._lock:
            self._closed = True
            for group in self._asked:
                _kill(group)

    def _answer(self, command: list[str]) -> tuple[str, str]:
        """What it printed, and its exit code."""
        if signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN:
            return self._run(command)
        text, _, status = self._run([*_SAYS_STATUS, *command])[0].rpartition("\n")
        return text, status

    def _run(self, command: list[str]) -> tuple[str, str]:
        if self._closed:
            return "", ""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=compiler_environment(),
            process_group=0,
        )
        with process:
            try:
                self._began(process.pid)
                output, _ = process.communicate(timeout=ASK_SECONDS)
            except BaseException:
                # Also what the compiler has started: it may hold the pipe, and is waited for.
                _kill(process.pid)
                raise
            finally:
                with self._lock:
                    self._asked.discard(process.pid)
        return output.decode(errors="replace").strip(), str(process.returncode)

    def _began(self, group: int) -> None:
        with self._lock:
            self._asked.add(group)
            if self._closed:  # while it was started
                _kill(group)


def _is_signal(status: str) -> bool:
    """Whether it is that of a process which a signal has ended, as Python or a shell says it."""
    with suppress(ValueError):
        return int(status) < 0 or int(status) > FIRST_SIGNAL_STATUS
    return False


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


_SAYS_STATUS = ("env", "--default-signal=CHLD", "sh", "-c", '"$@"; s=$?; echo; echo $s', "sh")
"""In a process that ignores SIGCHLD the kernel drops exit codes of children; a shell prints this
one. Its last line is then no 0 where `env` or the shell itself cannot be run."""
