"""`ajit top` on a real terminal (tmux): four workers, whatever state they are in; and its ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ajit.cli import exits
from ajit.instrumentation import runtimes
from tests.runtime.processes import Peer
from tests.runtime.test_board import until
from tests.runtime.test_processes import all_ready, first_to_compile

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux (Debian: tmux)")

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 60.0


_TELL = """trap : INT; "$@"; echo "it has ended: $?"; exec sleep 600"""
"""Runs a command and shows its exit code. The trap: a key that interrupts is for the command."""


class Terminal:
    """A terminal of 80 columns in which `ajit top` runs.

    Args:
        folder: For its socket.
        command: What runs in it.
    """

    def __init__(self, folder: Path, *command: str) -> None:
        self._socket = folder / "tmux"
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        environ.pop("TMUX", None)
        (folder / "conf").write_text("set -g status off\n")
        size = ("-x", "80", "-y", "30")
        shell = ["sh", "-c", _TELL, "sh", *command]
        subprocess.run(
            [*self._tmux(), "-f", str(folder / "conf"), "new-session", "-d", *size, *shell],
            check=True,
            env=environ,
        )

    def process(self) -> psutil.Process:
        """The command's process. It runs."""
        [process] = psutil.Process(int(self._say("#{pane_pid}"))).children()
        return process

    def text(self) -> str:
        """What is shown now."""
        return self._ask("capture-pane", "-p")

    def until(self, *wanted: str) -> str:
        """Wait until all of this is shown at once, and return what is shown."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not all(text in (shown := self.text()) for text in wanted):
            assert time.monotonic() < deadline, f"{wanted} is not shown, but this:\n{shown}"
            time.sleep(0.1)
        return shown

    def press(self, key: str) -> None:
        """Press a key."""
        self._ask("send-keys", key)

    def end(self) -> int:
        """Wait until the command has ended, and all that it wrote is shown; return its exit code.

        tmux can tell that, too, but on a busy machine it was seen not to.
        """
        shown = self.until("it has ended: ")
        return int(shown.rpartition("it has ended: ")[2].split()[0])

    def is_second_screen(self) -> bool:
        """Whether the second screen is shown."""
        return self._say("#{alternate_on}") == "1"

    def vanish(self) -> None:
        """Be gone, as when a connection breaks."""
        os.kill(int(self._say("#{pid}")), signal.SIGKILL)

    def close(self) -> None:
        """End it."""
        subprocess.run([*self._tmux(), "kill-server"], check=False, capture_output=True)

    def _say(self, what: str) -> str:
        return self._ask("display-message", "-p", what).strip()

    def _ask(self, *words: str) -> str:
        command = [*self._tmux(), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def _tmux(self) -> list[str]:
        return ["tmux", "-u", "-S", str(self._socket)]


@pytest.fixture
def top(tmp_path, options):
    """Start `ajit top` in a terminal, on the test's cache and its boards."""
    place = tmp_path / "boards"
    place.mkdir()
    options["board"] = str(place)
    command = ["env", f"AJIT_BOARD={place}", sys.executable, "-m", "ajit", "top"]
    with contextlib.ExitStack() as stack:

        def start(*more: str) -> Terminal:
            where = ("--cache-dir", options["cache_dir"], "--interval", "0.3")
            terminal = Terminal(tmp_path, *command, *where, *more)
            stack.callback(terminal.close)
            return terminal

        yield start


def waits_for(pid: int, board: str) -> list[int]:
    """The processes that wait for another one while it compiles."""
    return [
        view.pid
        for view in runtimes(board=board)
        for wait in view.waits
        if (wait.pid, wait.phase) == (pid, "compiling")
    ]


def row_of(shown: str, pid: int) -> str:
    """The line of a process in the table of runtimes."""
    return next(line for line in shown.splitlines() if line.strip().startswith(f"{pid} "))


def test_four_workers_with_one_stopped_and_one_killed(top, options, compiler):
    """Who compiles, who waits for whom, who is stopped and who is dead; in 80 columns."""
    compiler.hold()
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(options, backend)) for backend in ("asyncio", "trio") * 2]
        all_ready(peers)
        holder, (waiter, stopped, killed) = first_to_compile(peers, compiler)
        until(lambda: len(waits_for(holder.pid, options["board"])) == 3)
        stopped.send(signal.SIGSTOP)
        stack.callback(stopped.send, signal.SIGCONT)
        killed.send(signal.SIGKILL)
        killed.wait()

        terminal = top()
        whom = f"pid {holder.pid}, compiling"
        shown = terminal.until("1 stopped", "1 dead", "compiling", "waiting", whom)
        second = terminal.is_second_screen()
        terminal.press("q")
        ended = terminal.end()
        after = terminal.text()
        compiler.let_go()
        stopped.send(signal.SIGCONT)
        answers = [peer.answer()["answer"] for peer in (holder, waiter, stopped)]

    assert "4 runtimes, 1 compiling, 2 waiting, 1 stopped, 1 dead" in shown
    assert "running" in row_of(shown, holder.pid)
    assert "running" in row_of(shown, waiter.pid)
    assert "stopped" in row_of(shown, stopped.pid)
    assert "dead" in row_of(shown, killed.pid)
    assert shown.count(whom) == 2
    assert max(map(len, shown.splitlines())) <= 80
    assert (second, ended) == (True, 0)
    assert "program.py" not in after
    assert sorted(answers) == ["compiled", "disk", "disk"]


def test_what_changes_is_shown(top, options):
    """A runtime that opens, and one that closes, while it is shown."""
    terminal = top()
    terminal.until("no open runtime")
    with Peer(options) as peer:
        peer.hear("ready")
        terminal.until(str(peer.pid), "running")
        peer.go()
        peer.answer()
        terminal.until("no open runtime")


@pytest.mark.parametrize("key", ["q", "C-c", "Escape"])
def test_key_ends_it_and_leaves_the_terminal_as_it_was(top, key):
    """With exit code 0, and nothing said."""
    terminal = top()
    terminal.until("no open runtime")
    terminal.press(key)

    assert terminal.end() == 0
    assert "no open runtime" not in terminal.text()
    assert "Traceback" not in terminal.text()


def test_sigterm_ends_it_after_the_terminal_is_as_it_was(top):
    """With the exit code that any command has then."""
    terminal = top()
    terminal.until("no open runtime")
    terminal.process().terminate()

    assert terminal.end() == exits.TERMINATED
    assert "Traceback" not in terminal.text()
    assert "no open runtime" not in terminal.text()


def test_it_ends_with_its_terminal(top):
    """And does not go on without one."""
    terminal = top()
    terminal.until("no open runtime")
    process = terminal.process()
    terminal.vanish()
    _, alive = psutil.wait_procs([process], timeout=WAIT_SECONDS)

    assert alive == []
