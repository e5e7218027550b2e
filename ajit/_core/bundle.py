r"""The bundle: an artifact of many files, as the bytes of one file that are never all in memory.

Layout, all integers little-endian::

    offset  size  what
    0       8     magic, b"AJITBUN\0"
    8       4     format version
    12      4     length of the manifest, M
    16      8     length of the whole file
    24      M     manifest: MessagePack; name, mode, length and SHA-256 of each file in it
    24+M    ...   the files, one after another
    end-32  32    SHA-256 of header and manifest

After the end a seal of that digest may follow, as after an entry (`ajit._core.entry`). The manifest
vouches for each file by its digest, so the one checksum, and the seal, are over everything. A
reader verifies the head, which is small, and knows then what each file has to be; it verifies a
file while it copies it, and no one sees the copy before all of them agree.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

import msgspec

from ajit._core.entry import Artifact, CannotEncode, EntryInvalid, EntryOfOtherVersion
from ajit._core.job import BundleFile
from ajit._core.manifest import (
    MAX_MANIFEST_BYTES,
    MAX_NAMES,
    Manifest,
    ManifestInvalid,
    cleaned,
    decoded,
    storable_fields,
)
from ajit._core.seal import NO_TRUST, NotAuthentic, SealInfo, Trust, is_seal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BUNDLE_VERSION",
    "DIGEST_BYTES",
    "HEADER_BYTES",
    "MAGIC",
    "TAIL_BYTES",
    "BundleArtifact",
    "BundleManifest",
    "Content",
    "Frame",
    "decode_head",
    "encode_frame",
    "frame_of",
    "table_of",
]

MAGIC = b"AJITBUN\0"
BUNDLE_VERSION = 1
_HEADER = struct.Struct("<8sIIQ")
HEADER_BYTES = _HEADER.size
DIGEST_BYTES = 32
TAIL_BYTES = DIGEST_BYTES + 256
"""The digest and any seal after it, which is shorter than that."""


class Content(Protocol):
    """The bytes of a bundle's files, one after another. Any thread may read it."""

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes from an offset on: as many as are asked for, unless it ends there. Blocks.

        Raises:
            OSError: They cannot be read.
        """


class BundleArtifact(Artifact, frozen=True, kw_only=True):
    """An artifact of many files. It has their names and digests, and not their bytes.

    Attributes:
        files: The files, sorted by path. In an entry they lie one after another in this order.
        pack: Where their bytes are if not in the cache, a `Content`; or None.
        offset: Where they begin in the entry.
    """

    data: bytes = b""
    files: tuple[BundleFile, ...]
    pack: Any = None
    offset: int = 0

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return sum(file.size_bytes for file in self.files)

    def __repr__(self) -> str:
        return (
            f"<BundleArtifact {self.name[:50]!r} {self.key[:16]} by {self.compiler_version[:60]}, "
            f"{len(self.files)} files, {self.size_bytes} bytes>"
        )


class BundleManifest(Manifest, frozen=True, kw_only=True):
    """The manifest of a bundle: with the table of its files. See `BundleArtifact`."""

    files: Annotated[tuple[BundleFile, ...], msgspec.Meta(max_length=MAX_NAMES)]


class Frame(NamedTuple):
    """What a header says.

    Attributes:
        manifest_bytes: Length of the manifest.
        total_bytes: Length of the file, without a seal.
    """

    manifest_bytes: int
    total_bytes: int

    @property
    def head_bytes(self) -> int:
        """Length of header and manifest, after which the files begin."""
        return _HEADER.size + self.manifest_bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(BundleManifest)


def encode_frame(bundle: BundleArtifact, trust: Trust = NO_TRUST) -> tuple[bytes, bytes]:
    """Return what comes before and after the bytes of a bundle's files.

    Raises:
        CannotEncode: No reader would take it: it has too many parts, or too long ones.
        CannotSeal: It asks for seals that it cannot make.
    """
    manifest = _encoder.encode(BundleManifest(files=bundle.files, **storable_fields(bundle)))
    try:
        _check(decoded(manifest, _decoder))
    except (ManifestInvalid, EntryInvalid) as exc:
        raise CannotEncode(str(exc)) from None
    total = _HEADER.size + len(manifest) + bundle.size_bytes + DIGEST_BYTES
    head = _HEADER.pack(MAGIC, BUNDLE_VERSION, len(manifest), total) + manifest
    digest = hashlib.sha256(head).digest()
    return head, digest + trust.seal("entry", digest)


def frame_of(header: bytes, size_bytes: int) -> Frame:
    """Return what the first bytes of a bundle say, as far as that is possible.

    Args:
        header: The first `HEADER_BYTES` of the file.
        size_bytes: The size of the file.

    Raises:
        EntryInvalid: It is no bundle, or not all of one.
    """
    if len(header) < _HEADER.size:
        raise EntryInvalid(f"only {size_bytes} bytes")
    magic, version, manifest_bytes, total = _HEADER.unpack(header)
    if magic != MAGIC:
        raise EntryInvalid("not a bundle: wrong magic")
    if version != BUNDLE_VERSION:
        raise EntryOfOtherVersion(f"bundle version {version}, not {BUNDLE_VERSION}")
    if manifest_bytes > min(MAX_MANIFEST_BYTES, total - _HEADER.size - DIGEST_BYTES):
        raise EntryInvalid("manifest longer than it may be")
    if not total <= size_bytes < total + TAIL_BYTES - DIGEST_BYTES:
        raise EntryInvalid(f"{size_bytes} bytes, should be {total}")
    return Frame(manifest_bytes, total)


def decode_head(
    head: bytes, tail: bytes, key: str | None, trust: Trust = NO_TRUST
) -> tuple[BundleArtifact, SealInfo | None]:
    """Verify the head of a bundle, and return what is in it and its seal.

    Args:
        head: Header and manifest.
        tail: What comes after the files.
        key: The key that it was looked up by; None takes any.
        trust: Which seal is asked for.

    Raises:
        EntryInvalid: It is corrupt, foreign, not authentic, or another key's bundle.
    """
    frame = Frame(len(head) - _HEADER.size, _HEADER.unpack_from(head)[3])
    digest, seal = tail[:DIGEST_BYTES], tail[DIGEST_BYTES:]
    if hashlib.sha256(head).digest() != digest:
        raise EntryInvalid("checksum does not match")
    if seal and not is_seal(seal):
        raise EntryInvalid(f"{len(seal)} bytes after its end")
    try:
        info = trust.check("entry", digest, seal)
        stored = decoded(head[_HEADER.size :], _decoder)
    except (NotAuthentic, ManifestInvalid) as exc:
        raise EntryInvalid(str(exc)) from None
    _check(stored)
    if key is not None and stored.key != key:
        raise EntryInvalid(f"bundle of key {stored.key[:16]}, not of {key[:16]}")
    if frame.head_bytes + _total(stored.files) + DIGEST_BYTES != frame.total_bytes:
        raise EntryInvalid("files do not add up to the size")
    fields = msgspec.structs.asdict(stored)
    files = fields.pop("files")
    return BundleArtifact(files=files, offset=frame.head_bytes, **cleaned(fields)), info


def table_of(head: bytes) -> tuple[BundleFile, ...]:
    """Return the files that a head names, for who reads what follows before it can be verified.

    Args:
        head: Header and manifest. Nothing vouches for them yet: see `decode_head`.

    Raises:
        EntryInvalid: It cannot be a good one.
    """
    try:
        stored = decoded(head[_HEADER.size :], _decoder)
    except ManifestInvalid as exc:
        raise EntryInvalid(str(exc)) from None
    _check(stored)
    if len(head) + _total(stored.files) + DIGEST_BYTES != _HEADER.unpack_from(head)[3]:
        raise EntryInvalid("files do not add up to the size")
    return stored.files


def _check(stored: BundleManifest) -> None:
    """Refuse a table of files that cannot be made into a directory, or leads out of it."""
    if stored.kind != "bundle":
        raise EntryInvalid(f"a bundle of kind {stored.kind}")
    folders: set[str] = set()
    paths = [file.path for file in stored.files]
    for path in paths:
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in path:
            raise EntryInvalid(f"{path!a} is not the name of a file in a bundle")
        folders.update("/".join(parts[:count]) for count in range(1, len(parts)))
    if sorted(set(paths)) != paths or folders & set(paths):
        raise EntryInvalid("a file of the bundle is there twice, or out of order")


def _total(files: Sequence[BundleFile]) -> int:
    return sum(file.size_bytes for file in files)
