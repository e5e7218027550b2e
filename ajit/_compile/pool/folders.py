"""Private folders of jobs: made for one compile, removed after it, swept if that failed.

The slot that made a folder removes it; if the server is killed, its worker does. If both are killed
at once, the folder stays. So a folder is named after the process that made it, and the
next pool of this user removes those whose process is gone. A process is known by the kernel's boot,
its pid namespace, its number and its start time; of a folder from elsewhere (another container that
shares the directory, another boot) only the age can be judged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import time
from typing import TYPE_CHECKING

from ajit._compile.worker.place import deepen, remove_job_folder
from ajit._system.process import is_gone, start_ticks_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._core.job import CompileJob

__all__ = ["private_folder", "sweep_folders"]

PREFIX = "ajit-"

FOREIGN_SECONDS = 24 * 3600.0
"""Age above which a folder of an unknown process is removed; no compile may take that long."""


@contextlib.contextmanager
def private_folder(job: CompileJob) -> Iterator[str]:
    """Make a folder for one job, and remove it afterwards.

    It lies deep in folders of its own, see `ajit._compile.worker.place`.

    NVRTC writes no file, except a precompiled header on request: its folder is only a name.

    Raises:
        OSError: There is no room, or no temporary directory in which a folder can be private.
    """
    if not _writes_files(job):
        yield os.path.join(os.sep, "nonexistent", PREFIX + job.key)
        return
    top = tempfile.mkdtemp(prefix=f"{PREFIX}{_own_name()}-")
    folder = top
    try:
        _check_private(top)
        folder = deepen(top)
        yield folder
    finally:
        # Not in the worker: it may have been killed.
        remove_job_folder(folder)
        shutil.rmtree(top, ignore_errors=True)


def sweep_folders() -> int:
    """Remove this user's folders whose process is gone; return how many. Never fails."""
    removed = 0
    with contextlib.suppress(OSError):
        place, here = tempfile.gettempdir(), _place()
        with os.scandir(place) as entries:
            stale = [e.path for e in entries if e.name.startswith(PREFIX) and _is_stale(e, here)]
        for path in stale:
            shutil.rmtree(path, ignore_errors=True)
            removed += not os.path.lexists(path)
    return removed


def _check_private(folder: str) -> None:
    """Refuse a file system that does not keep owner and mode, as some mounts of other systems."""
    info = os.lstat(folder)
    mode = stat.S_IMODE(info.st_mode)
    if info.st_uid != os.geteuid() or not stat.S_ISDIR(info.st_mode) or mode & 0o077:
        reason = (
            f"a folder in {os.path.dirname(folder)} cannot be made private: owner {info.st_uid}, "
            f"mode {mode:04o} (set TMPDIR to a directory on another file system)"
        )
        raise PermissionError(errno.EPERM, reason)


def _writes_files(job: CompileJob) -> bool:
    return job.compiler != "nvrtc" or any("pch" in option for option in job.options)


def _is_stale(entry: os.DirEntry[str], here: str) -> bool:
    try:
        info = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    # All users share the temporary directory: keep folders of others, and links.
    if info.st_uid != os.geteuid() or not stat.S_ISDIR(info.st_mode):
        return False
    place, _, process = entry.name.removeprefix(PREFIX).partition(".")
    pid, _, rest = process.partition(".")
    start = rest.partition("-")[0]
    if place == here and pid.isdigit() and start.isdigit():
        return is_gone(int(pid), int(start))
    if not (pid.isdigit() and start.isdigit()):
        return False  # a name of another program with the same prefix
    return time.time() - info.st_mtime > FOREIGN_SECONDS


def _own_name() -> str:
    pid = os.getpid()
    # Of one length for all processes: debug information holds it, see `nameless` of the worker.
    return f"{_place()}.{pid:010d}.{start_ticks_of(pid) or 0:016d}"


def _place() -> str:
    """The scope of a process id: this boot of this kernel, and this pid namespace."""
    boot = namespace = "0"
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read(8)
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    return f"{boot}_{namespace}"
