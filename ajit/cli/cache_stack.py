"""A cache with its layers, as a server looks at them: the cache first, then each layer in order.

What is asked for is looked for in all of them, and the first that has it is where it is taken from.
A layer that is missing or no cache is told and left out, as a server does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ajit._core.reads import BASE_DIGITS
from ajit.cache.opened import open_stack
from ajit.cli.cache_finder import Cache, NoKey, NoSuchEntry
from ajit.cli.output import short_keys, tell_warning
from ajit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ajit._cache.entries.disk import Described

__all__ = ["Caches", "Place", "several"]

SHOWN_VALUE = 23  # "sha256:" and 16 digits


class Place(NamedTuple):
    """Where an entry lies."""

    cache: Cache
    key: str


class Caches:
    """The cache of one command and its layers.

    Args:
        cache_dir: The cache; None for the one that settings name.

    Attributes:
        path: Of the cache itself.
        layers: Paths of the layers that are used.

    Raises:
        CacheError: There is no cache, and no layer either; or one of them must not be used.
    """

    def __init__(self, cache_dir: str | None) -> None:
        settings = Settings(cache_dir=cache_dir)
        stack = open_stack(settings, lambda _, layer: Cache(layer or cache_dir, layer=bool(layer)))
        for warning in stack.warnings:
            tell_warning(warning)
        self.path, self.layers, self._caches = settings.cache_dir, stack.layers, stack.caches

    def __iter__(self) -> Iterator[Cache]:
        return iter(self._caches)

    def find(self, text: str) -> Place:
        """The one entry whose key begins with a text, or whose base key does.

        Raises:
            NoSuchEntry: There is none.
            NoKey: There are several.
        """
        found = self.all_of(text)
        if not found:
            raise NoSuchEntry(key=text, path=self.path, layers=len(self.layers))
        if len(found) > 1:
            raise several(text, found)
        ((key, cache),) = found.items()
        return Place(cache, key)

    def all_of(self, text: str) -> dict[str, Cache]:
        """The keys that begin with a text, or whose base key does; and where each is found."""
        found: dict[str, Cache] = {}
        for cache in self._caches:
            for key in cache.all_of(text):
                # A bad entry of the cache does not hide a good one of a layer.
                if key not in found or not found[key].is_good(key):
                    found[key] = cache
        return found

    def keys(self) -> dict[str, Cache]:
        """The keys of all entries, and where each is found first."""
        found: dict[str, Cache] = {}
        for cache in self._caches:
            for key in cache.keys:
                found.setdefault(key, cache)
        return found

    def manifest(self, text: str) -> tuple[Cache, Described]:
        """What an entry says of itself, verified, and where it lies."""
        cache, key = self.find(text)
        return cache, cache.manifest(key)


def several(text: str, found: Mapping[str, Cache]) -> NoKey:
    """The error of a text that is not one key, with what tells the entries apart."""
    many = f"{len(found)} entries begin with {text!r}: give more digits"
    return NoKey("\n".join([many, *_told_apart(found)]))


def _told_apart(found: Mapping[str, Cache]) -> list[str]:
    """A line for each entry of one base, with what it has and the others have not."""
    if len({key[:BASE_DIGITS] for key in found}) > 1:
        return []
    fields = {key: cache.fields(key) for key, cache in found.items()}
    labels = dict.fromkeys(label for known in fields.values() for label in known)
    differing = [x for x in labels if len({known.get(x) for known in fields.values()}) > 1]
    files = [label for label in differing if label.startswith("file ")] or differing
    short = short_keys(found)
    return [
        f"  {short[key]}  " + ", ".join(_shown(label, fields[key]) for label in files)
        for key in found
    ]


def _shown(label: str, fields: dict[str, str]) -> str:
    value = fields.get(label, "(not read)")
    return f"{label}: {value[:SHOWN_VALUE]}"
