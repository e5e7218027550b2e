"""What the server left behind: processes, held locks, temporary files. There should be none."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from examples.model_server.demonstration.process import MARK

__all__ = ["find_leftovers"]

GRACE_SECONDS = 2.0
"""Killed processes may take a moment to be reaped by init. Pretty arbitrary."""


def find_leftovers(folder: Path) -> list[str]:
    """Look for what a stopped server should have taken along.

    Args:
        folder: The folder that `run_server` was given.

    Returns:
        A line for each process, held lock and temporary file.
    """
    return [*_processes(folder), *_held_locks(folder / "cache"), *_temporary_files(folder)]


def _processes(folder: Path) -> list[str]:
    """Processes that carry the demo's mark in their environment, wherever they moved to."""
    mark = f"{MARK}={folder}".encode()
    deadline = time.monotonic() + GRACE_SECONDS
    while (found := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [f"process {pid} is still running: {command}" for pid, command in found]


def _marked(mark: bytes) -> list[tuple[int, str]]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found.append((int(entry.name), command))
        except OSError:
            continue  # it ended meanwhile, or belongs to another user
    return found


def _held_locks(cache: Path) -> list[str]:
    """Lock files that a process still locks: the files may stay, the locks may not."""
    return [f"{path.name} is still locked" for path in cache.rglob("*.lock") if _is_held(path)]


def _is_held(path: Path) -> bool:
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _temporary_files(folder: Path) -> list[str]:
    """Anything in TMPDIR, and in the cache what belongs to none of the kinds of files that stay."""
    # CACHEDIR.TAG marks the directory as a cache.
    kept, cache = {".ajit", ".lock", ".waiting", ".TAG"}, folder / "cache"
    paths = [path for path in cache.rglob("*") if path.suffix not in kept]
    # Reading lists, digests of headers, and the history of compiles.
    stays = (cache / "reads", cache / "digests", cache / "history")
    paths = [path for path in paths if not any(place in path.parents for place in stays)]
    paths += (folder / "tmp").rglob("*")
    return [
        f"temporary file {os.path.relpath(path, folder)}"
        for path in paths
        if path.is_file() or path.is_symlink()
    ]
