"""Layers of a runtime: read-only caches that are looked at where the cache itself has nothing.

A look goes through the layers in their order, and the first that has a good entry ends it. Reading
lists of every layer count for all: a list of one may lead to an entry of another, or of the cache.

Each layer has its own guard (`ajit._system.guarded_calls`): one that hangs costs the first looks a
part of the patience, and later ones nothing until it answers. One that is missing, unreadable or no
cache is told once, and looked for again by looks, at most once a second: a volume may be mounted
after the server was started. A look comes before a compile, so that costs no request anything. All
of this blocks, in the thread of a look; it may be abandoned there at any time.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ajit._cache.entries.disk import DiskStore, Found, Missing, Rejected
from ajit._cache.entries.lists import ListStore
from ajit._cache.files.layers import layer_paths, open_layer, silent_layer
from ajit._core.reads import entry_key
from ajit._system.guarded_calls import GuardedCalls, NoAnswer, guarded_calls
from ajit._system.warn import warn_only
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ajit._cache.entries.bundles import BundleStore
    from ajit._cache.entries.disk import DiskStatistics, Lookup
    from ajit._cache.files.directory import CacheDirectory
    from ajit._core.reads import ReadingList
    from ajit._core.seal import Trust
    from ajit.settings import Settings

__all__ = ["Layer", "LayerStatistics", "Layers", "open_layers"]

SHARE = 0.5
"""Of the patience: how long all layers together may take to answer one look. The look itself has
the whole of it, and what hangs in a layer must not be taken for a cache that hangs."""

AGAIN_SECONDS = 1.0
"""How often a layer that is not there is looked for, at most. Pretty arbitrary: less often than
kernels are compiled, and soon enough for a volume that was mounted late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStatistics:
    """What a layer was good for, since the runtime was opened.

    Attributes:
        path: Where it is.
        problem: Why it is not used, or "".
        disk: Its reads.
    """

    path: str
    problem: str
    disk: DiskStatistics


class Layer:
    """One layer. Any thread may use it.

    Args:
        directory: From `ajit._cache.files.layers`.
        trust: Which seal is asked for; as for the cache.
        max_code_bytes: The most compiled bytes of an entry.
        open_again: Opens it once more, if it is not there.

    Attributes:
        guard: Of all calls on it.
        store: Its entries.
        bundles: What of it is bundles.
        list_store: Its reading lists.
    """

    def __init__(
        self,
        directory: CacheDirectory,
        trust: Trust,
        max_code_bytes: int,
        open_again: Callable[[], CacheDirectory],
    ) -> None:
        self.directory = directory
        self._open_again = open_again
        self._lock = threading.Lock()  # held for a few instructions; guards what follows
        self._looked = time.monotonic()
        self.guard: GuardedCalls = guarded_calls(directory.path)
        self.store = DiskStore(directory, trust, max_code_bytes)
        self.bundles = self.store.bundles
        self.list_store = ListStore(directory)

    def lists(self, base: str, seconds: float) -> list[tuple[str, ReadingList]]:
        """The reading lists of a base; none if it does not answer."""
        if not self._is_there(seconds):
            return []
        try:
            look = partial(_listed, self.list_store, base)
            return self.guard.call_blocking(look, seconds=seconds)
        except NoAnswer:
            return []

    def read(self, keys: Sequence[str], seconds: float, *, for_bundle: bool = False) -> Lookup:
        """The first good entry of these keys: a bundle, or one that is none."""
        if not self._is_there(seconds):
            return Missing()
        try:
            look = partial(_first_good, self.bundles if for_bundle else self.store, keys)
            return self.guard.call_blocking(look, seconds=seconds)
        except NoAnswer as exc:
            return Missing(str(exc))

    def statistics(self) -> LayerStatistics:
        """What it was good for."""
        unused = self.directory.problem if self.directory.access == "none" else ""
        return LayerStatistics(
            path=self.directory.path,
            problem=unused or self.guard.reason,
            disk=self.store.statistics(),
        )

    def _is_there(self, seconds: float) -> bool:
        """Whether it can be used; one that could not is looked for again now and then."""
        if self.directory.access == "none" and self._is_due():
            with suppress(NoAnswer):
                self.guard.call_blocking(self._look_again, seconds=seconds)
        return self.directory.access != "none"

    def _is_due(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if now - self._looked < AGAIN_SECONDS:
                return False
            self._looked = now
            return True

    def _look_again(self) -> None:
        try:
            opened = self._open_again()
        except CacheError as exc:
            problem = str(exc)  # unsafe: it stays unused
        else:
            if opened.access != "none":
                self.directory.adopt(opened)
                return
            problem = opened.problem
        if problem != self.directory.problem:
            self.directory.problem = problem
            _warn(self.directory)

    def __repr__(self) -> str:
        return f"<Layer {self.directory.path} {self.directory.access}>"


class Layers:
    """The layers of one runtime, in order. Any thread may use them.

    Args:
        layers: The first is looked at first.
        patience_seconds: The runtime's.
        for_bundles: Whether bundles are looked for, and no other entries.

    Attributes:
        seconds: How long one layer may take to answer one call.
    """

    def __init__(
        self,
        layers: Sequence[Layer] = (),
        patience_seconds: float = 10.0,
        *,
        for_bundles: bool = False,
    ) -> None:
        self._layers = tuple(layers)
        self._patience_seconds = patience_seconds
        self.seconds = patience_seconds * SHARE / max(1, 2 * len(self._layers))
        self._for_bundles = for_bundles

    def __bool__(self) -> bool:
        return bool(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers)

    def of_bundles(self) -> Layers:
        """The same layers, to look for bundles in."""
        return Layers(self._layers, self._patience_seconds, for_bundles=True)

    def look(
        self,
        base: str,
        keys: dict[str, str | None],
        states_of: Callable[[str, ReadingList], tuple[str, ...] | None],
    ) -> tuple[Lookup, ReadingList | None]:
        """Look for the entry of a base.

        Args:
            base: Hex base key.
            keys: Digest of each reading list that was tried, and the key that it led to today;
                those of the layers are added.
            states_of: The states of a list's files today; None if they do not hold.

        Returns:
            What was found, and the reading list that led to it, if it is a layer's.
        """
        best: Lookup = Missing()
        found: dict[str, ReadingList] = {}
        for layer in self._layers:
            for digest, listed in layer.lists(base, self.seconds):
                if digest not in keys:
                    states = states_of(digest, listed)
                    keys[digest] = None if states is None else entry_key(base, digest, states)
                found.setdefault(digest, listed)
            wanted = {key: digest for digest, key in keys.items() if key is not None}
            lookup = layer.read(list(wanted), self.seconds, for_bundle=self._for_bundles)
            if isinstance(lookup, Found):
                return lookup, found.get(wanted[lookup.artifact.key])
            best = lookup if isinstance(lookup, Rejected) else best
        return best, None

    def statistics(self) -> tuple[LayerStatistics, ...]:
        """What each was good for."""
        return tuple(layer.statistics() for layer in self._layers)


async def open_layers(settings: Settings, trust: Trust) -> Layers:
    """Open the layers that settings name. Waits for the patience at most, whatever hangs.

    Raises:
        UnsafeCacheDirectory: Another user could put code into one of them; nothing was started.
    """
    layers = [await _open(path, settings, trust) for path in layer_paths(settings)]
    return Layers(layers, settings.patience_seconds)


async def _open(path: str, settings: Settings, trust: Trust) -> Layer:
    directory = silent = silent_layer(path, settings)

    def adopt(opened: CacheDirectory) -> None:
        if opened.access != "none":
            silent.adopt(opened)

    seconds = settings.patience_seconds * SHARE / max(1, len(layer_paths(settings)))
    with suppress(NoAnswer):
        directory = await guarded_calls(path).call(
            partial(open_layer, path, settings), seconds=seconds, late=adopt
        )
    if directory.access == "none":
        _warn(directory)
    open_again = partial(open_layer, path, settings)
    return Layer(directory, trust, settings.compile_output_limit_bytes, open_again)


def _warn(directory: CacheDirectory) -> None:
    again = "it is looked for again when a kernel is not found elsewhere"
    warn_only(f"the cache layer {directory.path} is not used: {directory.problem}; {again}")


def _listed(lists: ListStore, base: str) -> list[tuple[str, ReadingList]]:
    return list(lists.lists(base))


def _first_good(store: DiskStore | BundleStore, keys: Sequence[str]) -> Lookup:
    best: Lookup = Missing()
    for key in keys:
        lookup = store.read(key)
        if isinstance(lookup, Found):
            return lookup
        best = lookup if isinstance(lookup, Rejected) else best
    return best
