"""The cache by size and last use, and the entries that stand out."""

from __future__ import annotations

from ajit._cache.entries.disk import DiskStore
from ajit._cache.files.directory import open_cache_directory
from ajit.dashboard.cache_reader import CacheReader
from ajit.dashboard.entries import MOST_SHOWN, Listed, by_size, by_use, outstanding
from ajit.settings import Settings
from ajit.testing import FakeFileSystem
from tests.cli.test_cache import put

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


def test_what_cannot_be_listed_is_told_as_not_looked_at(tmp_path):
    """The page must not show a cache as smaller than it is."""
    settings = Settings(cache_dir=tmp_path, environ={})
    put(DiskStore(open_cache_directory(tmp_path)), "one")
    reader = CacheReader(lambda: settings)

    whole = reader.entries()
    with FakeFileSystem(tmp_path / "entries") as system:
        system.fail("scandir")
        part = reader.entries()

    assert (whole.entries, whole.partial) == (1, False)
    assert (part.entries, part.partial) == (0, True)
