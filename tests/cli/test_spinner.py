"""What a terminal shows of a compile that takes longer than a moment."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time

from ajit.testing import FakeCompiler

SOURCE = 'extern "C" __global__ void k(int* x) { *x = 1; }\n'
LIMIT_SECONDS = 60.0
COMPILING = re.compile(rb"compiling with [^\r\n]*: \d+ s")


class AtTerminal:
    """`ajit compile` whose standard error is a terminal, with a compiler that waits."""

    def __init__(self, tmp_path, *arguments: str) -> None:
        self.compiler = FakeCompiler(tmp_path / "compiler", tmp_path / "answers")
        self.compiler.hold()
        source = tmp_path / "k.cu"
        source.write_text(SOURCE)
        command = [sys.executable, "-m", "ajit", "compile", source, "--entry", "k"]
        command += ["--arch", os.uname().machine, "--compiler", "host", *arguments]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("AJIT_")} | {
            "AJIT_CACHE_DIR": str(tmp_path / "cache"),
            "AJIT_HOST_COMPILER": str(self.compiler.path),
            "TERM": "xterm",
        }
        self._terminal, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=theirs, stdin=subprocess.DEVNULL
        )
        os.close(theirs)
        self.shown = b""

    def await_text(self, pattern: re.Pattern[bytes]) -> None:
        """Read what the terminal shows until it has a text."""
        by = time.monotonic() + LIMIT_SECONDS
        while not pattern.search(self.shown):
            assert time.monotonic() < by, self.shown
            self._read()

    def end(self) -> bytes:
        """Let the compiler go, read on to the end, and return standard output."""
        self.compiler.let_go()
        while self._read():
            pass
        out, _ = self.process.communicate(timeout=LIMIT_SECONDS)
        os.close(self._terminal)
        return out

    def _read(self) -> bool:
        try:
            more = os.read(self._terminal, 4096)
        except OSError:  # the other side has closed it
            more = b""
        self.shown += more
        return bool(more)


def test_terminal_says_what_goes_on_and_for_how_long(tmp_path):
    """While a compiler works; afterwards the line is gone, and standard output has the result."""
    command = AtTerminal(tmp_path)
    command.await_text(COMPILING)

    out = command.end()

    assert command.process.returncode == 0, command.shown
    assert b"compiled, in" in out
    assert not COMPILING.search(out)
    last = command.shown.rpartition(b"compiling with")[2]
    assert b"\x1b[2K" in last, "the line is erased"
    assert b"\x1b[?25h" in last, "and the cursor shown again"


def test_json_is_not_disturbed(tmp_path):
    """A program reads it: no line on the terminal either."""
    command = AtTerminal(tmp_path, "--json")

    out = command.end()

    assert command.process.returncode == 0, command.shown
    assert out.startswith(b"{")
    assert not command.shown
