"""The cache by size, age and last use, and the entries that stand out. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ajit.dashboard.snapshot import Group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["MOST_SHOWN", "Listed", "by_size", "by_use", "outstanding"]

MOST_SHOWN = 12
"""Entries of each list."""

_KIB, _MIB = 1024, 1024 * 1024
_HOUR, _DAY = 3600, 86_400

_SIZES = (
    ("under 16 KiB", 16 * _KIB),
    ("to 128 KiB", 128 * _KIB),
    ("to 1 MiB", _MIB),
    ("to 16 MiB", 16 * _MIB),
    ("larger", None),
)
_USES = (
    ("last hour", _HOUR),
    ("last day", _DAY),
    ("last week", 7 * _DAY),
    ("last 30 days", 30 * _DAY),
    ("longer ago", None),
)


class Listed(NamedTuple):
    """The file of an entry.

    Attributes:
        key: Hex key.
        size_bytes: Of the file.
        used: When it was last used, to about an hour, by the file system's clock.
    """

    key: str
    size_bytes: int
    used: float


def by_size(entries: Iterable[Listed]) -> tuple[Group, ...]:
    """Group entries by their size."""
    return _grouped(entries, _SIZES, lambda entry: entry.size_bytes)


def by_use(entries: Iterable[Listed], now: float) -> tuple[Group, ...]:
    """Group entries by when they were last used."""
    return _grouped(entries, _USES, lambda entry: now - entry.used)


def outstanding(entries: Sequence[Listed]) -> dict[str, list[Listed]]:
    """Return the largest, the ones used last, and the ones that have not been used for longest."""
    by_time = sorted(entries, key=lambda entry: entry.used)
    return {
        "largest": sorted(entries, key=lambda entry: -entry.size_bytes)[:MOST_SHOWN],
        "newest": by_time[::-1][:MOST_SHOWN],
        "unused": by_time[:MOST_SHOWN],
    }


def _grouped(
    entries: Iterable[Listed],
    limits: Sequence[tuple[str, int | None]],
    value_of: Callable[[Listed], float],
) -> tuple[Group, ...]:
    counts, sizes = [0] * len(limits), [0] * len(limits)
    for entry in entries:
        value = value_of(entry)
        place = next(i for i, (_, limit) in enumerate(limits) if limit is None or value < limit)
        counts[place] += 1
        sizes[place] += entry.size_bytes
    return tuple(
        Group(label, count, size)
        for (label, _), count, size in zip(limits, counts, sizes, strict=True)
    )
