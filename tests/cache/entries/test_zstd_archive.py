"""Archives that are compressed by zstd: as good, and as little believed, as those by gzip."""

from __future__ import annotations

import gzip
import io
import random
import tracemalloc

import pytest

from ajit._cache.entries.archive import (
    MAGIC,
    ArchiveInvalid,
    read_index,
    write_archive,
)
from ajit._cache.entries.archive_streams import packing
from tests.cache.entries.test_archive import (
    GOOD,
    KEY,
    entry_name,
    forged,
    pieces,
    read,
    some_files,
)

pytest.importorskip("zstandard")


def written(files: dict[str, bytes]) -> bytes:
    """An archive of files."""
    out = io.BytesIO()
    write_archive(out, list(files), lambda name: pieces(files[name]), "zstd")
    return out.getvalue()


def by_zstd(data: bytes) -> bytes:
    """Some bytes as a zstd stream."""
    out = io.BytesIO()
    with packing(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue()


def test_what_was_written_is_read_and_is_the_same_each_time():
    """Every file as it was, under its name."""
    files = some_files()
    data = written(files)

    assert read(data) == files
    assert [name for name, _ in read_index(io.BytesIO(data))] == sorted(files)
    assert written(dict(reversed(files.items()))) == data


@pytest.mark.parametrize("end", [5, 40, 0.5, -9, -5])
def test_a_truncated_archive_is_refused(end: float):
    """Wherever it ends before the last of its files does."""
    data = written(some_files())

    with pytest.raises(ArchiveInvalid):
        read(data[: int(len(data) * end) if isinstance(end, float) else end])


def test_an_archive_with_any_byte_changed_is_refused_or_the_same():
    """Not all of a header means something."""
    files = some_files()
    data = written(files)
    taken = 0
    for place in random.Random(1).sample(range(len(data)), 200):  # noqa: S311  # no secret
        changed = bytearray(data)
        changed[place] ^= 0x55
        try:
            assert read(bytes(changed)) == files
            taken += 1
        except ArchiveInvalid:
            continue

    assert taken < 5


def test_what_follows_an_archive_is_refused():
    """In the stream, or as a second one behind it."""
    inside = by_zstd(gzip.decompress(forged([(entry_name(KEY), GOOD)], tail=b"more")))

    for data in (inside, written(some_files()) + by_zstd(b"more")):
        with pytest.raises(ArchiveInvalid, match="more in it"):
            read(data)


def test_a_bomb_is_refused_before_it_grows():
    """What its index names is counted first; and what decompresses is taken by pieces."""
    bomb = by_zstd(gzip.decompress(forged([(entry_name(KEY), b"\0" * (1 << 26))])))
    lying = by_zstd(MAGIC + (1 << 27).to_bytes(8, "little"))
    tracemalloc.start()
    with pytest.raises(ArchiveInvalid, match="at most"):
        read(bomb, limit=1 << 20)
    with pytest.raises(ArchiveInvalid, match="cut short"):
        read(lying)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(bomb) < 1 << 20
    assert peak < 1 << 24
