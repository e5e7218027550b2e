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
from collections import Counter
from typing import TYPE_CHECKING

from ajit._compile.recorder.places import Places, places_of, program_on_path
from ajit._compile.worker.bytecode import with_sources
from ajit._compile.worker.depfile import records_of
from ajit._compile.worker.listing import is_ignored, listed
from ajit._compile.worker.place import top_of
from ajit._compile.worker.records import (
    FILE_VARIABLE,
    LIBRARY_VARIABLE,
    PROGRAM,
    READ,
    REFUSED,
    STARTED,
    STREAM,
    unpack_records,
)
from ajit._compile.worker.text import label_of
from ajit._compile.worker.watching import Watcher, use_watcher
from ajit._compile.worker.zig import zig_caches
from ajit._core.job import Seen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._compile.worker.messages import WorkerRequest
    from ajit._compile.worker.records import Record

__all__ = ["Recorder", "seen_by_program"]

MAX_BYTES = 256 * 1024 * 1024
"""Of records; a compile of CUB makes less than one MB."""

_DESCRIPTOR = re.compile(r"/dev/(?:stdin|fd/)|/proc/[^/]+/(?:task/[^/]+/)?fd/")
"""What is open already in a program, such as a shell's ``<(...)``: text from anywhere."""

_OF_A_PROCESS = "/proc/"
"""What lies here is another file for each process, and means nothing when that is gone."""

_SIZE = 2  # of a record's state

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
        self._program = self._called = ""
        self.blind = self._open() or self._prove()
        if self._library is not None and not self.blind:
            self._watcher = Watcher(self._library, self._descriptor, self.saw)
            use_watcher(self._watcher)

    def begin(self) -> None:
        """Forget the records of the last job."""
        if not self.blind:
            os.ftruncate(self._descriptor, 0)
        self._program = self._called = ""
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

    def note_program(self, program: str, name: str) -> None:
        """Note which program a build begins with, and how it was called for.

        It has to be among the records; and where it was found by its name on PATH, another one may
        be found some day.
        """
        self._program, self._called = program, name

    @property
    def knows_nvrtc(self) -> bool:
        """Whether `note_nvrtc` was called."""
        return self._nvrtc_seen is not None

    def seen(self, request: WorkerRequest) -> Seen:
        """Return what was asked for since `begin`. Never fails."""
        job = request.job
        # A build's programs all count as read: none is part of a fingerprint.
        program = "" if job.compiler in ("nvrtc", "build") else request.command[0]
        folders = (top_of(request.folder), *zig_caches(request).values())
        private = tuple(os.path.join(folder, "") for folder in folders)
        if why := self._why_unseen(job.compiler):
            return Seen(blind=why)
        records = list(self._records())
        if job.compiler == "build":
            if why := _unproven_build(records, self._program):
                return Seen(blind=why)
            by_name = [] if os.sep in self._called else [(STARTED, self._called, ())]
            records = [*by_name, *with_sources(records)]
        places = places_of(
            job.include_dirs, job.options, request.include_dirs, program, label_of(job.name)
        )
        if why := _why_useless(records, places, private, program):
            return Seen(blind=why)
        if not _is_proven(job.compiler, records):
            found = _from_depfile(request, places)
            if isinstance(found, str):
                return Seen(blind=f"what {os.path.basename(program)} reads cannot be seen: {found}")
            records = found
        return listed(records, places, private, program)

    def _why_unseen(self, compiler: str) -> str:
        """Say why the records of a job are of no use, or ""."""
        if self.blind:
            return self.blind
        if os.fstat(self._descriptor).st_size > MAX_BYTES:
            return f"the compiler made more than {MAX_BYTES} bytes of records"
        if compiler == "nvrtc" and not self._nvrtc_seen:
            return "what NVRTC reads cannot be recorded here"
        if compiler != "nvrtc" and not os.path.exists(os.environ[FILE_VARIABLE]):
            return "what programs read cannot be recorded: there is no /proc here"
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


def seen_by_program(
    records: list[Record], places: Places, private: tuple[str, ...], program: str
) -> Seen:
    """Return what a program asked for that was run outside of a worker.

    The caller has to make sure that the records are those of the compile: they name its source.

    Args:
        records: All of them.
        places: Where what it reads may lie.
        private: Directories of this compile alone, each with a slash at its end.
        program: The compiler, which the base key covers.
    """
    if why := _why_useless(records, places, private, program):
        return Seen(blind=why)
    return listed(records, places, private, program)


def _why_useless(
    records: list[Record], places: Places, private: tuple[str, ...], program: str
) -> str:
    return (
        _of_a_process(places)
        or _unrepeatable(records, private)
        or _unseen_program(records, program)
    )


def _is_proven(compiler: str, records: list[Record]) -> bool:
    ending = _ALWAYS_READ.get(compiler)
    return not ending or any(kind == READ and path.endswith(ending) for kind, path, _ in records)


def _unproven_build(records: list[Record], program: str) -> str:
    """Say why the records of a build are not those of its program, or ""."""
    if not program:
        return "its program was not started"
    real = os.path.realpath(program)
    for kind, path, _ in records:
        # Of a script, the interpreter begins; then the script is what it read.
        if kind in (PROGRAM, READ) and os.path.realpath(path) == real:
            return ""
    return f"what {program} reads cannot be seen"


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
    if _belongs_to_a_process(kind, path, state):
        return f"{path} belongs to a process"
    if is_ignored(path, private):
        return ""
    if kind == REFUSED:
        return f"the compiler could not open {path}"
    if kind == STREAM:
        return f"the compiler read from something that is no file, {path}"
    if "/../" in path and path.startswith(private):
        return f"{path} leads out of the job's folder"
    return "" if _is_text(path) else f"{path!a} is no text"


def _belongs_to_a_process(kind: int, path: str, state: tuple[int, ...]) -> bool:
    if kind in (READ, STREAM) and _DESCRIPTOR.match(path):
        return True
    # The kernel's own files there have no size. Another one was reached through a process.
    return kind == READ and path.startswith(_OF_A_PROCESS) and state[_SIZE] > 0


def _is_text(path: str) -> bool:
    """Whether a list can hold a path: one that is not UTF-8 cannot be encoded."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
