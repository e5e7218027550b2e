"""Whether there is a cache at all: a path that was mistyped must not look like an empty cache."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ajit._cache.files.marker import objection
from ajit.errors import CacheError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NOT_THERE", "must_be_cache"]

NOT_THERE = "there is no such directory"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MAKES_IT = "the first compile makes it; --cache-dir or AJIT_CACHE_DIR names another"
_NAMES_IT = "name a cache with --cache-dir or AJIT_CACHE_DIR"


def must_be_cache(path: Path) -> None:
    """Raise unless a directory is a cache; one without entries is. Makes nothing.

    What else may be wrong with it is found when it is opened.

    Raises:
        CacheError: There is no such directory, or it is none of a cache.
    """
    try:
        fd = os.open(path.expanduser(), _DIRECTORY)
    except FileNotFoundError:
        raise CacheError(path=str(path), reason=NOT_THERE, hint=_MAKES_IT) from None
    except OSError:
        return  # to open it says why
    try:
        reason = objection(fd)
    except OSError:
        return
    finally:
        os.close(fd)
    if reason:
        raise CacheError(path=str(path), reason=reason, hint=_NAMES_IT)
