"""Text that goes into compilers as a name, and text that comes out of them.

Whatever a compiler prints is text from outside: decoded with replacement, capped, made fit for a
terminal, and never read for control.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ajit._printable import printable

if TYPE_CHECKING:
    from ajit._compile.worker.messages import WorkerRequest

__all__ = ["capped", "label_of", "nameless", "without_folder", "without_paths"]

LABEL_LENGTH = 80
"""File names may have 255 bytes; compilers append to them."""


def label_of(name: str) -> str:
    """Return the file name under which a compiler sees the source of a spec of that name."""
    label = re.sub(r"[^A-Za-z0-9_.+-]", "_", os.path.basename(name))[:LABEL_LENGTH].lstrip(".-")
    return label if label.endswith((".cu", ".cpp")) else f"{label or 'kernel'}.cu"


def capped(raw: bytes, limit: int) -> str:
    """Decode what a compiler printed; of a text above the limit keep its beginning and its end.

    A compiler quotes the source, which may hold escape sequences: they are named instead.
    """
    if len(raw) > limit:
        dropped = len(raw) - limit
        middle = f"\n[... {dropped} bytes left out ...]\n".encode()
        raw = raw[: limit // 2] + middle + raw[-limit // 2 :]
    return printable(raw.decode("utf-8", errors="replace"))


def nameless(data: bytes, folder: str) -> bytes:
    """Write over a job's private folder where a result holds its path, without moving anything.

    nvcc puts it into debug information (``-lineinfo``, ``-G``). It means nothing to a reader, and
    would make two compiles of one source differ.
    """
    path = os.fsencode(folder)
    return data.replace(path, (b"/job" + b"/." * len(path))[: len(path)])


def without_folder(text: str, request: WorkerRequest) -> str:
    """Take a job's private folder out of a text: it is gone by the time that anyone reads it."""
    return text.replace(request.folder + os.sep, "").replace(request.folder, "<job>")


def without_paths(text: str, request: WorkerRequest) -> str:
    """Replace directories of this machine by what they are.

    For what goes into an entry, which is read on other machines, by other users. The log of a
    failed compile keeps the user's paths: users of this machine will open those files.
    """
    named: list[tuple[str, str]] = []
    own = "<ajit>" if request.job.compiler == "host" else "<cuda>"
    named += [(path, own) for path in request.include_dirs]
    named += [(path, f"<include {n}>") for n, path in enumerate(request.job.include_dirs)]
    named += [(request.command[0], os.path.basename(request.command[0]))]
    # Longest first: one directory may lie in another.
    for path, name in sorted(named, key=lambda pair: -len(pair[0])):
        if path:
            text = text.replace(path, name)
    return without_folder(text, request)
