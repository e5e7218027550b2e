"""Counts of what launchers did: lines of a file that every run appends to.

One file for each machine, since only there appending is one step. A line is a number, a space and
what is counted: ``1 hit``, ``1 passed through: not a compile``. `totals` adds them up and, where
there are many, writes the sums in their place: it renames the file first, so that one process does
that. What is lost when a process is killed there is a count.
"""

from __future__ import annotations

import os

__all__ = ["node_name", "reset", "tally", "totals"]

MOST_BYTES = 256 * 1024
"""Above it the sums are written. Pretty arbitrary."""

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def node_name() -> str:
    """Return what this machine's files are called: its name, and what makes it differ from others.

    Without the latter, containers of one name would share what ``stat`` said of their files.
    """
    try:
        mounts = os.stat("/proc/self/ns/mnt").st_ino
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read(8)
    except OSError:
        mounts, boot = 0, "unknown"
    host = "".join(c if c.isalnum() else "-" for c in os.uname().nodename)[:64]
    return f"{host}-{boot}-{mounts:x}"


def tally(cache: str, what: str, number: int = 1) -> None:
    """Count something. Never fails, and never makes the cache."""
    try:
        fd = os.open(_path(cache), _APPEND, 0o600)
    except OSError:
        return
    try:
        os.write(fd, f"{number} {what}\n".encode())
    except OSError:
        pass
    finally:
        os.close(fd)


def totals(cache: str) -> dict[str, int]:
    """Return the counts of all machines. Blocks.

    Raises:
        OSError: They cannot be read.
    """
    sums: dict[str, int] = {}
    for name in _files(cache):
        with open(
            os.path.join(cache, "launcher", name), encoding="utf-8", errors="replace"
        ) as file:
            _add(sums, file.read())
    return sums


def compact(cache: str) -> None:
    """Write this machine's sums in the place of its lines, if there are many. Never fails."""
    path = _path(cache)
    try:
        if os.stat(path).st_size < MOST_BYTES:
            return
        old = f"{path}.{os.getpid()}"
        os.rename(path, old)
        with open(old, encoding="utf-8", errors="replace") as file:
            sums: dict[str, int] = {}
            _add(sums, file.read())
        for what, number in sums.items():
            tally(cache, what, number)
        os.unlink(old)
    except OSError:
        return


def reset(cache: str) -> None:
    """Forget all counts. Blocks.

    Raises:
        OSError: They cannot be removed.
    """
    for name in _files(cache):
        os.unlink(os.path.join(cache, "launcher", name))


def _add(sums: dict[str, int], text: str) -> None:
    for line in text.splitlines():
        number, _, what = line.partition(" ")
        if number.isdigit() and what:
            sums[what] = sums.get(what, 0) + int(number)


def _files(cache: str) -> list[str]:
    try:
        return [name for name in os.listdir(os.path.join(cache, "launcher")) if ".tally" in name]
    except FileNotFoundError:
        return []


def _path(cache: str) -> str:
    return os.path.join(cache, "launcher", f"{os.uname().nodename}.tally")
