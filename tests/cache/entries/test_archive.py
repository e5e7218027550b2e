"""Archives: the same entries give the same bytes, and nothing that is not whole is taken."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from ajit._cache.entries.archive import (
    MAGIC,
    ArchiveInvalid,
    read_archive,
    read_index,
    write_archive,
)
from ajit._cache.entries.archive_streams import GZIP_LEVEL
from ajit._core.entry import encode
from ajit._core.reads import Read, ReadingList
from ajit._core.seal import NO_TRUST, HmacKey, Trust
from tests.cache.artifacts import a_key, an_artifact

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 1 << 30
SECRET = Trust("hmac", [HmacKey(b"the secret of these pods")])
BASE = a_key("base")
LIST = ReadingList((Read("i0", "factor.h", "file"),))


def entry_name(key: str) -> str:
    """Of an entry's file."""
    return f"entries/{key[:2]}/{key}.ajit"


LIST_NAME = f"reads/{BASE[:2]}/{BASE}/{LIST.digest}"


def some_files(trust: Trust = NO_TRUST) -> dict[str, bytes]:
    """Three entries and a reading list, as a cache has them."""
    keys = [a_key(number) for number in range(3)]
    files = {entry_name(key): encode(an_artifact(key, b"code" * 100), trust) for key in keys}
    return files | {LIST_NAME: LIST.encode()}


def pieces(data: bytes) -> list[bytes]:
    """Some bytes, a few at a time."""
    return [data[at : at + 1000] for at in range(0, len(data), 1000)]


def written(files: dict[str, bytes]) -> bytes:
    """An archive of files."""
    out = io.BytesIO()
    write_archive(out, list(files), lambda name: pieces(files[name]))
    return out.getvalue()


def forged(files: list[tuple[str, bytes]], tail: bytes = b"", **changes: object) -> bytes:
    """An archive as one might make it who is not ajit."""
    described = [
        {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **changes}
        for name, data in files
    ]
    index = json.dumps({"files": described}).encode()
    body = b"".join(data for _, data in files)
    return gzip.compress(MAGIC + len(index).to_bytes(8, "little") + index + body + tail, GZIP_LEVEL)


def read(data: bytes, trust: Trust = NO_TRUST, limit: int = LIMIT) -> dict[str, bytes]:
    """All of an archive."""
    found = read_archive(io.BytesIO(data), trust, limit)
    return {item.file.name: b"".join(item.pieces) for item in found}


def test_what_was_written_is_read():
    """Every file as it was, under its name."""
    files = some_files()

    assert read(written(files)) == files
    assert [name for name, _ in read_index(io.BytesIO(written(files)))] == sorted(files)


def test_the_same_files_give_the_same_bytes():
    """In whichever order they are given, at any time."""
    files = some_files()
    backwards = dict(reversed(files.items()))

    assert written(files) == written(backwards)


def test_a_file_that_changes_while_it_is_written_is_refused():
    """The index was made of what it held before."""
    files, asked = some_files(), []

    def changing(name: str) -> list[bytes]:
        asked.append(name)
        return [files[name], b"x" if len(asked) > len(files) else b""]

    with pytest.raises(ArchiveInvalid, match="changed meanwhile"):
        write_archive(io.BytesIO(), list(files), changing)


@pytest.mark.parametrize("end", [0, 5, 40, 0.5, -9, -8, -1])
def test_a_truncated_archive_is_refused(end: float):
    """Wherever it ends."""
    data = written(some_files())
    cut = data[: int(len(data) * end) if isinstance(end, float) else end]

    with pytest.raises(ArchiveInvalid):
        read(cut)


def test_an_archive_with_any_byte_changed_is_refused_or_the_same():
    """Some bytes of a gzip header mean nothing."""
    files = some_files()
    data = written(files)
    places = random.Random(1).sample(range(len(data)), 200)  # noqa: S311  # no secret
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 0x55
        try:
            got = read(bytes(changed))
        except ArchiveInvalid:
            continue
        assert got == files
        assert place < 10


KEY = a_key("evil")
GOOD = encode(an_artifact(KEY))


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        f"entries/{KEY[:2]}/../../{KEY}.ajit",
        f"entries/00/{KEY}.ajit",
        f"entries/{KEY[:2]}/{KEY}.ajit/x",
        f"entries/{KEY[:2]}/{KEY}.ajit\n",
        f"locks/{KEY[:2]}/{KEY}.lock",
        f"digests/{KEY}",
        ".ajit-cache",
        "",
    ],
)
def test_a_name_that_no_cache_has_is_refused(name: str):
    """Before anything of it is looked at."""
    with pytest.raises(ArchiveInvalid, match="no file of a cache"):
        read(forged([(name, GOOD)]))


def more_than_named() -> bytes:
    """Bytes after the last file."""
    return forged([(entry_name(KEY), GOOD)], tail=b"more")


def twice() -> bytes:
    """A file that is named twice."""
    return forged([(entry_name(KEY), GOOD)] * 2)


def another_keys_entry() -> bytes:
    """A good entry in another one's place."""
    return forged([(entry_name(a_key("other")), GOOD)])


def wrong_digest() -> bytes:
    """Not the bytes that the index says."""
    return forged([(entry_name(KEY), GOOD)], sha256="0" * 64)


def no_entry() -> bytes:
    """Bytes that are no entry."""
    return forged([(entry_name(KEY), b"\x7fELF" * 10)])


def no_list() -> bytes:
    """Bytes that are not the list of that digest."""
    return forged([(LIST_NAME, b"list")])


def huge_index() -> bytes:
    """An index of a size that is not there."""
    return gzip.compress(MAGIC + (1 << 60).to_bytes(8, "little"))


def other_fields() -> bytes:
    """An index with more than this version knows."""
    return forged([(entry_name(KEY), GOOD)], mode=0o4755)


def negative() -> bytes:
    """A size below nothing."""
    return forged([(entry_name(KEY), GOOD)], size=-1)


@pytest.mark.parametrize(
    "make",
    [
        more_than_named,
        twice,
        another_keys_entry,
        wrong_digest,
        no_entry,
        no_list,
        huge_index,
        other_fields,
        negative,
        lambda: b"",
        lambda: b"PK\x03\x04 a zip",
        lambda: gzip.compress(b"ajit-archive-2\n"),
    ],
)
def test_what_was_not_made_by_an_export_is_refused(make: Callable[[], bytes]):
    """Whatever it says of itself."""
    with pytest.raises(ArchiveInvalid):
        read(make())


def test_a_bomb_is_refused_before_it_grows():
    """What its index names is counted first; and what decompresses is taken by pieces."""
    zeros = b"\0" * (1 << 26)
    bomb = forged([(entry_name(KEY), zeros)])
    del zeros
    tracemalloc.start()
    with pytest.raises(ArchiveInvalid, match="at most"):
        read(bomb, limit=1 << 20)
    lying = gzip.compress(MAGIC + (1 << 27).to_bytes(8, "little"))
    with pytest.raises(ArchiveInvalid, match="cut short"):
        read(lying)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(bomb) < 1 << 20
    assert peak < 1 << 24


def test_seals_are_asked_for_as_of_a_cache():
    """Who knows no key of it does not take it; and its seals stay."""
    sealed = written(some_files(SECRET))

    assert read(sealed, SECRET) == some_files(SECRET)
    with pytest.raises(ArchiveInvalid, match="does not verify"):
        read(written(some_files()), SECRET)
