"""Checks of the cache directory: whether it can be used, and whether its locks exclude others."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ajit._cache.files.directory import open_configured_cache
from ajit._cache.files.file_system import is_shared_between_nodes, mount_of
from ajit._cache.files.layers import layer_paths
from ajit._cache.leases.peer_probe import Primitive, Raced, race_with_peer
from ajit._cache.leases.probe import locks_work
from ajit.cli.findings import Check
from ajit.cli.output import format_bytes
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._cache.files.directory import CacheDirectory
    from ajit.settings import Settings

__all__ = ["check_cache"]

LITTLE_SPACE_BYTES = 64 * 1024 * 1024
"""With less free space than this, the check warns. Pretty arbitrary: some hundred kernels."""

PEER_SECONDS = 120.0
"""How long to wait for the process on the other node."""

_BY_PEER = "ajit doctor --with-peer, on two nodes at once"

_OFFERS: dict[Primitive, str] = {
    "fcntl": "AJIT_LEASE=locks would do, and frees the lease of a killed process at once",
    "mkdir": "AJIT_LEASE=directory would do",
}
"""What else leases may rest on, if it excludes."""


def check_cache(settings: Settings, *, with_peer: bool = False) -> Iterator[Check]:
    """Open the cache directory as a runtime would, and look at its file system.

    Args:
        settings: Where it is.
        with_peer: Whether to race what excludes with another node.
    """
    try:
        directory = open_configured_cache(settings)
    except CacheError as exc:
        yield Check("cache", "problem", str(settings.cache_dir), f"{exc.reason}; {exc.hint}")
        return
    if directory.access != "writable":
        found = f"{directory.path}, {directory.access}"
        what = "what no layer has is" if layer_paths(settings) else "kernels are"
        advice = f"{what} compiled but not cached: {directory.problem}"
        yield Check("cache", "problem", found, advice)
        return
    advice = "what no layer has is compiled into it" if layer_paths(settings) else ""
    yield Check("cache", "ok", directory.path, advice)
    yield _check_file_system(directory)
    yield _check_locks(directory)
    yield _check_leases(directory)
    if with_peer:
        yield from check_peer(directory)


def _check_file_system(directory: CacheDirectory) -> Check:
    kind = mount_of(directory.path, directory.fd).kind or "unknown file system"
    status = os.fstatvfs(directory.fd)
    free_bytes = status.f_bavail * status.f_frsize
    found = f"{kind}, {format_bytes(free_bytes)} free"
    if free_bytes < LITTLE_SPACE_BYTES:
        return Check("cache file system", "problem", found, "almost full: kernels cannot be cached")
    if is_shared_between_nodes(kind):
        return Check("cache file system", "ok", found, "other nodes may have it, too")
    return Check("cache file system", "ok", found)


def _check_locks(directory: CacheDirectory) -> Check:
    """Hold a lock on a file of this check, and let another process try to take it."""
    probe = locks_work(directory)
    if probe.works:
        found = "exclude another process of this machine"
        return Check("cache locks", "ok", found, "more than that was not tried")
    found = f"do not work: {probe.reason}"
    if directory.lease_kind == "directory":
        return Check("cache locks", "absent", found, "not needed: leases are directories")
    advice = "kernels stay correct, but several processes may compile the same one"
    return Check("cache locks", "problem", found, advice)


def _check_leases(directory: CacheDirectory) -> Check:
    shared = is_shared_between_nodes(mount_of(directory.path, directory.fd).kind)
    if directory.lease_kind == "directory":
        advice = "between nodes, mkdir decides who compiles; to see whether it does: " + _BY_PEER
    elif shared:
        advice = "whether the locks reach other nodes is not known; to see it: " + _BY_PEER
    else:
        advice = "one compile for each kernel, of all processes of this machine"
    return Check("cache leases", "ok", f"by {directory.lease_kind}", advice)


def check_peer(directory: CacheDirectory) -> Iterator[Check]:
    """Race what may exclude with another process that does the same, on another node."""
    try:
        where, results = race_with_peer(directory, wait_seconds=PEER_SECONDS)
    except (OSError, CacheError) as exc:
        advice = "run the same command on another node, with the same cache, at the same time"
        yield Check("peer", "problem", str(exc), advice)
        return
    yield Check("peer", "ok", where, "the other process that took part")
    needed: Primitive = "mkdir" if directory.lease_kind == "directory" else "fcntl"
    excluding = {raced.primitive for raced in results if raced.excludes}
    for raced in results:
        yield _check_raced(raced, needed, excluding)


def _check_raced(raced: Raced, needed: Primitive, excluding: set[Primitive]) -> Check:
    name = f"peer: {raced.primitive}"
    if raced.problem:
        found = f"not to be had here: {raced.problem}"
    elif raced.both:
        found = f"had by both at once in {raced.both} of {raced.rounds} rounds"
    else:
        found = f"had by one at a time in {raced.rounds} of {raced.rounds} rounds"
    if raced.primitive != needed:
        advice = _OFFERS.get(raced.primitive, "") if raced.excludes else ""
        return Check(name, "ok" if raced.excludes else "absent", found, advice)
    if raced.excludes:
        return Check(name, "ok", found, "leases rest on it: one compile for each kernel")
    other = next((offer for one, offer in _OFFERS.items() if one in excluding), "")
    advice = f"leases rest on it: each node may compile the same kernel{'; ' * bool(other)}{other}"
    return Check(name, "problem", found, advice)
