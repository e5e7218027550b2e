"""``ajit.cache.scan``: what is in a cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit.cache.opened import OpenedCache, open_stack, settings_for

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from ajit._cache.entries.disk import EntryInfo
    from ajit.settings import Settings

__all__ = ["CacheScan", "CachedEntry", "described", "scan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedEntry:
    """An entry of a cache. Of a bad one only key, file, times and problem are known.

    Attributes:
        key: Hex key.
        file_bytes: Size of the entry's file.
        base: Hex base key, which logs and events name.
        name: Label of the spec that was compiled first.
        entries: Entry points.
        kind: ``cubin``, ``elf``, ``bundle``, ...
        arch: ``sm_90a``, ``x86_64``, ...; "" for a build.
        compiler: Compiler and version.
        size_bytes: Size of the compiled bytes.
        compile_seconds: How long the compile took.
        created: Unix time in seconds.
        last_used: When it was last used, to about an hour, likewise.
        host: The machine that compiled.
        problem: Why the entry cannot be used, or "".
        layer: Path of the layer that has it; "" for the cache itself.
        inode: Of its file. An entry never changes, and one that replaces it has another.
    """

    key: str
    file_bytes: int
    base: str = ""
    name: str = ""
    entries: tuple[str, ...] = ()
    kind: str = ""
    arch: str = ""
    compiler: str = ""
    size_bytes: int = 0
    compile_seconds: float = 0.0
    created: float = 0.0
    last_used: float = 0.0
    host: str = ""
    problem: str = ""
    layer: str = ""
    inode: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheScan:
    """What is in a cache and its layers.

    Attributes:
        cache_dir: The cache.
        layers: Paths of the layers that are used.
        entries: Every entry; of one that several of them have, the first is used.
        warnings: What was left out, and why: layers that are no cache, a cache that is not there,
            directories that cannot be listed.
    """

    cache_dir: Path
    layers: tuple[str, ...]
    entries: tuple[CachedEntry, ...]
    warnings: tuple[str, ...]

    @property
    def file_bytes(self) -> int:
        """Size of the files of all entries, without reading lists and digests."""
        return sum(entry.file_bytes for entry in self.entries)

    @property
    def compile_seconds(self) -> float:
        """How long the compiles of all entries took."""
        return sum(entry.compile_seconds for entry in self.entries)

    @property
    def unusable(self) -> tuple[CachedEntry, ...]:
        """The entries with a problem. They count as misses."""
        return tuple(entry for entry in self.entries if entry.problem)


def scan(
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    settings: Settings | None = None,
    previous: CacheScan | None = None,
) -> CacheScan:
    """Read and verify every entry of a cache and of its layers. Blocks; changes nothing.

    Args:
        cache_dir: The cache; None for the one that settings name.
        settings: How it is opened, and which layers it has; None for those of this process.
        previous: An earlier scan. An entry whose file it has seen is not read again, so a scan
            every few seconds costs a listing of the directory.

    Returns:
        What was found. An entry that is removed meanwhile is left out.

    Raises:
        CacheError: There is no cache, or it cannot be read.
        UnsafeCacheDirectory: Another user could put code there.
    """
    settings = settings_for(cache_dir, settings)
    stack = open_stack(settings, OpenedCache)
    seen = {(one.layer, one.key, one.inode): one for one in _good(previous)}
    entries, warnings = [], list(stack.warnings)
    for cache in stack.caches:
        infos = cache.entries()
        warnings += [f"{cache.path}: {name}: {why}" for name, why in cache.unlisted.items()]
        for info in infos:
            known = seen.get((cache.layer, info.key, info.inode))
            found = _again(known, info) if known else described(cache, info)
            entries += [found] if found else []
    return CacheScan(
        cache_dir=settings.cache_dir,
        layers=tuple(stack.layers),
        entries=tuple(entries),
        warnings=tuple(warnings),
    )


def described(cache: OpenedCache, info: EntryInfo) -> CachedEntry | None:
    """Describe one entry, verified; None if it was removed meanwhile."""
    found = cache.store.manifest(info.key)
    if isinstance(found, tuple):
        manifest, size_bytes, _ = found
        return CachedEntry(
            key=info.key,
            file_bytes=info.size_bytes,
            base=manifest.base,
            name=manifest.name,
            entries=manifest.entries,
            kind=manifest.kind,
            arch=manifest.arch,
            compiler=f"{manifest.compiler} {manifest.compiler_version}",
            size_bytes=size_bytes,
            compile_seconds=manifest.seconds,
            created=manifest.created,
            last_used=info.modified,
            host=manifest.host,
            layer=cache.layer,
            inode=info.inode,
        )
    if not found.reason:
        return None
    return CachedEntry(
        key=info.key,
        file_bytes=info.size_bytes,
        created=info.modified,
        last_used=info.modified,
        problem=found.reason,
        layer=cache.layer,
        inode=info.inode,
    )


def _again(known: CachedEntry, info: EntryInfo) -> CachedEntry:
    """The same entry, which may have been used meanwhile."""
    if info.modified == known.last_used:
        return known
    fields = {name: getattr(known, name) for name in known.__slots__}
    return CachedEntry(**(fields | {"last_used": info.modified}))


def _good(previous: CacheScan | None) -> tuple[CachedEntry, ...]:
    """The entries that need not be read again: what failed may have been a call on the disk."""
    if previous is None:
        return ()
    return tuple(entry for entry in previous.entries if not entry.problem)
