"""The nearest cached kernel of a miss: which one was probably meant, and in what it differs.

A server in production may forbid compiling, or want to know why something was compiled. A miss is
then a mistake of the deployment: another driver, another header, a shape that was not warmed up.

A kernel of the same base key is nearer than any other: only files differ, and one of them is the
reason. What its compile read, or looked for in vain, stands in its reading list; each of these
places is looked at again.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

from ajit._compile.recorder.today import state_now, states_today
from ajit._core.key import Difference, explain
from ajit._core.reads import (
    BASE_DIGITS,
    FILE,
    NOTHING_READ,
    READS,
    TOOLCHAIN_FILES,
    belongs_to_toolchain,
    digits_of_list,
    entry_key,
    toolchain_files,
)
from ajit._system.guarded_calls import NoAnswer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._cache.entries.disk import DiskStore
    from ajit._cache.entries.lists import ListStore
    from ajit._compile.recorder.places import Places
    from ajit._core.entry import Manifest
    from ajit._core.events import Differences
    from ajit._core.reads import Read, ReadingList
    from ajit._resolve.budget import Budget
    from ajit._resolve.lookup import Wanted
    from ajit._resolve.request import Request
    from ajit._resolve.services import Services

__all__ = ["Nearest", "nearest_cached", "nearest_in"]

MANIFESTS_READ = 2_000
"""How many entries of other base keys are compared. Pretty arbitrary: a message is worth a few
hundred ms."""

_SAME_BASE, _OTHER_BASE, _NONE = range(3)


class Nearest(NamedTuple):
    """The cached kernel that differs least from a wanted one.

    Attributes:
        key: Its key; "" if none is like it.
        differences: In what they differ.
        rank: The lower, the nearer: what kind of kernel it is, in how much it differs, and, of
            several alike, which was compiled last.
    """

    key: str = ""
    differences: Differences = ()
    rank: tuple[float, ...] = (_NONE,)


async def nearest_cached(
    services: Services, request: Request, budget: Budget | None = None
) -> Nearest:
    """Look for the nearest kernel of a miss, in the cache and in its layers.

    One of them that does not answer has none.
    """
    name, wanted = request.spec.name, request.wanted
    nearest = Nearest()
    with suppress(NoAnswer):
        nearest = await services.on_cache(
            nearest_in, services.store, services.lists, name, wanted, budget=budget
        )
    for layer in services.layers:
        if layer.directory.access == "none":
            continue
        look = partial(nearest_in, layer.store, layer.list_store, name, wanted)
        seconds = min(services.layers.seconds, services.seconds_left())
        with suppress(NoAnswer):
            found = await layer.guard.call(look, seconds=seconds)
            nearest = min(nearest, found, key=lambda one: one.rank)
    return nearest


def nearest_in(store: DiskStore, lists: ListStore, name: str, wanted: Wanted) -> Nearest:
    """Look for the nearest kernel of one cache. Blocks: it reads the cache's entries."""
    nearest = Nearest()
    for manifest in _manifests(store, wanted.base.hex):
        if nearest.rank[0] == _SAME_BASE and manifest.base != wanted.base.hex:
            break
        of_request = _of_request(manifest, wanted)
        if _nothing_in_common(of_request):
            continue
        least = _rank(manifest, name, of_request, wanted)
        if least >= nearest.rank:
            continue  # without a look at its files, of which there may be hundreds
        differences = [*of_request, *_of_files(manifest, lists, of_request, wanted.places)]
        if not differences:
            continue  # it was compiled meanwhile, or had to be compiled again
        rank = _rank(manifest, name, differences, wanted)
        if rank < nearest.rank:
            told = tuple((item.field, item.a, item.b) for item in differences)
            nearest = Nearest(manifest.key, told, rank)
    return nearest


def _manifests(store: DiskStore, base: str) -> Iterator[Manifest]:
    """What entries say of themselves: those of the same base key first, and all of these."""
    digits = base[:BASE_DIGITS]
    alike = store.entries(digits)
    others = (entry for entry in store.entries() if not entry.key.startswith(digits))
    for entry in chain(alike, islice(others, MANIFESTS_READ)):
        found = store.manifest(entry.key)
        if isinstance(found, tuple):
            yield found[0]


def _of_request(manifest: Manifest, wanted: Wanted) -> list[Difference]:
    """In what a cached kernel was asked for in another way."""
    if manifest.base == wanted.base.hex:
        return []
    same = [
        (label, value)
        for label, value in manifest.key_fields
        if not label.startswith(FILE) and label not in (READS, TOOLCHAIN_FILES)
    ]
    return explain(same, wanted.base)


def _of_files(
    manifest: Manifest, lists: ListStore, of_request: list[Difference], places: Places
) -> list[Difference]:
    """What of the files that a cached kernel was made of is something else today."""
    fields = dict(manifest.key_fields)
    digits = digits_of_list(fields.get(READS, ""))
    made = lists.named(manifest.base, digits) if digits else NOTHING_READ
    if made is None:
        return [Difference("reading list", digits, "absent")]
    states = states_today(made.reads, places)
    if states and entry_key(manifest.base, made.digest, states) == manifest.key:
        return []
    # With another toolchain all of its files are others, and no reason beside it.
    skipped = "toolchain" in {item.field for item in of_request}
    reads = [read for read in made.reads if not (skipped and belongs_to_toolchain(read))]
    now = {read: state_now(read, places) for read in reads}
    found = list(_changed(fields, now))
    if not skipped:
        found += _changed_together(fields, made, now)
    return [*found, *_moved_to(found, made, places)]


def _changed(fields: dict[str, str], now: dict[Read, str | None]) -> Iterator[Difference]:
    """Files that changed, appeared where none was, or are gone; and places that moved."""
    for read, state in now.items():
        if _is_tool_file(read):
            if state == "absent":
                yield Difference(f"{FILE}{read}", "present", state)
        elif read.kind == "file":
            if state != (then := fields.get(f"{FILE}{read}")):
                yield Difference(f"{FILE}{read}", then, state)
        elif read.kind == "same":
            if state != "same":
                yield Difference(f"path of {read.place}", read.name, state)
        elif state is not None and (state == "absent") != (read.kind == "absent"):
            yield Difference(f"{FILE}{read}", read.kind, state)


def _changed_together(
    fields: dict[str, str], made: ReadingList, now: dict[Read, str | None]
) -> Iterator[Difference]:
    """The toolchain's files, of which an entry keeps no more than one digest."""
    if any(state == "absent" for read, state in now.items() if _is_tool_file(read)):
        return  # it was named
    today = toolchain_files(made.reads, [now[read] or "absent" for read in made.reads])
    then = fields.get(TOOLCHAIN_FILES)
    if today != then:
        yield Difference(TOOLCHAIN_FILES, then, today)


def _is_tool_file(read: Read) -> bool:
    """Whether its digest is not kept alone, but with those of all other files of the toolchain."""
    return read.kind == "file" and belongs_to_toolchain(read)


def _moved_to(found: list[Difference], made: ReadingList, places: Places) -> Iterator[Difference]:
    """Where a file that is gone is found now: in a directory that the compile did not get to."""
    gone = {item.field for item in found if item.b == "absent"}
    order = [place for place, _ in places.dirs]
    known = {str(read) for read in made.reads}
    for read in made.reads:
        if f"{FILE}{read}" not in gone or read.place not in order:
            continue
        for place in order[order.index(read.place) + 1 :]:
            there = read.in_place(place)
            state = state_now(there, places)
            if state not in (None, "absent"):
                if str(there) not in known:
                    yield Difference(f"{FILE}{there}", None, state)
                break


def _rank(
    manifest: Manifest, name: str, differences: list[Difference], wanted: Wanted
) -> tuple[float, ...]:
    kind = _SAME_BASE if manifest.base == wanted.base.hex else _OTHER_BASE
    return (kind, _distance(manifest, name, differences), -manifest.created)


def _distance(manifest: Manifest, name: str, differences: list[Difference]) -> int:
    """Fields that differ; a kernel of another name or source is further away than any other."""
    weights = {"source": 100, "compiler": 10}
    distance = sum(weights.get(item.field, 1) for item in differences)
    return distance + (0 if manifest.name == name else 100)


def _nothing_in_common(differences: list[Difference]) -> bool:
    fields = {item.field.partition(" ")[0] for item in differences}
    kinds = [item for item in differences if item.field == "schema"]
    # One is a kernel and the other a build, whose schema is called so.
    mixed = any("build" in f"{item.a} {item.b}" for item in kinds)
    return mixed or {"source", "entry"} <= fields or "function" in fields
