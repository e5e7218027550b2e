"""The board of one runtime: a small file in which it says what it does, for `ajit top` and others.

The runtime's own loop writes it, about twice a second: so a loop that is blocked is seen as an old
beat, and a process that was killed leaves what it was last at. Others read the file and ask the
runtime nothing (`ajit._runtime.boards`).

It is written with one call and not mapped. Who writes into the mapping of a file that has just been
cut, or whose disk fails, is killed by SIGBUS, and no look at the file before comes soon enough. A
call returns an error, and costs some µs: the file is in memory.

A board never fails a runtime. One that was removed or cut, or cannot be written, is made again. If
it cannot be made, one event says so, and it ends.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from ajit._core import events
from ajit._runtime.board_form import BOARD_BYTES, board_head, encode_post
from ajit._runtime.board_places import board_name, folders_of, open_folder
from ajit._runtime.board_view import UnderWay, error_of, first_view, view_of
from ajit._runtime.boards import sweep

if TYPE_CHECKING:
    from weakref import ref

    from ajit._resolve.services import Services
    from ajit._runtime.board_form import ErrorView, RuntimeView
    from ajit._runtime.kernels import Kernels

__all__ = ["BEAT_SECONDS", "Board"]

BEAT_SECONDS = 0.5
"""Between two beats."""

MAKE_SECONDS = 5.0
"""How long a directory of this node may take. Pretty arbitrary."""

MOST_ERRORS = 8
"""Listed of the last ones."""

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_numbers = itertools.count(1)


class BoardFile:
    """The file of one board. Making and closing it blocks; a beat does not.

    Args:
        setting: The setting ``board``.
        cache_dir: The cache that the runtime uses.
        number: Which runtime of the process it is.

    Raises:
        OSError: It cannot be made in any of its places.
    """

    def __init__(self, setting: str, cache_dir: str, number: int) -> None:
        self._name = board_name(number, cache_dir)
        self._pid = os.getpid()
        self._beats = 0
        problems = []
        for path in folders_of(setting):
            try:
                self._make(path)
            except (OSError, ValueError) as exc:
                problems.append(f"{path}: {getattr(exc, 'strerror', None) or exc}")
            else:
                return
        raise OSError("; ".join(problems))

    @property
    def is_there(self) -> bool:
        """Whether others can find it, and it is as large as it was made."""
        status = os.fstat(self._fd)
        return status.st_nlink > 0 and status.st_size == BOARD_BYTES

    def beat(self, view: RuntimeView) -> bool:
        """Write a snapshot, and say whether it could be.

        Nothing is written in a forked child, since it is the parent's.
        """
        if os.getpid() != self._pid:
            return True
        self._beats += 1
        place, data = encode_post(view, self._beats, time.monotonic_ns())
        with suppress(OSError):
            return os.pwrite(self._fd, data, place) == len(data)
        return False

    def close(self) -> None:
        """Remove it, unless this is a forked child: then it is the parent's."""
        os.close(self._fd)
        if os.getpid() == self._pid:
            with suppress(OSError):
                os.unlink(self._name, dir_fd=self._folder)
        os.close(self._folder)

    def _make(self, path: str) -> None:
        folder = open_folder(path, make=True)
        half = f".{self._name}"
        try:
            with suppress(FileNotFoundError):
                os.unlink(half, dir_fd=folder)
            fd = os.open(half, _CREATE, 0o600, dir_fd=folder)
            try:
                # A disk that is full shows here, and not at some beat.
                os.posix_fallocate(fd, 0, BOARD_BYTES)
                os.pwrite(fd, board_head(), 0)
                os.rename(half, self._name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                os.close(fd)
                os.unlink(half, dir_fd=folder)
                raise
        except BaseException:
            os.close(folder)
            raise
        self._folder, self._fd = folder, fd


class Board:
    """Keeps a runtime's board, and notes events for it. Belongs to the runtime's event loop.

    Args:
        services: The runtime's.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._number = next(_numbers)
        self._first = first_view(services, self._number, time.time())
        self._file: BoardFile | None = None
        self._closed = False
        self._under_way: dict[str, UnderWay] = {}
        self._errors = 0
        self._recent: deque[ErrorView] = deque(maxlen=MOST_ERRORS)

    def __call__(self, event: events.Event) -> None:
        """Note an event. Does not block."""
        match event:
            case events.CompileStarted():
                self._under_way[event.key] = UnderWay(event)
            case events.CompileRunning() if event.key in self._under_way:
                self._under_way[event.key].cpu_seconds = event.cpu_seconds
            case events.CompileFinished() | events.CompileFailed() | events.CompileCancelled():
                self._under_way.pop(event.key, None)
        error = error_of(event)
        if error is not None:
            self._errors += 1
            self._recent.appendleft(error)

    async def run(self, kernels: ref[Kernels]) -> None:
        """Beat until cancelled, or until there is no board any more.

        Args:
            kernels: The runtime's. The frame of a cancelled task may live on with its exception,
                and must not keep what is loaded.
        """
        try:
            await self._services.in_thread(self._make, seconds=MAKE_SECONDS)
            await self._beat_on(kernels)
        except Exception as exc:  # noqa: BLE001  # whatever it is: the server is worth more
            self._services.tell_background("board", f"{type(exc).__name__}: {exc}")

    def close(self) -> None:
        """Remove it. Blocks."""
        self._closed = True
        file, self._file = self._file, None
        if file is not None:
            file.close()

    async def _beat_on(self, found: ref[Kernels]) -> None:
        lag = 0.0
        while self._file is not None and (kernels := found()) is not None:
            written = self._file.beat(
                view_of(
                    self._first,
                    kernels,
                    self._under_way.values(),
                    self._recent,
                    lag_seconds=lag,
                    errors=self._errors,
                )
            )
            del kernels
            due = time.monotonic() + BEAT_SECONDS
            await anyio.sleep(BEAT_SECONDS)
            lag = max(0.0, time.monotonic() - due)
            if not (written and self._file.is_there):  # it was removed, or cut
                await self._services.in_thread(self._make_again, seconds=MAKE_SECONDS)

    # --- in a thread

    def _make(self) -> None:
        settings = self._services.settings
        file = BoardFile(settings.board, str(settings.cache_dir), self._number)
        self._file = file
        if self._closed:  # it took too long
            self.close()
        else:
            sweep(settings.board)

    def _make_again(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
        self._make()
