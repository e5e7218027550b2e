"""The look-up: from a base key, through its reading lists and today's files, to an entry.

Blocks: it reads the cache and looks at every file that a list names. So it is called in a thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, cast

from ajit._cache.entries.disk import Found, Missing, Rejected
from ajit._compile.recorder.places import Places, places_of
from ajit._compile.recorder.states import states_today
from ajit._compile.worker.text import label_of
from ajit._core.reads import entry_key

if TYPE_CHECKING:
    from ajit._cache.entries.disk import DiskStore, Lookup
    from ajit._cache.entries.failures import FailureStore
    from ajit._cache.entries.lists import ListStore
    from ajit._compile.toolchains.identity import Toolchain
    from ajit._core.key import Key
    from ajit._core.reads import ReadingList
    from ajit._core.spec import Spec
    from ajit._system.batched_calls import Moment
    from ajit.errors import CompileError

__all__ = ["Look", "Seeker", "Wanted", "wanted"]

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


def wanted(spec: Spec, toolchain: Toolchain, base: Key) -> Wanted:
    """Join a base key with the directories of its spec."""
    program = "" if toolchain.kind == "nvrtc" else toolchain.path
    places = places_of(
        spec.include_dirs, spec.options, toolchain.include_dirs, program, label_of(spec.name)
    )
    return Wanted(base, places)


class Seeker:
    """Looks for entries of base keys in one cache. Any thread may use it."""

    def __init__(self, store: DiskStore, lists: ListStore, failures: FailureStore) -> None:
        self._store = store
        self._lists = lists
        self._failures = failures

    def look(self, wanted: Wanted, moment: Moment | None = None) -> Look:
        """Look for an entry and, where there is no good one, for the failure of its compile.

        Args:
            wanted: What is looked for.
            moment: What other looks of the same moment have found out.
        """
        lookup = self.entry(wanted, moment)
        if isinstance(lookup, Found):
            return lookup
        states_of = partial(states_today, places=wanted.places)
        return self._failures.recall(wanted.base.hex, states_of) or lookup

    def entry(self, wanted: Wanted, moment: Moment | None = None) -> Lookup:
        """Look for an entry: the first list that holds today and leads to a good one."""
        best: Lookup = Missing()
        for digest, found in self._lists.lists(wanted.base.hex):
            states = _states(digest, found, wanted.places, moment)
            if states is None:
                continue
            lookup = self._store.read(entry_key(wanted.base.hex, digest, states))
            if isinstance(lookup, Found):
                self._lists.used(wanted.base.hex, digest)
                return lookup
            if isinstance(lookup, Rejected) or not isinstance(best, Rejected):
                best = lookup
        return best


def _states(
    digest: str, found: ReadingList, places: Places, moment: Moment | None
) -> tuple[str, ...] | None:
    """The states of a list today. Kernels that include the same headers have the same list."""
    if moment is None:
        return states_today(found.reads, places)
    about = (digest, places.told_apart)
    if about not in moment:
        moment[about] = states_today(found.reads, places)
    return cast("tuple[str, ...] | None", moment[about])
