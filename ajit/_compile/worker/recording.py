"""Recording: what the compiler of a job read, and what it looked for in vain.

The worker is started with ``libajit_recorder.so`` preloaded, and so are the programs that it runs;
the library says in its first comment how it works. Its records go to a file in memory that the
worker empties before each job.

Records that are not there are worse than none: a header that was read unseen would be missing from
the key. So they are trusted only with proof. At its start a worker looks for a file that does not
exist, and finds that in the records. NVRTC has to do the same once. A compiler that is a program
must be seen to read the header of ajit's or CUDA's that every source gets before its first line:
one that runs elsewhere, or drops the environment, does not pass. One that is linked statically is
watched (`ajit._compile.worker.watching`), or else asked (`ajit._compile.worker.depfile`).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import stat
from collections import Counter
from typing import TYPE_CHECKING

from ajit._compile.recorder.digests import FileStamp
from ajit._compile.recorder.places import ANYWHERE, ON_PATH, Places, places_of, program_on_path
from ajit._compile.recorder.twins import with_twins
from ajit._compile.worker.depfile import records_of
from ajit._compile.worker.place import top_of
from ajit._compile.worker.records import (
    ABSENT,
    FILE_VARIABLE,
    LIBRARY_VARIABLE,
    PROGRAM,
    READ,
    REFUSED,
    STARTED,
    STREAM,
    WRITTEN,
    unpack_records,
)
from ajit._compile.worker.text import label_of
from ajit._compile.worker.watching import Watcher, use_watcher
from ajit._compile.worker.zig import zig_caches
from ajit._core.job import Seen, SeenRead

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._compile.worker.messages import WorkerRequest
    from ajit._compile.worker.records import Record

__all__ = ["Recorder"]

MAX_BYTES = 256 * 1024 * 1024
"""Of records; a compile of CUB makes less than one MB."""

_IGNORED = re.compile(r"/proc/|/sys/|/etc/ld\.so\.|/dev/(?!.*shm/)")
"""Not what lies in ``/dev/shm``, where headers may be. The files of ``ld.so`` say where shared
libraries lie; those that a watched program gets are listed."""

_OF_A_PROCESS = "/proc/"
"""What lies here is another file for each process, and means nothing when that is gone."""

_SIZE = 2  # of a record's state

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
        self._watcher: Watcher | None = None
        self.blind = self._open() or self._prove()
        if self._library is not None and not self.blind:
            self._watcher = Watcher(self._library, self._descriptor, self.saw)
            use_watcher(self._watcher)

    def begin(self) -> None:
        """Forget the records of the last job."""
        if not self.blind:
            os.ftruncate(self._descriptor, 0)
        if self._watcher is not None:
            self._watcher.begin()

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
        job = request.job
        program = "" if job.compiler == "nvrtc" else request.command[0]
        folders = (top_of(request.folder), *zig_caches(request).values())
        private = tuple(os.path.join(folder, "") for folder in folders)
        if why := self._why_unseen(job.compiler):
            return Seen(blind=why)
        records = list(self._records())
        places = places_of(
            job.include_dirs, job.options, request.include_dirs, program, label_of(job.name)
        )
        if why := (
            _of_a_process(places)
            or _unrepeatable(records, private)
            or _unseen_program(records, program)
        ):
            return Seen(blind=why)
        if not _is_proven(job.compiler, records):
            found = _from_depfile(request, places)
            if isinstance(found, str):
                return Seen(blind=f"what {os.path.basename(program)} reads cannot be seen: {found}")
            records = found
        # A library has no program; and the directory of a worker is gone, see `leave_root`.
        own_program = os.path.realpath(program) if program else ""
        reads = _reads(records, places, private, own_program)
        return Seen(with_twins(tuple(reads), places))

    def _why_unseen(self, compiler: str) -> str:
        """Say why the records of a job are of no use, or ""."""
        if self.blind:
            return self.blind
        if os.fstat(self._descriptor).st_size > MAX_BYTES:
            return f"the compiler made more than {MAX_BYTES} bytes of records"
        if compiler == "nvrtc" and not self._nvrtc_seen:
            return "what NVRTC reads cannot be recorded here"
        if self._watcher is not None and self._watcher.lost:
            return f"{self._watcher.lost} looks of the compiler could not be recorded"
        return ""

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

    def _records(self) -> Iterator[Record]:
        return unpack_records(os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0))


def _is_proven(compiler: str, records: list[Record]) -> bool:
    ending = _ALWAYS_READ.get(compiler)
    return not ending or any(kind == READ and path.endswith(ending) for kind, path, _ in records)


def _from_depfile(request: WorkerRequest, places: Places) -> list[Record] | str:
    """What a program says itself that it read, if it was told to; see `compile_host`."""
    if request.job.compiler != "host":
        return "it is not linked dynamically"
    own = [*(os.path.join(path, "") for path in request.include_dirs), places.directory("tool")]
    records = records_of(request.folder, [path for path in own if path])
    if isinstance(records, str) or _is_proven("host", records):
        return records
    return "its dependency file is not that of the job"


def _of_a_process(places: Places) -> str:
    """Say which include directory is another one for each process, or ""."""
    for place, directory in places.dirs:
        if place[0] == "i" and directory.startswith(_OF_A_PROCESS):
            return f"what was read cannot be looked up again: {directory} belongs to a process"
    return ""


def _unseen_program(records: list[Record], compiler: str) -> str:
    """Say which program was started and left no record of its own, or ""."""
    began = Counter(path for kind, path, _ in records if kind == PROGRAM)
    for kind, path, _ in records:
        found = _started(path) if kind == STARTED else None
        if found is None or not _is_binary(found):
            continue  # an interpreter leaves its record in the place of its script
        real = os.path.realpath(found)
        began[real] -= 1
        if began[real] < 0:
            wrapped = compiler and real != os.path.realpath(compiler)
            starter = f", which {compiler} starts," if wrapped else ""
            return f"what {real}{starter} reads cannot be seen"
    return ""


def _started(name: str) -> str | None:
    """The path of a program that was started; None if there is none, as where it is looked for."""
    if os.sep not in name:
        return program_on_path(name)
    return name if os.access(name, os.X_OK) and os.path.isfile(name) else None


def _is_binary(program: str) -> bool:
    try:
        with open(program, "rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return True


def _unrepeatable(records: list[Record], private: tuple[str, ...]) -> str:
    """Say what cannot be looked at again tomorrow, or ""."""
    for kind, path, state in records:
        why = _why_unrepeatable(kind, path, state, private)
        if why:
            return f"what was read cannot be looked up again: {why}"
    return ""


def _why_unrepeatable(
    kind: int, path: str, state: tuple[int, ...], private: tuple[str, ...]
) -> str:
    # The kernel's own files there have no size. Another one was reached through a process.
    if kind == READ and path.startswith(_OF_A_PROCESS) and state[_SIZE]:
        return f"{path} belongs to a process"
    if _is_ignored(path, private):
        return ""
    if kind == REFUSED:
        return f"the compiler could not open {path}"
    if kind == STREAM:
        return f"the compiler read from something that is no file, {path}"
    if "/../" in path and path.startswith(private):
        return f"{path} leads out of the job's folder"
    return "" if _is_text(path) else f"{path!a} is no text"


def _is_text(path: str) -> bool:
    """Whether a list can hold a path: one that is not UTF-8 cannot be encoded."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_ignored(path: str, private: tuple[str, ...]) -> bool:
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
            if kind == STARTED and os.sep not in path and path not in _SHELLS:
                self.others.setdefault(path, kind)
            elif kind == STARTED or path in own or _is_ignored(path, private):
                continue
            elif kind == READ:
                self._read(path, state)
            elif kind != PROGRAM:
                self._looked(path, kind)
            # The toolchain's own program is part of its fingerprint.
            elif path != own_program and os.path.basename(path) not in _SHELLS:
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
    yield from listed.values()


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
