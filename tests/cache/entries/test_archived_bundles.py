"""Bundles in archives: streamed, verified with all of their files, never whole in memory."""

from __future__ import annotations

import hashlib
import io
import tracemalloc

import pytest

from ajit._cache.entries.archive import (
    ArchiveInvalid,
    file_pieces,
    read_archive,
    write_archive,
)
from ajit._cache.entries.bundles import BundleStore
from ajit._cache.entries.results import Found, entry_name
from ajit._cache.files.directory import open_cache_directory
from ajit._core.bundle import encode_frame
from ajit._core.job import BundleFile
from ajit._core.seal import NO_TRUST, HmacKey, Trust
from ajit._resolve.in_place import BytesContent
from tests.cache.artifacts import a_key
from tests.cache.entries.test_archive import forged
from tests.core.test_bundle import a_bundle

LIMIT = 1 << 40
KEY = a_key("bundle")
NAME = entry_name(KEY)
SECRET = Trust("hmac", [HmacKey(b"the secret of these pods")])


def bundle_of(contents: dict[str, bytes]):
    """A bundle of files."""
    files = [
        BundleFile(path, len(data), hashlib.sha256(data).hexdigest())
        for path, data in sorted(contents.items())
    ]
    pack = BytesContent(b"".join(data for _, data in sorted(contents.items())))
    return a_bundle(*files, key=KEY, base=KEY, pack=pack)


SMALL = {"a/b.so": b"\x7fELF" + bytes(5000), "c.json": b"{}", "empty": b""}


def bytes_of(contents=SMALL, trust=NO_TRUST) -> bytes:
    """The file of a bundle."""
    bundle = bundle_of(contents)
    head, tail = encode_frame(bundle, trust)
    return head + bundle.pack.read(0, 1 << 40) + tail


def read(archive: bytes, trust=NO_TRUST) -> dict[str, bytes]:
    """All of an archive."""
    found = read_archive(io.BytesIO(archive), trust, LIMIT)
    return {item.key: b"".join(item.pieces) for item in found}


def test_a_bundle_is_the_same_in_another_cache(tmp_path):
    """Its file has the same bytes, seal included, and verifies with all of its files."""
    first = open_cache_directory(tmp_path / "first")
    assert BundleStore(first, SECRET).publish(bundle_of(SMALL))
    out = io.BytesIO()
    write_archive(out, [NAME], lambda name: file_pieces(first, name))

    held = b"".join(file_pieces(first, NAME))
    assert read(out.getvalue(), SECRET) == {KEY: held}
    assert isinstance(BundleStore(first, SECRET).verify(KEY), Found)


def spoilt(place: int) -> bytes:
    """The file of a bundle with one byte changed."""
    data = bytearray(bytes_of())
    data[place] ^= 0x55
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        spoilt(9),  # its version
        spoilt(60),  # its head
        spoilt(-1000),  # a file
        spoilt(-1),  # its digest
        bytes_of()[:-1],
        bytes_of()[:10],
        bytes_of()[:300],
        bytes_of() + b"more",
        bytes_of(trust=SECRET)[:-1],
    ],
    ids=["version", "head", "file", "digest", "cut", "cut head", "cut file", "more", "cut seal"],
)
def test_a_bundle_that_does_not_verify_is_refused(data):
    """Though its index says that these are its bytes."""
    with pytest.raises(ArchiveInvalid):
        read(forged([(NAME, data)]))


def test_another_keys_bundle_is_refused():
    """A good one, in the wrong place."""
    with pytest.raises(ArchiveInvalid, match="not of"):
        read(forged([(entry_name(a_key("other")), bytes_of())]))


def test_a_bundle_whose_bytes_are_not_the_index_is_refused():
    """It is good, and not what was promised."""
    with pytest.raises(ArchiveInvalid, match="digest"):
        read(forged([(NAME, bytes_of())], sha256="0" * 64))


def test_a_seal_is_asked_for_as_of_a_cache():
    """Who has no key cannot put a bundle there."""
    assert read(forged([(NAME, bytes_of(trust=SECRET))]), SECRET)
    with pytest.raises(ArchiveInvalid, match="does not verify"):
        read(forged([(NAME, bytes_of())]), SECRET)


def test_a_large_bundle_is_never_whole_in_memory(tmp_path):
    """Neither when it is written nor when it is read."""
    directory = open_cache_directory(tmp_path / "cache")
    assert BundleStore(directory).publish(bundle_of({"large.so": bytes(64 << 20)}))
    tracemalloc.start()
    with (tmp_path / "a.ajit").open("w+b") as archive:
        write_archive(archive, [NAME], lambda name: file_pieces(directory, name))
        archive.seek(0)
        size = sum(
            len(piece) for item in read_archive(archive, NO_TRUST, LIMIT) for piece in item.pieces
        )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert size > 64 << 20
    assert peak < 16 << 20
