"""A cache, or a layer, opened to be looked at: nothing is made, and no runtime is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from ajit._cache.entries.disk import MAX_CODE_BYTES, DiskStore
from ajit._cache.files.directory import open_configured_cache
from ajit._cache.files.layers import layer_paths, open_layer
from ajit._cache.files.trust import load_trust
from ajit.cache.presence import must_be_cache
from ajit.errors import CacheError, UnsafeCacheDirectory
from ajit.settings import Settings

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from ajit._cache.entries.disk import EntryInfo, Lookup
    from ajit._cache.entries.lists import ListInfo
    from ajit._cache.entries.node_digests import DigestInfo
    from ajit._core.seal import Trust

__all__ = ["OpenedCache", "Stack", "open_stack", "settings_for"]


class OpenedCache:
    """One cache, or one layer.

    Args:
        settings: Where the cache is, and how it is opened.
        layer: Path of the layer that is opened in its place; "" for the cache itself.
        make: Whether the cache is made if there is none.
        trust: Which seals are asked for; None for those that settings ask for.

    Attributes:
        path: Where it is.
        layer: The same of a layer, else "".
        store: Its entries.
        trust: Which seals are asked for.
        unlisted: Directories that could not be listed so far, and why: they are not empty.

    Raises:
        CacheError: It cannot be used, or there is none.
    """

    def __init__(
        self,
        settings: Settings,
        layer: str = "",
        *,
        make: bool = False,
        trust: Trust | None = None,
    ) -> None:
        self.path = Path(layer) if layer else settings.cache_dir
        self.layer = layer
        if not (make or layer):
            must_be_cache(self.path)
        directory = open_layer(layer, settings) if layer else open_configured_cache(settings)
        if directory.access == "none":
            # A server goes on without its cache; who wants to look at it cannot.
            reason = directory.problem
            raise CacheError(path=directory.path, reason=reason, layer=bool(layer))
        self.trust = load_trust(settings) if trust is None else trust
        limit = max(MAX_CODE_BYTES, settings.compile_output_limit_bytes)
        self.store = DiskStore(directory, self.trust, limit)
        self.unlisted: dict[str, str] = {}

    def entries(self) -> list[EntryInfo]:
        """The files of all entries."""
        return list(self.store.entries(failed=self.note))

    def verify(self) -> Iterator[tuple[str, Lookup]]:
        """Yield the result of reading each entry."""
        return self.store.verify(self.note)

    def lists(self) -> list[ListInfo]:
        """All reading lists, verified."""
        from ajit._cache.entries.lists import ListStore  # noqa: PLC0415  # `scan` needs none

        return list(ListStore(self.store.directory).files(failed=self.note))

    def digests(self) -> list[DigestInfo]:
        """The digests that each node keeps, verified."""
        from ajit._cache.entries.node_digests import digest_files  # noqa: PLC0415  # the same

        return list(digest_files(self.store.directory, self.trust, self.note))

    def unsafe(self) -> list[tuple[str, str]]:
        """What is not used until it is removed, since another user may have put it there; and why.

        Directories, and files of the history.
        """
        from ajit._cache.entries.history_reader import unusable_history  # noqa: PLC0415  # the same
        from ajit._cache.files.fs import unsafe_folders  # noqa: PLC0415  # the same

        directory = self.store.directory
        return [*unsafe_folders(directory), *unusable_history(directory)]

    def read(self, key: str) -> Lookup:
        """Read an entry, with all of its files if it is a bundle."""
        return self.store.read_whole(key)

    def note(self, name: str, error: OSError) -> None:
        """Note what could not be listed."""
        self.unlisted[name] = error.strerror or str(error)


C = TypeVar("C", bound=OpenedCache)


class Stack(NamedTuple, Generic[C]):
    """A cache with its layers.

    Attributes:
        caches: The cache itself, if it is there, then each layer that is used.
        layers: Paths of those layers.
        warnings: What was left out, and why.
    """

    caches: list[C]
    layers: list[str]
    warnings: list[str]


def open_stack(settings: Settings, opened: Callable[[Settings, str], C]) -> Stack[C]:
    """Open a cache and its layers, as a server looks at them.

    Args:
        settings: Which.
        opened: Opens one: `OpenedCache`, or a kind of it.

    Raises:
        CacheError: There is no cache, and no layer either.
        UnsafeCacheDirectory: One of them must not be used: a server would not start.
    """
    layers: list[C] = []
    warnings: list[str] = []
    for path in layer_paths(settings):
        try:
            layers.append(opened(settings, path))
        except UnsafeCacheDirectory:
            raise
        except CacheError as exc:
            warnings.append(f"{exc}; it is left out")
    try:
        top = [opened(settings, "")]
    except UnsafeCacheDirectory:
        raise
    except CacheError as exc:
        if not layers:
            raise
        warnings.append(str(exc))
        top = []
    return Stack([*top, *layers], [layer.layer for layer in layers], warnings)


def settings_for(cache_dir: str | os.PathLike[str] | None, settings: Settings | None) -> Settings:
    """Return the settings of a call: those given, or made now; with the directory if one is."""
    if settings is None:
        return Settings(cache_dir=cache_dir)
    return settings if cache_dir is None else replace(settings, cache_dir=Path(cache_dir))
