"""Archives: entries of a cache with their reading lists, in one file that can be copied.

A compressed stream (`ajit._cache.entries.archive_streams`) of frames. The first is an index in
JSON: for each file its name in a cache, its size and its SHA-256, in the order of names. The files
follow, with nothing between them and nothing after. It has no time, host or user in it: the same
entries give the same bytes.

Entries keep their seals, for an archive holds the files as they are. What is read is not believed:
`read_archive` yields a file only once its size and digest are those of the index, its name is one
that a cache has, and it verifies under that name. It takes no more memory than the index and the
largest entry that is no bundle, whatever the stream decompresses to. A bundle is never in memory as
a whole: its bytes are yielded while they are verified, and are good when the last of them was.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, NamedTuple

import msgspec

from ajit._cache.entries.archive_streams import StreamInvalid, Unpacked, packing
from ajit._cache.entries.disk import MAX_CODE_BYTES, OVERHEAD_BYTES
from ajit._cache.entries.lists import MAX_LIST_BYTES
from ajit._cache.files.fs import open_checked
from ajit._cache.files.reading import OPEN_TO_READ
from ajit._core.bundle import HEADER_BYTES, decode_head, frame_of, table_of
from ajit._core.bundle import MAGIC as BUNDLE_MAGIC
from ajit._core.entry import EntryInvalid, decode
from ajit._core.reads import ReadingListInvalid, decode_list

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ajit._cache.entries.archive_streams import Compression
    from ajit._cache.files.directory import CacheDirectory
    from ajit._core.job import BundleFile
    from ajit._core.seal import Trust

__all__ = [
    "NO_LIMIT",
    "ArchiveInvalid",
    "ArchivedFile",
    "Verified",
    "file_pieces",
    "read_archive",
    "read_index",
    "write_archive",
]

MAGIC = b"ajit-archive-1\n"

MAX_FILES = 1_000_000
MAX_INDEX_BYTES = 256 * 1024 * 1024
MAX_ENTRY_BYTES = MAX_CODE_BYTES + OVERHEAD_BYTES
"""Of an entry that is no bundle."""
MAX_FILE_BYTES = 1 << 50
"""Of a bundle. Pretty arbitrary: what all files may have together is bounded by who reads."""
NO_LIMIT = MAX_FILES * MAX_FILE_BYTES
_NUMBER_BYTES = 8
CHUNK_BYTES = 1 << 20

_ENTRY = re.compile(r"entries/([0-9a-f]{2})/(\1[0-9a-f]{62})\.ajit")
_LIST = re.compile(r"reads/([0-9a-f]{2})/(\1[0-9a-f]{62})/([0-9a-f]{64})")


class ArchiveInvalid(ValueError):
    """It is no archive, is not whole, or holds what no cache would."""


class ArchivedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of an archive, as its index has it.

    Attributes:
        name: In a cache: ``entries/ab/<key>.ajit`` or ``reads/ab/<base key>/<digest>``.
        size: In bytes.
        sha256: In hex.
    """

    name: Annotated[str, msgspec.Meta(max_length=200)]
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    files: Annotated[tuple[ArchivedFile, ...], msgspec.Meta(max_length=MAX_FILES)]


class Verified(NamedTuple):
    """A file that was read and verified.

    Attributes:
        file: As the index has it.
        key: Of an entry its key, of a reading list its base key.
        pieces: Its bytes, a piece at a time, for once. Of a bundle they are verified on the way:
            then the iterator ends with `ArchiveInvalid` if anything is not as it should be.
    """

    file: ArchivedFile
    key: str
    pieces: Iterator[bytes]


def write_archive(
    out: BinaryIO,
    names: Sequence[str],
    read: Callable[[str], Iterable[bytes]],
    compression: Compression = "gzip",
) -> int:
    """Write an archive.

    Args:
        out: Takes its bytes.
        names: Names of files in a cache.
        read: Yields a file's bytes, a piece at a time. It is called twice for each, for the index
            comes first.
        compression: How it is compressed.

    Returns:
        How many bytes its files have.

    Raises:
        ArchiveInvalid: A file changed between the two.
        NoZstd: See there; nothing was written.
    """
    files = [_described(name, read(name)) for name in sorted(set(names))]
    index = msgspec.json.encode(_Index(tuple(files)))
    with packing(out, compression) as stream:
        stream.write(MAGIC + len(index).to_bytes(_NUMBER_BYTES, "little") + index)
        for file in files:
            if _described(file.name, _written(stream, read(file.name))) != file:
                raise ArchiveInvalid(f"{file.name} was changed meanwhile")
    return sum(file.size for file in files)


def file_pieces(directory: CacheDirectory, name: str) -> Iterator[bytes]:
    """Yield the bytes of a file of a cache.

    Raises:
        OSError: There is none, it must not be used, or it cannot be read.
    """
    parent, _, last = name.rpartition("/")
    fd = directory.folders.retry(
        parent, lambda folder: open_checked(folder, last, OPEN_TO_READ, directory.sharing)
    )
    with os.fdopen(fd, "rb", buffering=0) as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def read_archive(source: BinaryIO, trust: Trust, limit_bytes: int) -> Iterator[Verified]:
    """Yield the files of an archive, each verified. Nothing is known of the rest until the end.

    Args:
        source: From its beginning.
        trust: Which seal of an entry is asked for.
        limit_bytes: What its files may have in all.

    Raises:
        ArchiveInvalid: See there. What was yielded before was good.
        NoZstd: See there.
    """
    stream = _Stream(Unpacked(source))
    for file in _index(stream, limit_bytes):
        item = _item(file, _File(stream, file), trust)
        yield item
        deque(item.pieces, maxlen=0)  # what the caller has not taken
    if stream.read(1):
        raise ArchiveInvalid("there is more in it than its index names")


def read_index(source: BinaryIO) -> list[tuple[str, str]]:
    """Return name and key of each file that an archive's index names. The files are not read.

    Raises:
        ArchiveInvalid: It is no archive, or its index is not good.
        NoZstd: See there.
    """
    files = _index(_Stream(Unpacked(source)), NO_LIMIT)
    matches = [
        (file.name, _ENTRY.fullmatch(file.name) or _LIST.fullmatch(file.name)) for file in files
    ]
    return [(name, match[2]) for name, match in matches if match is not None]


class _Stream:
    """What an archive decompresses to."""

    def __init__(self, unpacked: Unpacked) -> None:
        self._unpacked = unpacked

    def read(self, size: int) -> bytes:
        """Return some bytes, at most so many; none at the end."""
        try:
            return self._unpacked.read(min(CHUNK_BYTES, size))
        except StreamInvalid as exc:
            raise ArchiveInvalid(f"it is cut short or corrupt: {exc}") from exc

    def exactly(self, size: int) -> bytes:
        """Return so many bytes."""
        # By chunks: a size that is a lie must not be allocated before its bytes are there.
        return b"".join(self.pieces(size))

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield so many bytes."""
        while size:
            piece = self.read(size)
            if not piece:
                raise ArchiveInvalid("it is cut short")
            size -= len(piece)
            yield piece


class _File(_Stream):
    """One file in it, which is digested while it is read."""

    def __init__(self, stream: _Stream, file: ArchivedFile) -> None:
        self._stream, self._file = stream, file
        self._digest = hashlib.sha256()
        self.left = file.size

    def read(self, size: int) -> bytes:
        """Return some bytes of it."""
        piece = self._stream.read(min(size, self.left))
        self._digest.update(piece)
        self.left -= len(piece)
        return piece

    def check(self) -> None:
        """Raise unless all that was read is what the index says."""
        if self.left or self._digest.hexdigest() != self._file.sha256:
            raise ArchiveInvalid(f"{self._file.name} has not the digest that the index has")


def _described(name: str, pieces: Iterable[bytes]) -> ArchivedFile:
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return ArchivedFile(name, size, digest.hexdigest())


def _written(stream: Any, pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        stream.write(piece)
        yield piece


def _index(stream: _Stream, limit_bytes: int) -> tuple[ArchivedFile, ...]:
    if stream.exactly(len(MAGIC)) != MAGIC:
        raise ArchiveInvalid("it is no archive of this version of ajit")
    size = int.from_bytes(stream.exactly(_NUMBER_BYTES), "little")
    if size > min(MAX_INDEX_BYTES, limit_bytes):
        raise ArchiveInvalid(f"its index has {size} bytes")
    try:
        files = msgspec.json.decode(stream.exactly(size), type=_Index).files
    except msgspec.DecodeError as exc:
        raise ArchiveInvalid(f"its index does not decode: {exc}") from exc
    names = [file.name for file in files]
    if names != sorted(set(names)):
        raise ArchiveInvalid("its index names a file twice, or not in order")
    for name in names:
        if _ENTRY.fullmatch(name) is None and _LIST.fullmatch(name) is None:
            raise ArchiveInvalid(f"{name!r} is no file of a cache")
    if (total := sum(file.size for file in files)) > limit_bytes:
        raise ArchiveInvalid(f"its files have {total} bytes, at most {limit_bytes} are taken")
    return files


def _item(file: ArchivedFile, source: _File, trust: Trust) -> Verified:
    """Return a file whose bytes are what its name and the index say, or will be found out to be."""
    entry = _ENTRY.fullmatch(file.name)
    begin = source.exactly(min(len(BUNDLE_MAGIC), file.size))
    if entry and begin == BUNDLE_MAGIC:
        return Verified(file, entry[2], _of_bundle(file, begin, source, entry[2], trust))
    most = MAX_ENTRY_BYTES if entry else MAX_LIST_BYTES
    if file.size > most:
        raise ArchiveInvalid(f"{file.name} has {file.size} bytes")
    data = begin + source.exactly(source.left)
    source.check()
    return Verified(file, _verified(file, data, trust), iter((data,)))


def _of_bundle(
    file: ArchivedFile, begin: bytes, source: _File, key: str, trust: Trust
) -> Iterator[bytes]:
    try:
        header = begin + source.exactly(HEADER_BYTES - len(begin))
        head = header + source.exactly(frame_of(header, file.size).manifest_bytes)
        yield head
        for held in table_of(head):
            yield from _of_held(held, source)
        tail = source.exactly(source.left)  # a digest and a seal, as the header has promised
        decode_head(head, tail, key, trust)
        source.check()
        yield tail
    except EntryInvalid as exc:
        raise ArchiveInvalid(f"{file.name} does not verify: {exc}") from exc


def _of_held(held: BundleFile, source: _File) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for piece in source.pieces(held.size_bytes):
        digest.update(piece)
        yield piece
    if digest.hexdigest() != held.sha256:
        raise EntryInvalid(f"{held.path} in it is not what it was")


def _verified(file: ArchivedFile, data: bytes, trust: Trust) -> str:
    """Return the key of an entry that is no bundle, or the base key of a reading list."""
    try:
        if entry := _ENTRY.fullmatch(file.name):
            decode(data, entry[2], trust)
            return entry[2]
        listed = _LIST.fullmatch(file.name)
        assert listed is not None  # the index was checked
        decode_list(data, listed[3])
        return listed[2]
    except (EntryInvalid, ReadingListInvalid) as exc:
        raise ArchiveInvalid(f"{file.name} does not verify: {exc}") from exc
