"""Layers: read-only cache directories below the one that is written, such as one in an image.

A layer is opened as it is. Nothing is made in it, nothing touched, no lock taken, nothing evicted.
The same rules as for the cache itself decide who may have written to it
(`ajit._cache.files.sharing`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ajit._cache.files.advice import TO_READ, advice
from ajit._cache.files.directory import CacheDirectory, entries_are_authenticated
from ajit._cache.files.folders import close_unwritten
from ajit._cache.files.marker import objection
from ajit._cache.files.sharing import Sharing, sharing_with
from ajit.errors import UnsafeCacheDirectory

if TYPE_CHECKING:
    from ajit.settings import Settings

__all__ = ["layer_paths", "open_layer", "silent_layer"]

A_LAYER = "a layer, which is only read"
_NO_CACHE = (
    "name a cache in AJIT_CACHE_LAYERS, or take this out; of a copied cache, copy CACHEDIR.TAG "
    "as well"
)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def layer_paths(settings: Settings) -> tuple[str, ...]:
    """Absolute paths of the layers that settings name, in order, each once. Touches nothing."""
    paths = filter(None, settings.cache_layers.split(os.pathsep))
    absolute = (str(Path(path).expanduser().absolute()) for path in paths)
    own = str(Path(settings.cache_dir).expanduser().absolute())
    return tuple(path for path in dict.fromkeys(absolute) if path != own)


def open_layer(path: str, settings: Settings) -> CacheDirectory:
    """Open a layer.

    Returns:
        The directory, with access ``read-only``; with access ``none`` and the reason in ``problem``
        if it is not there, cannot be read, or is no cache.

    Raises:
        UnsafeCacheDirectory: Another user could put code there. Nothing was read from it.
        CacheError: There is no such group as it is shared with.
    """
    sharing = sharing_with(
        settings.shared_group,
        path=path,
        allow_unsafe=settings.allow_unsafe_cache,
        authenticated=entries_are_authenticated(settings),
    )
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError as exc:
        hint = f" ({TO_READ})" if isinstance(exc, PermissionError) else ""
        return CacheDirectory(path, -1, "none", f"{exc.strerror}{hint}", sharing)
    status, problem = os.fstat(fd), _why_not(fd)
    reason = sharing.objection(status)
    if not reason and not problem:
        return CacheDirectory(path, fd, "read-only", A_LAYER, sharing)
    close_unwritten(fd)
    if reason:
        hint = advice(path, status, layer=True)
        raise UnsafeCacheDirectory(path=path, reason=reason, hint=hint, layer=True)
    return CacheDirectory(path, -1, "none", problem, sharing)


def silent_layer(path: str, settings: Settings) -> CacheDirectory:
    """Return a layer without access, for a file system that does not answer."""
    sharing = Sharing(allow_unsafe=settings.allow_unsafe_cache)
    return CacheDirectory(path, -1, "none", "it does not answer", sharing)


def _why_not(fd: int) -> str:
    """Why no entry can be found in it, or ""."""
    try:
        reason = objection(fd)
    except OSError as exc:
        return f"{exc.strerror} ({TO_READ})"
    return f"{reason} ({_NO_CACHE})" if reason else _unreadable(fd)


def _unreadable(fd: int) -> str:
    """Why this user cannot read what is in it, or ""."""
    for name in ("entries", "reads"):
        try:
            os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue  # of a cache in which nothing was compiled yet, or nothing with an include
        except OSError as exc:
            return f"{name} in it: {exc.strerror} ({TO_READ})"
        if not os.access(name, os.R_OK | os.X_OK, dir_fd=fd, effective_ids=True):
            return f"no permission to read {name} in it ({TO_READ})"
    return ""
