"""Recording: what the compiler of a job read, and what it looked for in vain.

The worker is started with ``libajit_recorder.so`` preloaded, and so are the programs that it runs;
the library says in its first comment how it works. Its records go to a file in memory that the
worker empties before each job.

Records that are not there are worse than none: a header that was read unseen would be missing from
the key. So they are trusted only with proof. At its start a worker looks for a file that does not
exist, and finds that in the records. NVRTC has to do the same once. A compiler that is a program
must be seen to read the header of ajit's or CUDA's that every source gets before its first line:
one that is linked statically, runs elsewhere, or drops the environment does not pass.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING

from ajit._compile.recorder.places import ANYWHERE, Places, places_of
from ajit._compile.recorder.twins import with_twins
from ajit._compile.worker.place import top_of
from ajit._compile.worker.text import label_of
from ajit._core.job import Seen, SeenRead

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._compile.worker.messages import WorkerRequest

__all__ = ["LIBRARY_VARIABLE", "Recorder"]

LIBRARY_VARIABLE = "LD_PRELOAD"
FILE_VARIABLE = "AJIT_RECORD"

MAX_BYTES = 256 * 1024 * 1024
"""Of records; a compile of CUB makes less than one MB."""

_HEAD = struct.Struct("<II6Q")
_READ, _WRITTEN, _ABSENT, _PROGRAM = (ord(letter) for letter in "rwax")

_IGNORED = ("/proc/", "/sys/", "/dev/")
_SHELLS = frozenset({"sh", "dash", "bash", "busybox"})

_ALWAYS_READ = {"host": "cuda_cxx/kernel.hpp", "nvcc": "/cuda_runtime.h"}
"""How the path of a header ends that every source of a compiler gets."""


class Recorder:
    """The records of one worker. Used by its only thread.

    Attributes:
        blind: Why nothing can be recorded; "" if it can.
    """

    def __init__(self) -> None:
        self._library: ctypes.CDLL | None = None
        self._nvrtc_seen: bool | None = None
        self._descriptor = -1
        self.blind = self._open() or self._prove()

    def begin(self) -> None:
        """Forget the records of the last job."""
        if not self.blind:
            os.ftruncate(self._descriptor, 0)

    @contextlib.contextmanager
    def in_library(self) -> Iterator[None]:
        """Record what this process itself asks for, in a compiler that is a library."""
        if self._library is None:
            yield
            return
        self._library.ajit_record_start(self._descriptor)
        try:
            yield
        finally:
            self._library.ajit_record_stop()

    def saw(self, name: str) -> bool:
        """Whether a file of that name was asked for since `begin`."""
        return any(path.endswith(name) for _, path, _ in self._records())

    def note_nvrtc(self, *, seen: bool) -> None:
        """Note whether NVRTC's reads are recorded, which `ajit._compile.worker.nvrtc` finds out."""
        self._nvrtc_seen = seen

    @property
    def knows_nvrtc(self) -> bool:
        """Whether `note_nvrtc` was called."""
        return self._nvrtc_seen is not None

    def seen(self, request: WorkerRequest) -> Seen:
        """Return what was asked for since `begin`. Never fails."""
        if self.blind:
            return Seen(blind=self.blind)
        if os.fstat(self._descriptor).st_size > MAX_BYTES:
            return Seen(blind=f"the compiler made more than {MAX_BYTES} bytes of records")
        job = request.job
        records = list(self._records())
        if job.compiler == "nvrtc" and not self._nvrtc_seen:
            return Seen(blind="what NVRTC reads cannot be recorded here")
        ending = _ALWAYS_READ.get(job.compiler)
        if ending and not any(k == _READ and path.endswith(ending) for k, path, _ in records):
            program = os.path.basename(request.command[0])
            return Seen(
                blind=f"what {program} reads cannot be recorded: it is not linked dynamically"
            )
        program = "" if job.compiler == "nvrtc" else request.command[0]
        places = places_of(
            job.include_dirs, job.options, request.include_dirs, program, label_of(job.name)
        )
        reads = _reads(records, places, top_of(request.folder))
        return Seen(with_twins(tuple(reads), places))

    def _open(self) -> str:
        try:
            path = os.environ.get(LIBRARY_VARIABLE, "")
            library = ctypes.CDLL(path) if path else None
            self._descriptor = os.memfd_create("ajit-reads")
            flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_APPEND)
        except OSError as exc:
            return f"what compilers read cannot be recorded: {exc}"
        if library is None:
            return "what compilers read cannot be recorded: libajit_recorder.so is not there"
        self._library = library
        # By this path, and not by inheriting: some programs close every descriptor they inherit.
        os.environ[FILE_VARIABLE] = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        return ""

    def _prove(self) -> str:
        name = f"/ajit-canary-{os.urandom(8).hex()}"
        with self.in_library():
            # By the name that other libraries call, which need not be the one that was preloaded.
            ctypes.CDLL(None).open(name.encode(), os.O_RDONLY)
        if self.saw(name):
            return ""
        return "what compilers read cannot be recorded: preloading has no effect in this process"

    def _records(self) -> Iterator[tuple[int, str, tuple[int, ...]]]:
        data = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        offset, end = 0, len(data) - _HEAD.size
        while offset <= end:
            length, kind, *state = _HEAD.unpack_from(data, offset)
            offset += _HEAD.size
            yield kind, os.fsdecode(data[offset : offset + length]), tuple(state)
            offset += length


def _reads(
    records: list[tuple[int, str, tuple[int, ...]]], places: Places, private: str
) -> Iterator[SeenRead]:
    """Make a list of what counts: each file once, none of the compile's own."""
    own = {path for kind, path, _ in records if kind == _WRITTEN}
    on_path = tuple(filter(None, os.environ.get("PATH", "").split(os.pathsep)))
    files: dict[str, tuple[int, ...] | None] = {}
    others: dict[str, int] = {}
    for kind, path, state in records:
        if path in own or path.startswith((private, *_IGNORED)):
            continue
        if kind == _READ:
            # Read twice and changed between: no stamp can be that of what was read.
            files[path] = state if files.get(path, state)[:5] == state[:5] else None  # type: ignore[index]
        elif kind == _PROGRAM:
            if os.path.basename(path) not in _SHELLS:
                others.setdefault(path, kind)
        else:
            others.setdefault(path, kind)
    listed: dict[tuple[str, str], SeenRead] = {}
    for _, path, _ in records:
        read = None
        if path in files:
            read = _file(path, files.pop(path), places)
        elif path in others:
            read = _other(path, others.pop(path), places, on_path)
        if read is not None:
            listed.setdefault((read.place, read.name), read)
    yield from listed.values()


def _file(path: str, state: tuple[int, ...] | None, places: Places) -> SeenRead:
    place, name = places.name(path)
    if state is None:
        return SeenRead(place, name, "file")
    device, inode, size, mtime_ns, ctime_ns, opened_ns = state
    return SeenRead(place, name, "file", (device, inode, size, mtime_ns, ctime_ns), opened_ns)


def _other(path: str, kind: int, places: Places, on_path: tuple[str, ...]) -> SeenRead | None:
    place, name = places.name(path)
    if kind == _ABSENT:
        if os.path.dirname(path) in on_path:
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
    if kind != _PROGRAM:
        return SeenRead(place, name, "present")
    state = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    return SeenRead(place, name, "file", state, info.st_ctime_ns + 10**12)


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
