"""Where a compiler runs: too deep in private folders for ``..`` to lead out of them.

A compiler looks for ``#include "../x.h"`` from the folder of the source, and for ``<../../x.h>``
from the folder of the virtual headers; ``__has_include``, ``#embed`` and ``.incbin`` do the same.
One level below a temporary directory that means ``/tmp/x.h``, a file that any user of the machine
can write. It would become part of the kernel and, since no key knows it, of every kernel that the
cache serves under that key.

So a job's folder lies `DEPTH` levels below the one that was made with a name of its own, each with
mode 0700 and empty. A path that climbs less than that meets only folders that no other user can
write. That holds for every compiler and for whatever looks a file up. The alternatives do not: a
list of what was read (``-MD``) does not name what ``__has_include`` saw, NVRTC writes none, and in
many containers there is no directory but ``/tmp`` to write in.

Two kinds of path are refused, see `outward_path`; no real source has them. One climbs `DEPTH`
levels. The other climbs and then names a directory such as ``tmp``: compilers look in their own
include directories as well, and ``/usr/include/../../tmp/x.h`` is ``/tmp/x.h``.

NVRTC writes no file and looks from the directory of its process. `leave_root` moves a worker to a
folder as deep that is removed at once: nothing can be created in it any more, and nothing is left
to clean up. In ``/`` even ``#include "tmp/x.h"`` would be found.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ajit._core.job import CompileJob

__all__ = ["DEPTH", "deepen", "leave_root", "outward_path", "remove_job_folder", "top_of"]

DEPTH = 32
"""Levels between a job's folder and the temporary directory. Pretty arbitrary: sources climb two or
three levels; each level costs a job some 20 µs."""

LEVEL = "d"
_MODE = 0o700

_WRITABLE_ANYWHERE = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - see `leave_root`
_EMPTY = "/proc/self/fdinfo"
_CONTINUED = re.compile(r"\\\r?\n")
_UP = re.compile(r"\.\.[/\\]+")
_LOOKED_UP = re.compile(r"include|import|embed|incbin")
_CLIMB = re.compile(r"""\.\.[/\\][^\s"'<>)]*+""")  # what stands before does not count


def deepen(top: str) -> str:
    """Make the levels below a private folder, and return the last one.

    Raises:
        OSError: There is no room.
    """
    folder = top
    for _ in range(DEPTH):
        folder = os.path.join(folder, LEVEL)
        os.mkdir(folder, _MODE)
    return folder


def top_of(folder: str) -> str:
    """Return the folder that `deepen` was given."""
    return folder.removesuffix(f"{os.sep}{LEVEL}" * DEPTH)


def remove_job_folder(folder: str) -> None:
    """Remove a job's folder with all levels above it. Never fails."""
    import shutil  # noqa: PLC0415 - 5 ms that a worker pays only when it dies

    # The deep one first: a removal from the top holds a file descriptor for each level.
    shutil.rmtree(folder, ignore_errors=True)
    top = top_of(folder)
    with contextlib.suppress(OSError):
        while len(folder) > len(top):
            folder = os.path.dirname(folder)
            os.rmdir(folder)
    shutil.rmtree(top, ignore_errors=True)


def leave_root() -> None:
    """Make a place from which nothing can be found the directory of this process. Never fails."""
    # Not by `tempfile`, which takes 10 ms to import. The name is new, and cannot be guessed.
    for place in (*_WRITABLE_ANYWHERE, os.environ.get("HOME", "")):
        top = os.path.join(place, f"ajit-{os.urandom(8).hex()}")
        try:
            os.mkdir(top, _MODE)
        except OSError:
            continue
        with contextlib.suppress(OSError):
            folder = deepen(top)
            os.chdir(folder)
            remove_job_folder(folder)
            return
        remove_job_folder(os.path.join(top, *[LEVEL] * DEPTH))
    # Nothing can be written. This directory holds numbers only, and so do those above it.
    with contextlib.suppress(OSError):
        os.chdir(_EMPTY)


def outward_path(job: CompileJob) -> str | None:
    """Return why a path in a text of the job may lead to a file of another user, or None."""
    for name, text in ((job.name, job.source), *job.headers, ("options", "\n".join(job.options))):
        if _UP.search(_CONTINUED.sub("", text)) is None:
            continue  # nearly always; the look at each line is for the others
        for line in _CONTINUED.sub("", text).split("\n"):
            if len(_UP.findall(line)) >= DEPTH:
                return f"{name}: a path with {DEPTH} or more '../' may lead out of its folder"
            if _LOOKED_UP.search(line) is None and name != "options":
                continue
            for path in _CLIMB.findall(line):
                if folder := _open_folder(path):
                    return f"{name}: {path} may lead to {folder}, where other users can write"
    return None


def _open_folder(path: str) -> str | None:
    """The directory that others can write and that a path leads to once it has climbed to ``/``."""
    parts = _UP.split(path)[-1].split("/")[:-1]
    for count in range(1, len(parts) + 1):
        folder = os.path.join(os.sep, *parts[:count])
        try:
            if os.stat(folder).st_mode & stat.S_IWOTH:
                return folder
        except (OSError, ValueError):
            return None
    return None
