"""The program that runs a compiler for a launcher, and ends it when the launcher ends.

Run as ``python -I -S runner.py``; imports nothing of ajit. It is in a process group of its own, and
its compiler in another, so that no signal to the launcher's group ends either by accident. The
launcher holds the other end of a pipe: when that closes, by SIGKILL as well, the compiler's whole
group is ended and the private directory removed.

Written to another pipe: the group's number, then the wait status, 8 bytes each.

Arguments: the descriptor of the launcher's pipe, that of the answers, the private directory, how
many variables follow, these, then the compiler and its arguments.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes as long as the rest
    from collections.abc import Callable

__all__ = ["main"]

POLITE_SECONDS = 1.0
"""How long a compiler may take to remove what it has begun to write."""

LOOK_SECONDS = 0.02
"""How often an end is looked for where there is no pidfd."""


def main(arguments: list[str]) -> int:
    """Run the compiler; return 0."""
    control, answers, folder, count, *rest = arguments
    variables, command = rest[: int(count)], rest[int(count) :]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    # Not in this process's own environment: what it reads itself is not the compiler's.
    environment = {**os.environ, **dict(pair.split("=", 1) for pair in variables)}
    child = _start(command, environment, (int(control), int(answers)))
    _leave_streams()
    _answer(int(answers), child)
    status = _wait(child, int(control))
    if status is None:
        _end(child)
        _remove(folder)
    else:
        _answer(int(answers), status)
    return 0


def _start(command: list[str], environment: dict[str, str], ours: tuple[int, ...]) -> int:
    child = os.fork()
    if child:
        try:
            os.setpgid(child, child)
        except OSError:
            pass  # it has done that itself
        return child
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        for fd in ours:
            os.close(fd)
        os.execve(command[0], command, environment)
    except OSError as exc:
        os.write(2, f"{command[0]}: {exc.strerror}\n".encode(errors="surrogateescape"))
    os._exit(127)


def _leave_streams() -> None:
    """Hold no pipe that a build system reads to its end."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)


def _wait(child: int, control: int) -> int | None:
    """Wait for the compiler; return None if the launcher has ended first."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    try:
        ended = os.pidfd_open(child)
        poll.register(ended, select.POLLIN)
    except OSError:
        ended = -1
    while True:
        ready = {fd for fd, _ in poll.poll(None if ended >= 0 else LOOK_SECONDS * 1000)}
        if control in ready:
            return None
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status


def _answer(fd: int, number: int) -> None:
    try:
        os.write(fd, number.to_bytes(8, "little"))
    except OSError:
        pass  # the launcher has ended: the other pipe says so as well


def _end(child: int) -> None:
    _signal(child, signal.SIGTERM)
    deadline = time.monotonic() + POLITE_SECONDS
    while time.monotonic() < deadline:
        done, _ = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(LOOK_SECONDS)
    # Whatever is left of the group: members that ignore SIGTERM, or were orphaned.
    _signal(child, signal.SIGKILL)


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except OSError:
        pass


def _remove(folder: str) -> None:
    for place, folders, files in os.walk(folder, topdown=False):
        for name in files:
            _try(os.unlink, os.path.join(place, name))
        for name in folders:
            _try(os.rmdir, os.path.join(place, name))
    _try(os.rmdir, folder)


def _try(call: Callable[[str], None], path: str) -> None:
    try:
        call(path)
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
