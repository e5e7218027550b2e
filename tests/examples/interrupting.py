"""A user who presses Ctrl-C, and presses it again."""

from __future__ import annotations

import contextlib
import signal
import subprocess

PAUSE_SECONDS = 0.05


def interrupt_until_ended(process: subprocess.Popen[str]) -> None:
    """Send SIGINT until a process has ended; what it writes meanwhile has to fit into a pipe."""
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PAUSE_SECONDS)
