"""Checks of the layers: whether each is a cache that can be read, and what is in it."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from ajit._cache.entries.disk import DiskStore
from ajit._cache.files.file_system import mount_of
from ajit._cache.files.layers import layer_paths, open_layer
from ajit.cli.answering import while_cache_answers
from ajit.cli.findings import Check
from ajit.cli.output import count
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit.settings import Settings

__all__ = ["check_layers"]

NAME = "cache layer"


def check_layers(settings: Settings) -> Iterator[Check]:
    """Look at each layer as a runtime would, in the order in which they are looked at."""
    for path in layer_paths(settings):
        try:
            yield while_cache_answers(
                settings, partial(_check, path, settings), layers=[path], top=False
            )
        except CacheError as exc:
            yield Check(NAME, "problem", path, f"{exc.reason}; {exc.hint}")


def _check(path: str, settings: Settings) -> Check:
    directory = open_layer(path, settings)
    if directory.access == "none":
        named = "" if "AJIT_CACHE_LAYERS" in directory.problem else " (see AJIT_CACHE_LAYERS)"
        return Check(NAME, "problem", path, f"not used: {directory.problem}{named}")
    entries = sum(1 for _ in DiskStore(directory).entries())
    kind = mount_of(path, directory.fd).kind or "unknown file system"
    found = f"{path}, {count(entries, 'entry', 'entries')}, {kind}{_read_only(directory.fd)}"
    return Check(NAME, "ok", found, "" if entries else "nothing is in it: is it the one meant?")


def _read_only(fd: int) -> str:
    return " (mounted read-only)" if os.fstatvfs(fd).f_flag & os.ST_RDONLY else ""
