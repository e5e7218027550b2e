"""The boards of this machine: what each runtime does, read without asking it.

A board is read with one call and never mapped: who maps a file that is cut at that moment ends. The
folder is this user's alone, and yet nothing is believed that does not verify.

Whose process is gone says its board's name. It is shown as dead for a minute after its last beat,
and then removed by who looks next. That cannot hit a live one: no process comes back under its id,
start time and boot. Of another boot is what was there before a restart, or what a container writes
that has a boot id of its own: such a board is removed once its file has not changed for a minute.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ajit._runtime.board_form import BOARD_BYTES, read_post
from ajit._runtime.board_places import (
    boot_digest,
    cache_digest,
    folders_of,
    open_folder,
    parse_name,
)
from ajit._system.process import is_gone, is_stopped, this_process
from ajit._system.setting_fields import absolute_directory
from ajit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._runtime.board_form import Post, RuntimeState, RuntimeView
    from ajit._runtime.board_places import BoardName

__all__ = ["runtimes", "sweep"]

LATE_SECONDS = 2.0
"""Without a beat for so long, a loop is late: four beats. Pretty arbitrary."""

DEAD_SECONDS = 60.0
"""For how long after its last beat a dead runtime is shown."""

UNKNOWN_SECONDS = 3600.0
"""Likewise for one in another container, of whose process nothing is known."""

ANSWER_SECONDS = 2.0
"""For so long a cache's path is looked at for links. Boards are read where a cache hangs, too."""

MOST_BOARDS = 4096
"""Looked at in one folder."""

LOOKS = 5
"""How often a board is read that is not whole, because it is just being written."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def runtimes(
    cache_dir: str | os.PathLike[str] | None = None, *, board: str | None = None
) -> list[RuntimeView]:
    """Return what each open runtime of this machine and user does, by its board.

    It asks no runtime, so it tells of those that are blocked or stopped as well, and for a minute
    of those that were killed. It reads files of memory, and blocks for some milliseconds: in an
    event loop, call it in a thread.

    Args:
        cache_dir: Only of runtimes that use this cache directory, by any path; None: all.
        board: Where boards are, as the setting of that name; None reads it from the environment.

    Raises:
        SettingsError: A setting in the environment cannot be used; only if ``board`` is None.

    Returns:
        One for each runtime, those of one process together, the oldest process first.
    """
    setting = Settings().board if board is None else os.fspath(board)
    wanted = None if cache_dir is None else _digest_of(str(absolute_directory(cache_dir)))
    views = [
        view
        for folder in _folders(setting)
        for name in _names(folder)
        if (whose := parse_name(name)) is not None
        and wanted in (None, whose.cache)
        and (view := _look(folder, name, whose)) is not None
    ]
    return sorted(views, key=lambda view: (view.start_ticks, view.pid, view.number))


def sweep(setting: str) -> None:
    """Remove boards of runtimes that are gone for a while. Never fails; blocks."""
    for folder in _folders(setting):
        for name in _names(folder):
            whose = parse_name(name)
            if whose is not None and (whose.boot != boot_digest() or _is_gone(whose)):
                _look(folder, name, whose)


def _digest_of(path: str) -> str:
    """The digest of a cache; of the path as it is where its file system does not answer."""
    found: queue.SimpleQueue[str] = queue.SimpleQueue()
    look = threading.Thread(
        target=lambda: found.put(os.path.realpath(path)), name="ajit-boards", daemon=True
    )
    try:
        look.start()
        return cache_digest(found.get(timeout=ANSWER_SECONDS))
    except (RuntimeError, queue.Empty):  # no thread can be started, or the file system hangs
        return cache_digest(path)


def _folders(setting: str) -> Iterator[int]:
    for path in dict.fromkeys(folders_of(setting)):
        with suppress(OSError, ValueError):
            fd = open_folder(path, make=False)
            try:
                yield fd
            finally:
                os.close(fd)


def _names(folder: int) -> list[str]:
    names: list[str] = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) >= MOST_BOARDS:
                break
    return names


def _look(folder: int, name: str, whose: BoardName) -> RuntimeView | None:
    """Read a board, and remove it if it is of no use any more."""
    post = None if name.startswith(".") else _read(folder, name)
    if whose.boot != boot_digest():
        silent = _unchanged_seconds(folder, name)
        gone = silent >= DEAD_SECONDS
    else:
        silent = DEAD_SECONDS
        if post is not None:
            silent = max(0.0, (time.monotonic_ns() - post.monotonic_ns) / 1e9)
        gone = _is_gone(whose)
    state = _state(whose, gone=gone, silent_seconds=silent)
    most = DEAD_SECONDS if gone else UNKNOWN_SECONDS
    if state in ("dead", "unknown") and silent >= most:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)
        return None
    if post is None:
        return None
    return replace(
        post.view,
        state=state,
        silent_seconds=silent,
        # The name is what was looked at.
        pid=whose.pid,
        namespace=whose.namespace,
        start_ticks=whose.start_ticks,
        number=whose.number,
    )


def _read(folder: int, name: str) -> Post | None:
    for _ in range(LOOKS):
        try:
            fd = os.open(name, _READ, dir_fd=folder)
        except OSError:
            return None
        try:
            post = read_post(os.pread(fd, BOARD_BYTES, 0))
        except OSError:  # it is a folder, or what not
            return None
        finally:
            os.close(fd)
        if post is not None:
            return post
    return None


def _unchanged_seconds(folder: int, name: str) -> float:
    """For how long a file has not been written; each beat is a write."""
    try:
        changed = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
    except OSError:
        return 0.0  # it is removed already
    return abs(time.time() - changed)  # a time to come is of a clock that was set back


def _is_here(whose: BoardName) -> bool:
    """Whether its process id is one of this boot and namespace."""
    return (whose.boot, whose.namespace) == (boot_digest(), this_process().namespace)


def _is_gone(whose: BoardName) -> bool:
    return _is_here(whose) and is_gone(whose.pid, whose.start_ticks)


def _state(whose: BoardName, *, gone: bool, silent_seconds: float) -> RuntimeState:
    if gone:
        return "dead"
    here = _is_here(whose)
    if here and is_stopped(whose.pid):
        return "stopped"
    if silent_seconds < LATE_SECONDS:
        return "running"
    return "late" if here else "unknown"
