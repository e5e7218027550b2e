"""Bundles on disk: entries of many files, which are never read as a whole.

They lie where entries do, by the same kind of name, and have the same life: published create-only,
touched when used, evicted when not. A look-up reads the head alone, which vouches for the rest
(`ajit._core.bundle`). The files are verified when they are copied into a view
(`ajit._cache.entries.views`); a bundle that then proves damaged is removed, and is a miss.

Everything blocks, and any thread may use it. Nothing raises for a failure of the disk.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from ajit._cache.entries.results import (
    Described,
    Found,
    Lost,
    Missing,
    Published,
    PublishFailed,
    Rejected,
    entry_name,
    look_up,
    reason_of,
)
from ajit._cache.entries.touch import Touches
from ajit._cache.files import fs
from ajit._cache.files.reading import OPEN_TO_READ
from ajit._core.bundle import (
    DIGEST_BYTES,
    HEADER_BYTES,
    MAGIC,
    TAIL_BYTES,
    BundleArtifact,
    BundleManifest,
    decode_head,
    encode_frame,
    frame_of,
)
from ajit._core.entry import Artifact, CannotEncode, EntryInvalid
from ajit._core.seal import NO_TRUST, CannotSeal
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ajit._cache.entries.results import Lookup, PublishResult
    from ajit._cache.files.directory import CacheDirectory
    from ajit._core.bundle import Content
    from ajit._core.job import BundleFile
    from ajit._core.seal import Trust

__all__ = ["BundleStore", "Damaged", "OpenBundle", "files_of"]

CHUNK_BYTES = 1024 * 1024


class Damaged(Exception):
    """The files of a bundle are not what its head says, or cannot be read."""


class Unreadable(Damaged):
    """They cannot be read now, and may be good."""


class OpenBundle:
    """A bundle in the cache, open for as long as its files are copied. A context.

    Attributes:
        artifact: What its head says, verified.
        seal: Its seal, or None.
        identity: Device and inode of the file.
    """

    def __init__(self, fd: int, key: str | None, trust: Trust) -> None:
        """Verify the head of an open file, which it closes in the end.

        Raises:
            EntryInvalid: It does not verify.
            OSError: It cannot be read.
        """
        self._fd = fd
        status = os.fstat(fd)
        self.identity = (status.st_dev, status.st_ino)
        self.size_bytes, self.modified = status.st_size, status.st_mtime
        frame = frame_of(self._read(0, HEADER_BYTES), status.st_size)
        head = self._read(0, frame.head_bytes)
        tail = self._read(frame.total_bytes - DIGEST_BYTES, TAIL_BYTES)
        if len(head) < frame.head_bytes:
            raise EntryInvalid(f"{len(head)} bytes, should be {frame.head_bytes}")
        self.artifact, self.seal = decode_head(head, tail, key, trust)

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes of the files, from an offset on. See `Content`."""
        return self._read(self.artifact.offset + offset, count)

    def close(self) -> None:
        """Close the file."""
        fs.close_unwritten(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, offset: int, count: int) -> bytes:
        data = os.pread(self._fd, count, offset)
        # Network file systems may cut a read short.
        while len(data) < count:
            more = os.pread(self._fd, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data


class BundleStore:
    """The bundles of one cache directory.

    Args:
        directory: The cache.
        trust: Which seal of a bundle is asked for.
        count: Counts the results, as those of entries are.

    Attributes:
        count: The same.
    """

    def __init__(
        self,
        directory: CacheDirectory,
        trust: Trust = NO_TRUST,
        count: Callable[[type], None] = lambda _: None,
    ) -> None:
        self.directory = directory
        self._trust = trust
        self.count = count
        self._touches = Touches(directory)

    def open(self, key: str | None, name: str) -> OpenBundle:
        """Open a file of the cache as a bundle.

        Args:
            key: The key that it has to have; None takes any.
            name: Relative name of the file.

        Raises:
            EntryInvalid: It does not verify.
            OSError: There is none, or it cannot be read.
        """
        fd = self._open(name)
        try:
            return OpenBundle(fd, key, self._trust)
        except BaseException:
            fs.close_unwritten(fd)
            raise

    def read(self, key: str, *, counted: bool = True) -> Lookup:
        """Look for a bundle, and verify its head.

        Args:
            key: Whose.
            counted: Whether it is counted; else who asks does.

        Raises:
            ValueError: The text is not a key.
        """
        lookup = self.look(key)
        if isinstance(lookup, Found):
            with suppress(OSError):
                name = entry_name(key)
                self._touches.note(name, fs.stat_file(self.directory, name).st_mtime)
        if counted:
            self.count(type(lookup))
        return lookup

    def look(self, key: str) -> Lookup:
        """The same, neither counted nor noted as a use."""
        name = entry_name(key)

        def read() -> Found:
            with self.open(key, name) as opened:
                return Found(opened.artifact, opened.size_bytes, opened.seal)

        return look_up(self.directory, read)

    def has(self, key: str) -> bool:
        """Whether the file of a key says that it is a bundle.

        Raises:
            ValueError: The text is not a key.
            OSError: There may be one, and it cannot be read.
        """
        try:
            fd = self._open(entry_name(key))
        except (FileNotFoundError, fs.UnusableFile):
            return False
        try:
            return os.pread(fd, len(MAGIC), 0) == MAGIC
        finally:
            fs.close_unwritten(fd)

    def describe(self, key: str) -> Described | Missing | Rejected:
        """Verify a bundle's head, and return what it says of itself."""
        lookup = self.look(key)
        if not isinstance(lookup, Found):
            return lookup
        found = lookup.artifact
        fields = {name: getattr(found, name) for name in BundleManifest.__struct_fields__}
        return Described(BundleManifest(**fields), found.size_bytes, lookup.seal)

    def verify(self, key: str) -> Lookup:
        """Verify a bundle with all of its files."""
        lookup = self.look(key)
        if not isinstance(lookup, Found):
            return lookup

        def read() -> Found:
            with self.open(key, entry_name(key)) as opened:
                for _, pieces in files_of(opened.artifact, opened):
                    deque(pieces, maxlen=0)
            return lookup

        try:
            return look_up(self.directory, read)
        except Unreadable as exc:
            return Missing(str(exc))
        except Damaged as exc:
            return Rejected(str(exc))

    def publish(self, artifact: Artifact, *, replace: bool = False) -> PublishResult:
        """Put a bundle on disk under its key, a piece at a time.

        Raises:
            ValueError: The artifact's key is not a key.
        """
        assert isinstance(artifact, BundleArtifact)
        name = entry_name(artifact.key)
        if self.directory.access != "writable":
            access = "absent" if self.directory.access == "none" else self.directory.access
            result: PublishResult = PublishFailed(f"cache is {access}: {self.directory.problem}")
        else:
            result = self._publish(artifact, name, replace=replace)
        self.count(type(result))
        return result

    def remove_damaged(self, key: str, identity: tuple[int, int]) -> bool:
        """Remove a bundle that proved damaged, if the file of that name is still that one."""
        name = entry_name(key)
        with suppress(OSError, CacheError):
            status = fs.stat_file(self.directory, name)
            if (status.st_dev, status.st_ino) == identity:
                return fs.remove_file(self.directory, name)
        return False

    def _open(self, name: str) -> int:
        parent, _, last = name.rpartition("/")
        sharing = self.directory.sharing
        return self.directory.folders.retry(
            parent, lambda folder: fs.open_checked(folder, last, OPEN_TO_READ, sharing)
        )

    def _publish(self, artifact: BundleArtifact, name: str, *, replace: bool) -> PublishResult:
        result = self._put(artifact, name, replace=replace)
        if isinstance(result, PublishFailed):
            return result
        there = self.look(artifact.key)
        if isinstance(there, Found):
            return result
        if isinstance(result, Lost) and not replace:
            # What has the name is no bundle, whatever a look before may have met.
            return self._publish(artifact, name, replace=True)
        return PublishFailed(
            f"what was written cannot be read back: {there.reason or 'it is gone'}"
        )

    def _put(
        self, artifact: BundleArtifact, name: str, *, replace: bool
    ) -> Published | Lost | PublishFailed:
        try:
            head, tail = encode_frame(artifact, self._trust)
            content = _pieces(artifact.pack, 0, artifact.size_bytes)
            pieces = itertools.chain((head,), content, (tail,))
            method = fs.publish_pieces(self.directory, name, pieces, replace=replace)
            return Published(method, len(head) + artifact.size_bytes + len(tail))
        except FileExistsError:
            return Lost()
        except (OSError, CacheError, CannotEncode, CannotSeal, Damaged) as exc:
            return PublishFailed(reason_of(exc))


def files_of(
    artifact: BundleArtifact, content: Content
) -> Iterator[tuple[BundleFile, Iterator[bytes]]]:
    """Yield each file of a bundle with its bytes, a piece at a time, which are verified on the way.

    What was taken of a file is as good as nothing until its last piece was taken as well: then the
    iterator raises `Damaged` if it is not what the bundle's head says.
    """
    offset = 0
    for file in artifact.files:
        yield file, _verified(file, _pieces(content, offset, file.size_bytes))
        offset += file.size_bytes


def _verified(file: BundleFile, pieces: Iterator[bytes]) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        yield piece
    if digest.hexdigest() != file.sha256:
        raise Damaged(f"{file.path} in it is not what it was")


def _pieces(content: Content, offset: int, size_bytes: int) -> Iterator[bytes]:
    end = offset + size_bytes
    while offset < end:
        try:
            piece = content.read(offset, min(CHUNK_BYTES, end - offset))
        except OSError as exc:
            raise Unreadable(f"it cannot be read: {reason_of(exc)}") from exc
        if not piece:
            raise Damaged(f"{end - offset} bytes of it are missing")
        offset += len(piece)
        yield piece
