"""The cache by size and last use, and the entries that stand out."""

from __future__ import annotations

from ajit.dashboard.entries import MOST_SHOWN, Listed, by_size, by_use, outstanding

DAY = 86_400.0


def test_entries_are_grouped_by_size():
    """Counted, and added up."""
    groups = by_size([Listed("a", 10, 0.0), Listed("b", 20, 0.0), Listed("c", 2 << 20, 0.0)])

    found = {group.label: (group.entries, group.size_bytes) for group in groups if group.entries}
    assert {"under 16 KiB": (2, 30), "to 16 MiB": (1, 2 << 20)} == found


def test_entries_are_grouped_by_last_use():
    """By the file system's clock; a time that is ahead counts as now."""
    now = 100 * DAY
    times = [now + 50, now - 10, now - 2 * DAY, 0.0]
    groups = by_use([Listed(str(time), 1, time) for time in times], now)

    assert [2, 0, 1, 0, 1] == [group.entries for group in groups]


def test_the_entries_that_stand_out():
    """The largest, those used last, and those not used for longest; a few of each."""
    entries = [Listed(str(number), 1000 - number, float(number)) for number in range(50)]

    shown = outstanding(entries)

    assert MOST_SHOWN == len(shown["largest"])
    assert ("0", "49", "0") == tuple(shown[name][0].key for name in ("largest", "newest", "unused"))
