"""What nvcc and host compilers have in common: files of a job, flags, and unknown entry points."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

from ajit._compile.recorder.flags import DEFAULT_STANDARD, has_standard
from ajit._compile.worker.messages import JobFailed
from ajit._compile.worker.rejections import (
    ENTRY_LINES,
    Explaining,
    first_error_place,
    without_more_time,
)
from ajit._compile.worker.run_program import broke_off
from ajit._compile.worker.text import label_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ajit._compile.worker.messages import WorkerRequest
    from ajit._compile.worker.run_program import Ran

__all__ = ["common_arguments", "explain_rejection", "read_result", "write_source"]

PROCESSES = 5
"""A compiler, the shell that it is started through, its parts. Pretty arbitrary: nvcc has four."""

PAUSE_SECONDS = 10

HEADERS_DIR = "headers"
"""Where virtual headers lie in a job's folder."""


def write_source(request: WorkerRequest, trailer: str, name: str) -> None:
    """Write the source and the virtual headers into the job's folder.

    Args:
        request: The job.
        trailer: Text of ajit to append. It gets a separate file name, so that no message about
            it seems to come from the user's source.
        name: The file's name; messages call it by the spec's label.
    """
    label = label_of(request.job.name)
    text = f'#line 1 "{label}"\n{request.job.source}\n'
    if trailer:
        text += f'#line 1 "{ENTRY_LINES}"\n{trailer}\n'
    _write(os.path.join(request.folder, name), text)
    root = os.path.join(request.folder, HEADERS_DIR)
    for header, content in request.job.headers:
        path = os.path.normpath(os.path.join(root, header))
        if not path.startswith(root + os.sep):
            raise ValueError(
                f"virtual header {header!r} has a name that leads out of its directory"
            )
        _write(path, content)


def common_arguments(request: WorkerRequest) -> list[str]:
    """Flags of a job: standard, macros, options, include directories. Toolchain's own come last."""
    job = request.job
    arguments = [] if has_standard(job.options) else [DEFAULT_STANDARD]
    arguments += [
        f"-D{name}" if value is None else f"-D{name}={value}" for name, value in job.defines
    ]
    arguments += job.options
    if job.headers:
        arguments.append(f"-I{HEADERS_DIR}")
    arguments += [f"-I{path}" for path in job.include_dirs]
    for path in request.include_dirs:
        arguments += ["-isystem", path]
    return arguments


def explain_rejection(
    request: WorkerRequest, first: Ran, attempt: Callable[[Sequence[str]], Ran]
) -> JobFailed:
    """Say why a job was rejected: its source, an entry point that it does not have, or bad luck.

    Where the first error stands in the user's text, that is the answer, and nothing is compiled
    again: also if it is inside a template that an entry point instantiates. Else the log is not
    trusted to tell. The source is compiled again: without any entry point, with each alone, with
    all. A driver whose compiler proper was killed (by the kernel's memory killer, say)
    exits like one whose source has an error; the difference is that the error comes back, or that
    the repetition sees the signal. One that could not start its parts exits like that, too, and
    each time: so first it is tried whether that many processes may be started. They may be short
    for moments only: so where no error has a place in the source, a log that tells of it counts.

    Args:
        request: The job.
        first: The attempt that failed.
        attempt: Compiles the source with some of the entry points, as the first was.
    """
    if first_error_place(first.log) == "source":
        return JobFailed(kind="compile", log=first.log)
    if _tells_of_shortage(first.log) or not _may_have_processes():
        return JobFailed(kind="limit", log=first.log)
    if answer := _ask_again(request, first, attempt):
        return answer
    return JobFailed(kind="crash", log=first.log, exit_code=first.returncode)


def _ask_again(
    request: WorkerRequest, first: Ran, attempt: Callable[[Sequence[str]], Ran]
) -> JobFailed | None:
    """Compile with some of the entry points until it fails; None if it never does."""
    explaining = Explaining(first.seconds)
    for asked, entry in _questions(request.job.entries):
        if not explaining.has_time:
            return without_more_time(request.job.entries, first.log)
        ran = attempt(asked)
        explaining.took(ran.seconds)
        if failed := broke_off(ran):
            return failed
        if not ran.ok and _tells_of_shortage(ran.log):
            return JobFailed(kind="limit", log=ran.log)
        if not ran.ok and entry and first_error_place(ran.log) != "source":
            return JobFailed(kind="entry", entry=entry, log=ran.log)
        if not ran.ok:
            return JobFailed(kind="compile", log=ran.log)
    return None


def _tells_of_shortage(log: str) -> bool:
    """Whether a compiler could not start a part of itself; a source cannot say that."""
    return os.strerror(errno.EAGAIN) in log and first_error_place(log) == ""


def _questions(entries: tuple[str, ...]) -> list[tuple[tuple[str, ...], str]]:
    """With which entry points to compile, and which of them is then at fault, if any."""
    alone = [((entry,), entry) for entry in entries]
    return [((), ""), *alone, *([(entries, "")] if len(entries) > 1 else [])]


def _may_have_processes() -> bool:
    """Whether as many processes may be started as a compiler starts, one in another."""
    children: list[int] = []
    try:
        for _ in range(PROCESSES):
            pid = os.fork()
            if pid == 0:
                signal.alarm(PAUSE_SECONDS)  # should this process be killed before its children
                signal.pause()
                os._exit(0)
            children.append(pid)
    except BlockingIOError:
        return False
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return True


def read_result(request: WorkerRequest, name: str, ran: Ran) -> bytes | JobFailed:
    """Return the bytes of a result, or the failure of a compiler that left none of use."""
    path = os.path.join(request.folder, name)
    try:
        size = os.path.getsize(path)
        if size > request.output_limit_bytes:
            return JobFailed(kind="output", size_bytes=size)
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        data = b""
    if data:
        return data
    why = "the compiler said it succeeded and left no result, or an empty one"
    return JobFailed(kind="crash", log=f"{why}\n{ran.log}".strip(), exit_code=0)


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)
