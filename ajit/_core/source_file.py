"""The one file that a spec is made from, where it is made with `Spec.from_file`.

Everything else in this package is pure; this reads a file because the user asks for it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ajit._core.short_repr import cut
from ajit.errors import SpecError

__all__ = ["MAX_SOURCE_BYTES", "read_source"]

MAX_SOURCE_BYTES = 64 * 1024 * 1024
"""A source above this is refused. Pretty arbitrary: generated kernels are 10 MB at most."""


def read_source(path: Any) -> tuple[bytes, str]:
    """Return the contents of a source file, and the directory in which it was named.

    Raises:
        SpecError: It cannot be read, or is too large.
    """
    if not isinstance(path, str | os.PathLike):
        raise SpecError(f"path must be str or a path, got {type(path).__name__}")
    try:
        file = Path(path).absolute()
        # Not where a link leads to: compilers look for "x.cuh" beside the name they were given.
        with file.open("rb") as opened:  # at most so much: a device has no end
            source = opened.read(MAX_SOURCE_BYTES + 1)
    except (OSError, ValueError, TypeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise SpecError(
            f"source file {cut(repr(str(path)), 200)} cannot be read: {reason}"
        ) from exc
    if len(source) > MAX_SOURCE_BYTES:
        raise SpecError(
            f"source file {cut(repr(str(path)), 200)} has more than {MAX_SOURCE_BYTES} bytes"
        )
    return source, str(file.parent)
