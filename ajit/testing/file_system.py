"""A cache's file system in trouble: full, read-only, broken, or not answering.

It needs no mount and no rights: what ajit's modules ask the operating system about files below one
directory goes through here first, and is refused or held with the error of the real thing. All
other files are left alone, and so is everything that does not go through the module ``os``: record
locks that are held go on being held, and memory that was mapped can be read.
"""

from __future__ import annotations

import errno
import os
import threading
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ajit.testing.seams import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack
    from typing import Self

__all__ = ["FakeFileSystem"]

_BY_DESCRIPTOR = frozenset(
    ["fchmod", "fchown", "fdatasync", "fstat", "fsync", "ftruncate", "pread", "pwrite", "read",
     "write"]
)  # fmt: skip
_BY_NAME = frozenset(
    ["access", "chmod", "link", "listdir", "lstat", "makedirs", "mkdir", "open", "rename",
     "replace", "rmdir", "scandir", "stat", "statvfs", "symlink", "unlink", "utime"]
)  # fmt: skip
_TAKES_ROOM = frozenset(["pwrite", "symlink", "write"])
_CHANGES = frozenset(
    ["chmod", "fchmod", "fchown", "link", "makedirs", "mkdir", "rename", "replace", "rmdir",
     "symlink", "unlink", "utime"]
)  # fmt: skip
_readlink = os.readlink
"""Of ``/proc``, which is memory: as it is here, whatever a watch for blocking calls puts there."""
_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class FakeFileSystem:
    """A directory whose file system gets into trouble when a test says so. A context manager.

    Enter it before the runtime is opened. It holds for the runtimes of this process, not for
    compilers and other processes. What of it hangs when the block is left goes on.

    Args:
        path: The directory, such as a runtime's ``cache_dir``. It need not be there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.realpath(path)
        self._room = self._writable = True
        self._failing: dict[str, int] = {}
        self._answers = threading.Event()
        self._answers.set()
        self._installed: ExitStack | None = None

    def fill(self) -> None:
        """Let there be no room: ``ENOSPC`` for every byte that is written."""
        self._room = False

    def make_read_only(self) -> None:
        """Let nothing be changed: ``EROFS``, as after ``mount -o remount,ro``."""
        self._writable = False

    def fail(self, call: str, error: int = errno.EIO) -> None:
        """Let a call of ``os``, such as ``fsync``, fail with an error number.

        Raises:
            ValueError: The call is none that this file system sees.
        """
        if call not in _BY_DESCRIPTOR | _BY_NAME:
            raise ValueError(f"{call!r} is no call on files that can fail here")
        self._failing[call] = error

    def hang(self) -> None:
        """Let no call end, until `mend`."""
        self._answers.clear()

    def mend(self) -> None:
        """End every trouble; the calls that hang go on."""
        self._room = self._writable = True
        self._failing.clear()
        self._answers.set()

    def __enter__(self) -> Self:
        self._installed = replaced("os", os, _Os(self))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._installed is not None
        self.mend()
        self._installed.close()

    def __repr__(self) -> str:
        troubles = {
            "full": not self._room,
            "read-only": not self._writable,
            "hanging": not self._answers.is_set(),
            "failing": bool(self._failing),
        }
        state = " ".join(name for name, there in troubles.items() if there) or "sound"
        return f"<FakeFileSystem {self.path} {state}>"

    def _call(self, name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if self._is_sound() or not self._is_below(name, args, options):
            return real(*args, **options)
        self._answers.wait()
        error = self._failing.get(name, 0) or self._refusal(name, args, options)
        if error:
            raise OSError(error, os.strerror(error))
        return real(*args, **options)

    def _is_sound(self) -> bool:
        return self._room and self._writable and not self._failing and self._answers.is_set()

    def _refusal(self, name: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> int:
        if not self._room and name in _TAKES_ROOM:
            return errno.ENOSPC
        if not self._writable:
            flags = args[1] if name == "open" and len(args) > 1 else options.get("flags", 0)
            if name in _CHANGES or (name == "open" and flags & _FOR_WRITING):
                return errno.EROFS
        return 0

    def _is_below(self, name: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
        """Whether a call is about something below the path."""
        place = args[0] if args else "."
        base = options.get("dir_fd", options.get("src_dir_fd"))
        if base is not None and not Path(os.fsdecode(place)).is_absolute():
            place = base
        if isinstance(place, int):
            place = _path_of(place)
        full = os.path.realpath(os.fsdecode(place)) if name in _BY_NAME else place
        return f"{full}/".startswith(f"{self.path}/")


def _path_of(descriptor: int) -> str:
    try:
        return _readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


class _Os(ModuleType):
    """The module ``os`` with a file system in it that may be in trouble."""

    def __init__(self, system: FakeFileSystem) -> None:
        super().__init__("os")
        self._system = system

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name in _BY_DESCRIPTOR or name in _BY_NAME:
            return partial(self._system._call, name, real)  # noqa: SLF001  # its other half
        return real
