"""What nvcc and host compilers have in common: files of a job, flags, and unknown entry points."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ajit._compile.recorder.flags import DEFAULT_STANDARD, has_standard
from ajit._compile.worker.messages import JobFailed
from ajit._compile.worker.run_program import broke_off
from ajit._compile.worker.text import label_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ajit._compile.worker.messages import WorkerRequest
    from ajit._compile.worker.run_program import Ran

__all__ = ["HOST_SOURCE", "common_arguments", "explain_rejection", "read_result", "write_source"]

EXPLAIN_SECONDS = 20.0
"""What finding out why a source was rejected may take beyond the compile that failed."""

HOST_SOURCE = "source.cpp"
"""What the source is called in the folder of a job for a host compiler."""

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
        text += f'#line 1 "ajit-entries"\n{trailer}\n'
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


class Retries:
    """Compiles a source again, to find out why it was rejected; within bounds.

    A source that takes a minute to fail is not compiled four times more: what its first log says
    must do. An attempt is expected to take as long as the first one.
    """

    def __init__(self, first: Ran, attempt: Callable[[Sequence[str]], Ran]) -> None:
        self._attempt = attempt
        self._expected_seconds = first.seconds
        self._left_seconds = EXPLAIN_SECONDS

    def with_entries(self, entries: Sequence[str]) -> Ran | None:
        """Compile with some of the entry points; None if there is no time for it."""
        if self._expected_seconds > self._left_seconds:
            return None
        ran = self._attempt(entries)
        self._left_seconds -= ran.seconds
        return ran


def explain_rejection(
    request: WorkerRequest, first: Ran, attempt: Callable[[Sequence[str]], Ran]
) -> JobFailed:
    """Say why a job was rejected: its source, an entry point that it does not have, or bad luck.

    The log is not read for that. The source is compiled again: without any entry point, with each
    alone, with all. A driver whose compiler proper was killed (by the kernel's memory killer, say)
    exits like one whose source has an error; the difference is that the error comes back, or that
    the repetition sees the signal.

    Args:
        request: The job.
        first: The attempt that failed.
        attempt: Compiles the source with some of the entry points, as the first was.
    """
    retries = Retries(first, attempt)
    entries = request.job.entries
    questions: list[tuple[tuple[str, ...], str]] = [((), "")]
    questions += [((entry,), entry) for entry in entries]
    questions += [(entries, "")] if len(entries) > 1 else []
    for asked, entry in questions:
        ran = retries.with_entries(asked)
        if ran is None:
            return JobFailed(kind="compile", log=first.log)
        if failed := broke_off(ran):
            return failed
        if not ran.ok:
            return JobFailed(kind="entry" if entry else "compile", entry=entry, log=ran.log)
    return JobFailed(kind="crash", log=first.log, exit_code=first.returncode)


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
