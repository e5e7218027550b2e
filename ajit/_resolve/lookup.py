"""The look-up: from a base key, through its reading lists and today's files, to an entry.

Blocks: it reads the cache and looks at every file that a list names. So it is called in a thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, cast

from ajit._cache.entries.disk import Found, Lost, Missing, Published, Rejected, has_entries
from ajit._compile.recorder.places import Places, places_of
from ajit._compile.recorder.today import Budget, ListsToday, states_today
from ajit._compile.worker.text import label_of
from ajit._core.reads import NOTHING_READ, entry_key
from ajit._resolve.layers import Layers

if TYPE_CHECKING:
    from ajit._cache.entries.bundles import BundleStore
    from ajit._cache.entries.disk import DiskStore, Lookup
    from ajit._cache.entries.failures import FailureStore
    from ajit._cache.entries.lists import ListStore
    from ajit._compile.toolchains.identity import Toolchain
    from ajit._core.build import Build
    from ajit._core.key import Key
    from ajit._core.reads import ReadingList
    from ajit._core.spec import Spec
    from ajit._system.batched_calls import Moment
    from ajit.errors import CompileError

__all__ = ["Look", "Seeker", "Wanted", "places_for", "places_for_build", "wanted"]

BUILD_LABEL = "\0ajit"
"""No file of a build is called by its name, so nothing that it makes holds its label."""

Look: TypeAlias = "Lookup | CompileError"
"""What the disk has: an entry, good or bad, or none, or the error of a failed compile."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for.

    Attributes:
        base: The base key.
        places: Where the files of a reading list lie for this spec, on this machine.
    """

    base: Key
    places: Places


def places_for(spec: Spec, toolchain: Toolchain) -> Places:
    """Return the directories of a spec."""
    program = "" if toolchain.kind == "nvrtc" else toolchain.path
    return places_of(
        spec.include_dirs, spec.options, toolchain.include_dirs, program, label_of(spec.name)
    )


def wanted(spec: Spec, toolchain: Toolchain, base: Key) -> Wanted:
    """Join a base key with the directories of its spec."""
    return Wanted(base, places_for(spec, toolchain))


def places_for_build(build: Build) -> Places:
    """Return the directories of a build."""
    return places_of([path for _, path in build.dirs], (), (), "", BUILD_LABEL)


NEVER_KEPT = "no such kernel was kept: of this source, its options, compiler and arch"
CHANGED = "files that it reads have changed since it was kept"
EVICTED = "its entry is gone"


class Seeker:
    """Looks for entries of base keys in one cache and its layers. Any thread may use it.

    Args:
        store: The entries of the cache.
        lists: Its reading lists.
        failures: Its failure records.
        layers: What is looked at where it has nothing.
        copies: Whether what a layer has is put into the cache.
    """

    def __init__(
        self,
        store: DiskStore | BundleStore,
        lists: ListStore,
        failures: FailureStore,
        layers: Layers | None = None,
        *,
        copies: bool = False,
    ) -> None:
        self._store = store
        self._lists = lists
        self._failures = failures
        self._layers = layers or Layers()
        self._copies = copies
        self._today = ListsToday()

    def look(
        self,
        wanted: Wanted,
        moment: Moment | None = None,
        *,
        layers: bool = True,
        again: bool = False,
    ) -> Look:
        """Look for an entry and, where there is no good one, for the failure of its compile.

        Args:
            wanted: What is looked for.
            moment: What other looks of the same moment have found out.
            layers: Whether to look at the layers. What others publish is not seen there.
            again: Whether this request has looked before: then only a find is counted, so that a
                kernel that is not there counts once.
        """
        lookup = self.entry(wanted, moment, layers=layers)
        if isinstance(lookup, Found) or not again:
            self._store.count(type(lookup))
        if isinstance(lookup, Found):
            return lookup
        states_of = partial(states_today, places=wanted.places)
        return self._failures.recall(wanted.base.hex, states_of) or lookup

    def entry(self, wanted: Wanted, moment: Moment | None = None, *, layers: bool = True) -> Lookup:
        """Look for an entry: the first list that holds today and leads to a good one."""
        best: Lookup = Missing()
        listed = False
        budget = Budget()
        keys: dict[str, str | None] = {}
        for digest, found in self._lists.lists(wanted.base.hex):
            states = self._states(digest, found, wanted.places, budget, moment)
            keys[digest] = key = (
                None if states is None else entry_key(wanted.base.hex, digest, states)
            )
            listed = listed or found is not NOTHING_READ
            if key is None:
                continue
            lookup = self._store.read(key, counted=False)
            if isinstance(lookup, Found):
                self._lists.used(wanted.base.hex, digest)
                return lookup
            if isinstance(lookup, Rejected) or not isinstance(best, Rejected):
                best = lookup
        if layers and self._layers:
            below = self._entry_below(wanted, keys, budget, moment)
            best = best if isinstance(below, Missing) else below
        return Missing(self._why(wanted, listed=listed)) if best == Missing() else best

    def _why(self, wanted: Wanted, *, listed: bool) -> str:
        """Why there is nothing, as far as names of files tell."""
        if not listed:
            return NEVER_KEPT
        others = has_entries(self._store.directory, wanted.base.hex)
        return CHANGED if others else EVICTED

    def entry_below(self, wanted: Wanted) -> Lookup:
        """Look for an entry in the layers alone, because the cache itself does not answer."""
        keys = {NOTHING_READ.digest: entry_key(wanted.base.hex, NOTHING_READ.digest, ())}
        states_of = partial(self._states, places=wanted.places, budget=Budget(), moment=None)
        return self._layers.look(wanted.base.hex, dict(keys), states_of)[0]

    def _entry_below(
        self,
        wanted: Wanted,
        keys: dict[str, str | None],
        budget: Budget,
        moment: Moment | None,
    ) -> Lookup:
        base, known = wanted.base.hex, set(keys)
        states_of = partial(self._states, places=wanted.places, budget=budget, moment=moment)
        lookup, led = self._layers.look(base, keys, states_of)
        if isinstance(lookup, Found):
            if self._copies and isinstance(self._store.publish(lookup.artifact), Published | Lost):
                self._lists.publish(base, led or NOTHING_READ)
            return lookup
        # A list of a layer may lead to an entry of the cache, whose own list was evicted.
        for digest in keys.keys() - known:
            key = keys[digest]
            above = Missing() if key is None else self._store.read(key, counted=False)
            if isinstance(above, Found):
                return above
        return lookup

    def _states(
        self,
        digest: str,
        found: ReadingList,
        places: Places,
        budget: Budget,
        moment: Moment | None,
    ) -> tuple[str, ...] | None:
        """The states of a list today. Kernels that include the same headers have the same list."""
        if moment is None:
            return self._today.states(digest, found, places, budget)
        about = (digest, places.told_apart)
        if about not in moment:
            moment[about] = self._today.states(digest, found, places, budget)
        return cast("tuple[str, ...] | None", moment[about])
