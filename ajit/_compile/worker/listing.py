"""From what was recorded to what counts: each file once, by its place, and its state.

Most of what a compiler asks for is its own, the kernel's, or a name that leads to the same file.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from ajit._compile.recorder.digests import FileStamp
from ajit._compile.recorder.places import ANYWHERE, ON_PATH, Places, program_on_path
from ajit._compile.recorder.twins import with_twins
from ajit._compile.worker.records import ABSENT, PRESENT, PROGRAM, READ, STARTED, WRITTEN
from ajit._core.job import Seen, SeenRead

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._compile.worker.records import Record

__all__ = ["SHELLS", "is_ignored", "listed"]

_IGNORED = re.compile(r"/proc/|/sys/|/etc/ld\.so\.|/dev/(?!.*shm/)")
"""Not what lies in ``/dev/shm``, where headers may be. The files of ``ld.so`` say where shared
libraries lie; those that a watched program gets are listed."""

_MERGED = ("/proc/", "/dev/", "/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/")
"""Where a system has its own links, into ``/usr``."""

SHELLS = frozenset({"sh", "dash", "bash", "busybox"})


def listed(records: list[Record], places: Places, private: tuple[str, ...], program: str) -> Seen:
    """Return what a compile read, and looked for in vain.

    Args:
        records: What was recorded.
        places: The job's places.
        private: The job's own folders, whose files are none of the user's.
        program: The toolchain's program, or "".
    """
    # A library has no program; and the directory of a worker is gone, see `leave_root`.
    own_program = os.path.realpath(program) if program else ""
    reads = _reads(records, places, private, own_program)
    return Seen(with_twins(tuple(reads), places, _linked_folders(records, private)))


def _linked_folders(records: list[Record], private: tuple[str, ...]) -> list[str]:
    """The directories that were looked at under a name which leads through a link.

    Not the working directory's own name, which a compiler asks for to write it down.
    """
    here = os.environ.get("PWD", "").rstrip(os.sep)
    paths = dict.fromkeys(path.rstrip(os.sep) for kind, path, _ in records if kind == PRESENT)
    return [
        path
        for path in paths
        if path != here
        and not path.startswith((*private, *_MERGED))
        and os.path.isdir(path)
        and os.path.realpath(path) != os.path.normpath(path)
    ]


def is_ignored(path: str, private: tuple[str, ...]) -> bool:
    """Whether a path is the compile's own, or one of the kernel."""
    if path.startswith(private):
        # A header of the user may climb higher than the job's folder is deep.
        return "/../" not in path or f"{os.path.normpath(path)}/".startswith(private)
    return _IGNORED.match(path) is not None


class _Asked:
    """What the records say of each path. None of the compile's own files is in it.

    Attributes:
        files: Paths that were read or run, and the state of the file then; None if it was another
            one each time.
        others: Paths that were looked for, and the first thing that was found out.
    """

    def __init__(self, records: list[Record], private: tuple[str, ...], own_program: str) -> None:
        self.files: dict[str, tuple[int, ...] | None] = {}
        self.others: dict[str, int] = {}
        self._missed: set[str] = set()
        own = {path for kind, path, _ in records if kind == WRITTEN}
        for kind, path, state in records:
            if kind == STARTED and os.sep not in path and path not in SHELLS:
                self.others.setdefault(path, kind)
            elif kind == STARTED or path in own or is_ignored(path, private):
                continue
            elif kind == READ:
                self._read(path, state)
            elif kind != PROGRAM:
                self._looked(path, kind)
            # The toolchain's own program is part of its fingerprint.
            elif path != own_program and os.path.basename(path) not in SHELLS:
                self._read(path, state)

    def _read(self, path: str, state: tuple[int, ...]) -> None:
        first = self.files.setdefault(path, state)
        # All but the time: it was opened again.
        if first is None or first[:-1] != state[:-1] or path in self._missed:
            self.files[path] = None

    def _looked(self, path: str, kind: int) -> None:
        self.others.setdefault(path, kind)
        if kind == ABSENT:
            self._missed.add(path)
            if path in self.files:
                self.files[path] = None


def _reads(
    records: list[Record], places: Places, private: tuple[str, ...], own_program: str
) -> Iterator[SeenRead]:
    """Make a list of what counts, each file once, in the order in which it was first asked for."""
    asked = _Asked(records, private, own_program)
    on_path = tuple(filter(None, os.environ.get("PATH", "").split(os.pathsep)))
    listed: dict[tuple[str, str], SeenRead] = {}
    for _, path, _ in records:
        read = None
        if path in asked.files:
            read = _file(path, asked.files.pop(path), places)
            asked.others.pop(path, None)
        elif path in asked.others:
            kind = asked.others.pop(path)
            by_name = kind == STARTED
            read = _started_by_name(path) if by_name else _other(path, kind, places, on_path)
        if read is not None:
            listed.setdefault((read.place, read.name), read)
    for read in _sought(records, places, private, own_program):
        listed.setdefault((read.place, read.name), read)
    yield from listed.values()


def _sought(
    records: list[Record], places: Places, private: tuple[str, ...], own_program: str
) -> Iterator[SeenRead]:
    """Yield the programs that were sought in PATH by a shell, which starts what it finds by a path.

    Another one of that name may come first some day, or the first one of all.
    """
    on_path = frozenset(filter(None, os.environ.get("PATH", "").split(os.pathsep)))
    for name in dict.fromkeys(
        os.path.basename(path)
        for kind, path, _ in records
        if kind in (ABSENT, PRESENT)
        and os.path.dirname(path) in on_path
        and places.name(path)[0] in (ANYWHERE, "tool")
        and not path.startswith(private)
    ):
        found = program_on_path(name)
        if not name or name in SHELLS or (found and os.path.realpath(found) == own_program):
            continue
        yield _started_by_name(name) or SeenRead(ON_PATH, name, "absent")


def _file(path: str, state: tuple[int, ...] | None, places: Places) -> SeenRead:
    place, name = places.name(path)
    if state is None:
        return SeenRead(place, name, "file")
    device, inode, size, mtime_ns, ctime_ns, opened_ns = state
    return SeenRead(place, name, "file", (device, inode, size, mtime_ns, ctime_ns), opened_ns)


def _other(path: str, kind: int, places: Places, on_path: tuple[str, ...]) -> SeenRead | None:
    place, name = places.name(path)
    if kind == ABSENT:
        # An include directory may be in PATH, too; what is looked for there is a header.
        if place in (ANYWHERE, "tool") and os.path.dirname(path) in on_path:
            return None  # a program was sought; the one that was found is listed itself
        return SeenRead(place, _first_missing(place, name, places), "absent")
    try:
        info = os.stat(path)
    except OSError:
        # Not even looking is allowed, or it is gone: as good as absent, if it stays so.
        return SeenRead(place, name, "absent")
    if not stat.S_ISREG(info.st_mode):
        # A directory is passed over where a header is looked for, which may be there some day. Of
        # the system's directories no more counts than what is found in them.
        counts = stat.S_ISDIR(info.st_mode) and place != ANYWHERE
        return SeenRead(place, name, "present") if counts else None
    return SeenRead(place, name, "present")


def _started_by_name(name: str) -> SeenRead | None:
    """Another program of that name may come first in PATH some day.

    That it is the one which ran is told by that program's own record.
    """
    found = program_on_path(name)
    stamp = None if found is None else FileStamp.of(found)
    return None if stamp is None else SeenRead(ON_PATH, name, "file", stamp)


def _first_missing(place: str, name: str, places: Places) -> str:
    """The shortest path whose absence says the same: of ``bits/types/x.h`` mostly ``bits``."""
    root = "" if place == ANYWHERE else places.directory(place) or ""
    position = name.find("/", 1)
    while position > 0:
        head = name[:position]
        if not os.access(root + head, os.F_OK):
            return head
        position = name.find("/", position + 1)
    return name
