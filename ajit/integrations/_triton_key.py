"""Triton's fingerprint of itself, with the large part of it worked out once on a node.

Each process of Triton hashes the 400 MB of its library before it can make its first key, which
takes most of a second; eight that start on two cores take four, and know only then that they wait
for each other. Here the library's digest is kept in ajit's cache, by what the file system says of
the file: one process works it out. The text is Triton's, byte for byte.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pkgutil
import sysconfig
import time
from typing import TYPE_CHECKING, Any

from ajit._system.process import this_process
from ajit.errors import AjitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ajit.integrations._store import Store

__all__ = ["triton_key_by"]

CHUNK_BYTES = 1024 * 1024

SETTLED_SECONDS = 10.0
"""A file that changed more recently is hashed: it may change again within its clock's step."""


def triton_key_by(store: Store) -> Callable[[], str]:
    """Return a function that gives what ``triton.runtime.cache.triton_key`` does.

    Args:
        store: Where the digest of the library is kept.
    """

    @functools.lru_cache
    def triton_key() -> str:
        import triton  # noqa: PLC0415  # a peer

        root = os.path.dirname(os.path.abspath(triton.__file__))
        # First, although it is not the first in the text: a waiter is told at once.
        of_library = _digest_of_library(_library(root), store)
        digests = [_digest(path) for path in _front(root)]
        digests.append(of_library)
        language = os.path.join(root, "language")
        digests += [_digest(path) for path in _modules(language, "triton.language.")]
        return f"{triton.__version__}" + "-".join(digests)

    return triton_key


def _front(root: str) -> Iterator[str]:
    yield os.path.join(root, "runtime", "cache.py")
    for folder in ("compiler", "backends"):
        yield from _modules(os.path.join(root, folder), f"triton.{folder}.")


def _modules(folder: str, prefix: str) -> Iterator[str]:
    for found in pkgutil.walk_packages([folder], prefix=prefix):
        finder: Any = found.module_finder
        yield finder.find_spec(found.name).origin


def _library(root: str) -> str:
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX")).rsplit(".", maxsplit=1)[-1]
    return os.path.join(root, "_C", f"libtriton.{suffix}")


def _digest_of_library(path: str, store: Store) -> str:
    status = os.stat(path)
    if time.time() - status.st_ctime < SETTLED_SECONDS:
        return _digest(path)
    stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    key = f"{this_process().host} {path} {stamp}"
    try:
        kept = store.load(key)
        if kept is not None and len(kept) == hashlib.sha256().digest_size:
            return kept.hex()
        made = _digest(path)
        store.save(key, bytes.fromhex(made))
    except AjitError:  # frozen, or no cache: each process does it, as without ajit
        return _digest(path)
    return made


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
