"""The disk of a chaos run: a FUSE file system that hangs now and then, with the cache on it.

Its server is stopped and let go on. A thread lets it go on, since everything that touches the cache
meanwhile waits for that, the program that does the faults included.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

from benchmarks.chaos_journal import Journal
from tests.fuse.mounts import Mount, why_no_fuse

__all__ = ["Disk", "why_no_disk"]

HANG_SECONDS = (0.3, 6.0)
"""Shorter than the patience, and longer."""

why_no_disk = why_no_fuse


class Disk:
    """A mounted file system that hangs on demand. A context that leaves nothing mounted.

    Args:
        place: A directory of its own.

    Attributes:
        path: Where it is mounted.
    """

    def __init__(self, place: Path) -> None:
        self._mount = Mount(place)
        self.path = self._mount.path
        self._timer: threading.Timer | None = None

    def hang(self, journal: Journal, rng: random.Random) -> bool:
        """Stop answering for a while; false if it does not answer already."""
        if self._timer is not None and self._timer.is_alive():
            return False
        begun = time.monotonic()
        self._mount.stop()
        journal.note("disk_hung", begun=begun)
        self._timer = threading.Timer(rng.uniform(*HANG_SECONDS), self._go_on, (journal,))
        self._timer.start()
        return True

    def settle(self) -> None:
        """Wait until it answers."""
        if self._timer is not None:
            self._timer.join()

    def close(self) -> None:
        """Unmount it."""
        self.settle()
        self._mount.close()

    def _go_on(self, journal: Journal) -> None:
        self._mount.go_on()
        journal.note("disk_back")
