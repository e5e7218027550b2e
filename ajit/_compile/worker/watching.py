"""Watching: what compilers ask for that are linked statically and so ignore the recorder.

The kernel tells a thread of this process each system call by which such a program finds or opens a
file; ``watch.c`` of the recorder's library has the rules. The thread lives as long as the program,
and runs no Python.

Not every machine allows it: an old kernel, a container's profile, gVisor. So a worker proves it
before the first such program runs: a program that does not exist is started, watched, and the look
for it has to be among the records.
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable, Iterator

__all__ = ["Watcher", "can_watch", "is_static", "use_watcher", "watched"]

_ELF = struct.Struct("<4sBB26xQ14xHH")
"""Magic, class, byte order, where the program headers lie, their size and number; 64 bits."""
_CLASS_64, _LITTLE_ENDIAN, _PT_INTERP = 2, 1, 3


class Watcher:
    """Watches the programs of one worker. Used by its main thread.

    Args:
        library: The recorder.
        descriptor: Where records go.
        saw: Whether a path that ends so is among the records.
    """

    def __init__(self, library: ctypes.CDLL, descriptor: int, saw: Callable[[str], bool]) -> None:
        self._library = library
        self._descriptor = descriptor
        self._saw = saw
        self._allowed: bool | None = None
        self._lost = 0

    def begin(self) -> None:
        """Forget what was lost in the last job."""
        self._lost = 0

    @property
    def lost(self) -> int:
        """How many calls of this job's programs could not be recorded."""
        return self._lost

    def is_allowed(self) -> bool:
        """Whether programs can be watched on this machine."""
        if self._allowed is None:
            self._allowed = self._prove()
        return self._allowed

    @contextlib.contextmanager
    def program(self) -> Iterator[Callable[[], object] | None]:
        """Watch the program that is started meanwhile, and everything that it starts.

        Yields what the child has to call between fork and exec; None if nothing can be watched.
        Afterwards nothing is watched any more: a process that still runs then cannot open a file.
        """
        socket = self._library.ajit_watch_start(self._descriptor)
        if socket < 0:
            yield None
            return
        try:
            yield lambda: self._library.ajit_watch_install(socket)
        finally:
            self._lost += max(0, self._library.ajit_watch_stop())

    def _prove(self) -> bool:
        name = f"/ajit-canary-{os.urandom(8).hex()}"
        with contextlib.suppress(OSError), self.program() as enter:
            # An error other than "not found" is none of a compile: some kernels cannot go on with
            # a call that they have told of.
            subprocess.Popen([name], preexec_fn=enter).wait()  # noqa: PLW1509 - one thread
        proven = self._saw(name) and not self._lost
        self._lost = 0
        return proven


_watcher: Watcher | None = None
"""That of this worker, whose main thread alone sets and uses it."""


def use_watcher(watcher: Watcher | None) -> None:
    """Let the programs of this process be watched from now on."""
    global _watcher  # noqa: PLW0603 - a worker is one process with one watcher
    _watcher = watcher


def can_watch(program: str) -> bool:
    """Whether a program has to be watched, and can be."""
    return _watcher is not None and is_static(program) and _watcher.is_allowed()


@contextlib.contextmanager
def watched(program: str) -> Iterator[Callable[[], object] | None]:
    """Watch a program, if it ignores the recorder; see `Watcher.program`."""
    if _watcher is None or not can_watch(program):
        yield None
        return
    with _watcher.program() as enter:
        yield enter


def is_static(program: str) -> bool:
    """Whether a program is linked statically: no loader is named in it, which would preload."""
    try:
        with open(program, "rb") as file:
            magic, bits, order, offset, size, count = _ELF.unpack(file.read(_ELF.size))
            if (magic, bits, order) != (b"\x7fELF", _CLASS_64, _LITTLE_ENDIAN):
                return False
            file.seek(offset)
            table = file.read(size * count)
    except (OSError, struct.error):
        return False
    kinds = {int.from_bytes(table[at : at + 4], "little") for at in range(0, len(table), size or 1)}
    return _PT_INTERP not in kinds
