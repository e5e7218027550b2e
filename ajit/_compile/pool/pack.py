"""The pack: the files of a bundle as a build has left them, one after another in one open file.

The file lies in the job's folder, which is removed as soon as the job is done. So it is kept by its
descriptor alone: its space is free again when the pack is dropped, however the process ends.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ajit._core.job import PACK

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pack"]

CHUNK_BYTES = 1024 * 1024


class Pack:
    """The bytes of a bundle's files. Any thread may read it; it is closed when it is dropped."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, folder: str) -> Pack:
        """Open the pack in a job's folder.

        Raises:
            OSError: It cannot be opened.
        """
        path = os.path.join(os.path.dirname(folder), PACK)
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes from an offset on: as many as are asked for, unless it ends there.

        Raises:
            OSError: They cannot be read.
        """
        data = os.pread(self._fd, count, offset)
        while len(data) < count:
            more = os.pread(self._fd, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def __contains__(self, text: bytes) -> bool:
        """Whether a text is anywhere in it. A piece at a time is in memory."""
        offset, tail = 0, b""
        while piece := self.read(offset, CHUNK_BYTES):
            if text in tail + piece:
                return True
            offset += len(piece)
            tail = piece[max(0, len(piece) - len(text)) :]
        return False

    def __del__(self, _close: Callable[[int], None] = os.close) -> None:
        # The function is bound: at the interpreter's exit there may be no modules any more.
        try:  # noqa: SIM105 - there may be no contextlib any more, either
            _close(self._fd)
        except OSError:
            pass

    def __repr__(self) -> str:
        return f"<Pack fd={self._fd}>"
