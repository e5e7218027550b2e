"""What ``ajit cache verify`` shows: what was checked, what is bad, and what of it is gone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ajit._core.seal import SealInfo
from ajit.cli.drawing import Stack
from ajit.cli.output import SHORT_KEY, count, short_keys, table

if TYPE_CHECKING:
    from ajit.cache.checking import Seals, Verification
    from ajit.cli.drawing import Drawn, Table

__all__ = ["draw_fixed", "draw_verified"]


def draw_verified(found: Verification) -> str | Table:
    """Draw what is bad, or say that all is good, as far as it was checked."""
    lists, digests = found.reading_lists, found.digests
    total, seals = _total(found), [_sealed(item) for item in found.seals]
    names = count(len(found.unread), "name", "names")
    seals += [f"{names} could not be read: whether they are good is not known"] * bool(found.unread)
    if _all_good(found):
        unknown = sum(item.entries for item in found.seals if item.state == "unknown")
        all_are = (
            f"all whole; {count(unknown, 'seal', 'seals')} not checked" if unknown else "all good"
        )
        return "\n".join([f"{total}, {all_are}", *seals])
    short = short_keys(item.key for item in found.bad)
    rows = [(short[item.key], item.reason) for item in found.bad]
    rows += [
        (f"reads/{item.base[:SHORT_KEY]}/{item.digest[:SHORT_KEY]}", item.reason)
        for item in lists.bad
    ]
    rows += [(f"digests/{item.node}", item.reason) for item in digests.bad]
    drawn = table("key", "problem")
    for row in [*rows, *((item.name, item.reason) for item in found.unsafe)]:
        drawn.add_row(*row)
    bad = f"{total}, {len(rows)} bad: they count as misses and are made again"
    if found.unsafe:
        several = count(len(found.unsafe), "name is", "names are")
        bad += f"; {several} not used until removed"
    drawn.caption = "\n".join([bad, *seals])
    return drawn


def draw_fixed(found: Verification) -> Drawn:
    """Draw what was bad, and how much of it is gone."""
    drawn = draw_verified(found)
    gone = f"removed {count(len(found.removed), 'file', 'files')}"
    return drawn if isinstance(drawn, str) else Stack(drawn, gone)


def _all_good(found: Verification) -> bool:
    """Whether nothing is bad of what could be read."""
    return replace(found, unread=()).good


def _total(found: Verification) -> str:
    lists, digests = found.reading_lists.checked, found.digests.checked
    numbers = [count(found.checked, "entry", "entries")]
    numbers += [count(lists, "reading list", "reading lists")] if lists else []
    numbers += [count(digests, "file of digests", "files of digests")] if digests else []
    total = f"{', '.join(numbers)} checked"
    if others := found.other_versions:
        total += f" ({others} of other versions of ajit, which alone can verify them)"
    return total


def _sealed(seals: Seals) -> str:
    seal = SealInfo(seals.method, seals.key_id, seals.name, seals.state)
    return f"{count(seals.entries, 'entry', 'entries')} sealed by {seal}"
