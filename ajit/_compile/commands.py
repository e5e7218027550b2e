"""What nvcc and host compilers have in common: files of a job, flags, and unknown entry points."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ajit._compile.flags import DEFAULT_STANDARD, has_standard
from ajit._compile.messages import Failed
from ajit._compile.text import label_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ajit._compile.launch import Ran
    from ajit._compile.messages import Request

__all__ = ["common_arguments", "explain_rejection", "read_result", "write_source"]

HEADERS_DIR = "headers"
"""Where virtual headers lie in a job's folder."""


def write_source(request: Request, trailer: str, name: str) -> None:
    """Write the source and the virtual headers into the job's folder.

    Args:
        request: The job.
        trailer: Text of ajit's own to append. It gets a file name of its own, so that no message
            about it seems to come from the user's source.
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


def common_arguments(request: Request) -> list[str]:
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
    request: Request, first: Ran, attempt: Callable[[Sequence[str]], Ran]
) -> Failed:
    """Say why a job was rejected: its source, an entry point that it does not have, or bad luck.

    The log is not read for that. The source is compiled again: without any entry point, with each
    alone, with all. A driver whose compiler proper was killed (by the kernel's memory killer, say)
    exits like one whose source has an error; the difference is that the error comes back.

    Args:
        request: The job.
        first: The attempt that failed.
        attempt: Compiles the source with some of the entry points, as the first was.
    """
    without = attempt(())
    if not without.ok:
        return Failed(kind="compile", log=without.log)
    for entry in request.job.entries:
        alone = attempt((entry,))
        if not alone.ok:
            return Failed(kind="entry", entry=entry, log=alone.log)
    again = attempt(request.job.entries)
    if not again.ok:
        return Failed(kind="compile", log=again.log)
    return Failed(kind="crash", log=first.log, exit_code=first.returncode)


def read_result(request: Request, name: str) -> bytes | str:
    """Return the bytes of a result, or a text that says why there is none."""
    path = os.path.join(request.folder, name)
    try:
        size = os.path.getsize(path)
        if size == 0 or size > request.output_limit_bytes:
            return f"the compiler left a result of {size} bytes"
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return "the compiler said it succeeded and left no result"


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)
