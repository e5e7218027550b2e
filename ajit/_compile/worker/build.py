"""Builds, as a worker process runs them: a command or a function, in a folder of its own.

The folder is the working directory. Beside it, out of the way of the patterns of outputs, lie the
directory for temporary files, the arguments of a function, and in the end the pack: the outputs,
one after another. Each output is written over with a path of the same length where it holds the
folder's, so that two builds of one request make the same bytes.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import marshal
import os
import re
import shutil
import stat
import sys
from typing import TYPE_CHECKING

import msgspec

from ajit._compile.worker.messages import JobFailed, JobFinished, WorkerAnswer
from ajit._compile.worker.place import top_of
from ajit._compile.worker.records import FILE_VARIABLE, LIBRARIES_VARIABLE, LIBRARY_VARIABLE
from ajit._compile.worker.run_program import broke_off, run_compiler
from ajit._core.build import completed
from ajit._core.job import PACK, BuildRun, BundleFile, CompileOutput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._compile.worker.messages import WorkerRequest
    from ajit._compile.worker.recording import Recorder
    from ajit._compile.worker.run_program import Ran

__all__ = ["errors_first", "run_build"]

CHUNK_BYTES = 1024 * 1024
FIRST_LINES = 8
"""How many lines that look like errors come first in a log."""

_KEPT = ("PATH", "LD_LIBRARY_PATH", "NIX_CC", "LC_ALL", "CUDA_VISIBLE_DEVICES", "CCACHE_DISABLE")
_RECORDER = (LIBRARY_VARIABLE, FILE_VARIABLE)
_CALL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "call.py")
_ARGUMENTS = "ajit-call"
_TEMPORARY = "tmp"

_ERROR_LINE = re.compile(
    r"\berror\b\s*[:#(]|\bfatal\b|^FAILED: |undefined reference|multiple definition"
    r"|^[\w.]*(?:Error|Exception)\b(?:: |$)|: (?:command )?not found\b|cannot find -l",
    re.IGNORECASE | re.MULTILINE,
)


def run_build(request: WorkerRequest, recorder: Recorder) -> WorkerAnswer:
    """Run one build, and pack what it made."""
    run = request.job.build
    assert run is not None  # a job of this kind has one
    os.mkdir(_beside(request, _TEMPORARY), 0o700)
    try:
        with recorder.in_library():
            _copy_files(request, run)
        _write_files(request, run)
        argv = _argv(request, run)
        recorder.note_program(argv[0], sys.executable if run.function else run.argv[0])
        ran = run_compiler(request, argv[1:], argv[:1], environment=_environment(request, run))
    except (FileNotFoundError, PermissionError, NotADirectoryError) as exc:
        return JobFailed(kind="compile", log=f"{exc.strerror}: {exc.filename}")
    if failed := broke_off(ran):
        return failed
    if not ran.ok:
        return JobFailed(kind="compile", log=errors_first(ran.log))
    return _packed(request, run, ran)


def errors_first(log: str) -> str:
    """Return a log that begins with its lines that look like errors.

    Of a build by ninja the first of many pages is the command line of the file that failed.
    """
    lines = log.splitlines()
    found = [line for line in lines if _ERROR_LINE.search(line)][:FIRST_LINES]
    if not found or found == lines[: len(found)]:
        return log
    return "\n".join((*found, "", log))


def _argv(request: WorkerRequest, run: BuildRun) -> list[str]:
    if run.function:
        return [sys.executable, "-I", "-S", "-B", _CALL, _beside(request, _ARGUMENTS)]
    program = _completed(request, run, run.argv[0])
    found = os.path.join(request.folder, program) if os.sep in program else shutil.which(program)
    if not found:
        raise FileNotFoundError(errno.ENOENT, "no such program on PATH", program)
    return [found, *(_completed(request, run, text) for text in run.argv[1:])]


def _environment(request: WorkerRequest, run: BuildRun) -> dict[str, str]:
    """What a build sees: nothing of the server that could decide its result without being said."""
    kept = {name: os.environ[name] for name in (*_KEPT, *_RECORDER) if name in os.environ}
    temporary = _beside(request, _TEMPORARY)
    said = {name: _completed(request, run, value) for name, value in run.env}
    own = {"HOME": temporary, "TMPDIR": temporary, LIBRARIES_VARIABLE: "1"}
    return {**kept, **own, **said}


def _copy_files(request: WorkerRequest, run: BuildRun) -> None:
    for name, path in run.copies:
        place = _place(request, name)
        source = _completed(request, run, path)
        with open(source, "rb") as old, open(place, "xb") as new:
            shutil.copyfileobj(old, new, CHUNK_BYTES)
            os.fchmod(new.fileno(), 0o700 if os.fstat(old.fileno()).st_mode & 0o100 else 0o600)


def _write_files(request: WorkerRequest, run: BuildRun) -> None:
    for name, content in run.files:
        with open(_place(request, name), "xb") as file:
            file.write(content)
    for name, text in run.templates:
        with open(_place(request, name), "xb") as file:
            file.write(_completed(request, run, text).encode())
    if run.function:
        arguments = msgspec.msgpack.decode(run.arguments)
        with open(_beside(request, _ARGUMENTS), "xb") as file:
            marshal.dump((sys.path, run.function, arguments), file)


def _place(request: WorkerRequest, name: str) -> str:
    path = os.path.join(request.folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def _beside(request: WorkerRequest, name: str) -> str:
    return os.path.join(os.path.dirname(request.folder), name)


def _completed(request: WorkerRequest, run: BuildRun, text: str) -> str:
    dirs = dict(zip(run.dirs, request.job.include_dirs, strict=True))
    return completed(text, request.jobs, request.folder, dirs)


# --- what it made ---


def _packed(request: WorkerRequest, run: BuildRun, ran: Ran) -> WorkerAnswer:
    names: set[str] = set()
    for pattern in run.outputs:
        found = list(_matches(request.folder, pattern))
        if not found:
            why = f"it succeeded, and left no file that matches {pattern!r}"
            return JobFailed(kind="compile", log=f"{why}\n{ran.log}".strip())
        names.update(found)
    if odd := [name for name in names if not _is_text(name)]:
        return JobFailed(kind="compile", log=f"{odd[0]!a} is no text, so it can be in no bundle")
    files: list[BundleFile] = []
    left = request.output_limit_bytes
    with open(_beside(request, PACK), "xb") as pack:
        for name in sorted(names):
            path = os.path.join(request.folder, name)
            size = os.path.getsize(path)
            if size > left:
                total = sum(os.path.getsize(os.path.join(request.folder, n)) for n in names)
                return JobFailed(kind="output", size_bytes=max(total, size))
            left -= size
            digest, begun = hashlib.sha256(), pack.tell()
            for chunk in _nameless_chunks(path, os.fsencode(top_of(request.folder))):
                digest.update(chunk)
                pack.write(chunk)
            if pack.tell() - begun != size:
                # By something that it has left running, in a session of its own.
                return JobFailed(kind="compile", log=f"{name} was written to after it had ended")
            executable = bool(os.stat(path).st_mode & 0o100)
            files.append(BundleFile(name, size, digest.hexdigest(), executable))
    shown = run.argv or (run.function,)
    return JobFinished(
        CompileOutput(
            kind="bundle",
            data=b"",
            lowered={},
            log=_without_dirs(ran.log, request, run),
            command=shown,
            seconds=ran.seconds,
            files=tuple(files),
        )
    )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _without_dirs(text: str, request: WorkerRequest, run: BuildRun) -> str:
    """Replace directories of this machine by their names, for what goes into an entry."""
    named = zip(request.job.include_dirs, run.dirs, strict=True)
    for path, name in sorted(named, key=lambda pair: -len(pair[0])):
        text = text.replace(path, f"{{dir:{name}}}")
    return text


def _matches(folder: str, pattern: str) -> Iterator[str]:
    """Yield the files that match, by relative name; of links, those that stay in the folder."""
    inside = os.path.join(os.path.realpath(folder), "")
    for name in glob.glob(pattern, root_dir=folder, recursive=True, include_hidden=True):
        path = os.path.realpath(os.path.join(folder, name))
        if path.startswith(inside) and stat.S_ISREG(os.stat(path).st_mode):
            yield name


def _nameless_chunks(path: str, folder: bytes) -> Iterator[bytes]:
    """Yield a file with a folder's path written over, a piece at a time."""
    other = (b"/job" + b"/." * len(folder))[: len(folder)]
    carried = b""
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            text = (carried + chunk).replace(folder, other)
            # What may be the beginning of the path waits for the next piece.
            cut = max(0, len(text) - len(folder) + 1)
            carried = text[cut:]
            yield text[:cut]
    yield carried
