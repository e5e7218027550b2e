"""Touches: the modification times of entries say which ones are in use.

The time of the last access does not help: most file systems are mounted ``relatime`` or
``noatime``. So a found entry is touched, at most once an hour, by a background thread. These times
only decide what is evicted. A touch that fails, or that comes too late because the process ends,
costs at worst a compile.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ajit._cache.files import fs
from ajit._system.threads import DaemonThreads

if TYPE_CHECKING:
    from ajit._cache.files.directory import CacheDirectory

__all__ = ["TOUCH_SECONDS", "Touches"]

TOUCH_SECONDS = 3600.0
"""How old a time must be to be renewed. Pretty arbitrary: eviction does not care about an hour."""

_threads = DaemonThreads("ajit-touch")


class Touches:
    """The touches of one store. Any thread may use it."""

    def __init__(self, directory: CacheDirectory) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        # A dictionary is an ordered set: an entry that is read twice is touched once.
        self._names: dict[str, None] = {}
        self._working = False

    def note(self, name: str, modified: float) -> None:
        """Note that a file is in use. Does no I/O; may start a thread.

        Args:
            name: Relative name.
            modified: Unix time of its last modification, by the file system's clock.
        """
        # In both directions: if the file system's clock is ahead, the time would never be renewed.
        if abs(time.time() - modified) < TOUCH_SECONDS or self._directory.access != "writable":
            return
        with self._lock:
            self._names[name] = None
            start, self._working = not self._working, True
        if start:
            try:
                _threads.run(self._work)
            except RuntimeError:  # no more threads: the next read tries again
                self._working = False

    def _next(self) -> str | None:
        with self._lock:
            name = next(iter(self._names), None)
            self._working = name is not None
            if name is not None:
                del self._names[name]
            return name

    def _work(self) -> None:
        while (name := self._next()) is not None:
            # The file server's clock, not ours: both times that eviction compares come from there.
            try:
                fs.touch_file(self._directory, name)
            except OSError as exc:
                self._directory.troubles.note("touch", exc)
