r"""The entry: one artifact as the bytes of one file.

Layout, all integers little-endian::

    offset  size  what
    0       8     magic, b"AJITENT\0"
    8       4     format version
    12      4     length of the manifest, M
    16      8     length of the whole file
    24      M     manifest: MessagePack, names and lengths of the sections in it
    24+M    ...   the sections, one after another
    end-32  32    SHA-256 of everything before

After the end, and not counted in the length, an authentication trailer may follow::

    0       8     magic, b"AJITMAC\0"
    8       32    HMAC-SHA256 of everything before this trailer, with a secret

A reader without a secret ignores the trailer, so readers with and without a secret may share a
store. A reader with a secret refuses an entry without it. The digest detects accidents, the HMAC
detects attacks: a writer to the store without the secret cannot make such a reader use anything.

A reader has the whole file in memory, and uses none of it before magic, length, digest and key
echo agree. Lengths are checked against what is there before anything is sliced, so a decoder can
neither crash, nor loop, nor allocate more than the Python objects of what the file really has: its
compiled bytes once more, and its manifest. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Annotated, Any

import msgspec

from ajit._core.job import ArtifactKind
from ajit._core.short_repr import cut

__all__ = [
    "FORMAT_VERSION",
    "Artifact",
    "EntryInvalid",
    "EntryOfOtherVersion",
    "decode",
    "decode_manifest",
    "encode",
]

MAGIC = b"AJITENT\0"
FORMAT_VERSION = 2
_HEADER = struct.Struct("<8sIIQ")
_DIGEST_BYTES = 32
_MINIMUM_BYTES = _HEADER.size + _DIGEST_BYTES
_CODE_SECTION = "code"
_MAC_MAGIC = b"AJITMAC\0"
_TRAILER_BYTES = len(_MAC_MAGIC) + _DIGEST_BYTES
_MAC_DOMAIN = b"ajit entry\0"
"""Prefix of the authenticated bytes, so that an HMAC of anything else is not valid here."""


class EntryInvalid(ValueError):
    """The bytes are not a valid entry of the key. Internal: a user sees a miss."""


class EntryOfOtherVersion(EntryInvalid):
    """It says that another version of ajit wrote it, which alone can read it."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about an artifact except its bytes. See `Artifact` for the fields."""

    key: str
    base: str
    key_fields: tuple[tuple[str, str], ...]
    name: str
    kind: ArtifactKind
    arch: str
    compiler: str
    compiler_version: str
    entries: tuple[str, ...]
    lowered: dict[str, str]
    log: str
    command: tuple[str, ...]
    created: float
    seconds: float
    host: str
    ajit_version: str


class Artifact(Manifest, frozen=True, kw_only=True):
    """Compiled bytes with their metadata.

    Attributes:
        key: Hex key.
        base: Hex base key: that of everything but what the compile read. Locks and events have it.
        key_fields: What the key was made of, see `ajit._core.key.Key.fields`.
        name: Label of the spec that was compiled first.
        kind: ``cubin``, or ``elf`` for the CPU driver.
        arch: ``sm_90a``, ``x86_64``, ...
        compiler: ``nvrtc``, ``nvcc`` or ``host``.
        compiler_version: Its full version.
        entries: Entry points as they were asked for.
        lowered: Entry point to the symbol that the driver finds it by.
        log: What the compiler printed.
        command: The compiler's flags, without paths of the machine that compiled.
        created: Unix time in seconds.
        seconds: Wall time of the compile.
        host: The machine that compiled.
        ajit_version: Version of ajit that wrote the entry.
        data: The compiled bytes.
    """

    data: bytes

    @property
    def size_bytes(self) -> int:
        """Size of the compiled bytes."""
        return len(self.data)

    def __repr__(self) -> str:
        compiler = cut(f"{self.compiler} {self.compiler_version}", 60)
        return (
            f"<Artifact {cut(repr(self.name), 50)} {self.key[:16]} {self.kind} for {self.arch} "
            f"by {compiler}, {self.size_bytes} bytes>"
        )


class _Stored(Manifest, frozen=True, kw_only=True):
    """The manifest as written: with the table of sections."""

    sections: tuple[tuple[str, Annotated[int, msgspec.Meta(ge=0)]], ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Stored)
_MANIFEST_FIELDS = Manifest.__struct_fields__


def encode(artifact: Artifact, secret: bytes | None = None) -> bytes:
    """Return the bytes of an entry, authenticated if there is a secret."""
    stored = _Stored(
        sections=((_CODE_SECTION, len(artifact.data)),),
        **{field: getattr(artifact, field) for field in _MANIFEST_FIELDS},
    )
    manifest = _encoder.encode(stored)
    total = _HEADER.size + len(manifest) + len(artifact.data) + _DIGEST_BYTES
    header = _HEADER.pack(MAGIC, FORMAT_VERSION, len(manifest), total)
    body = b"".join((header, manifest, artifact.data))
    entry = body + hashlib.sha256(body).digest()
    return entry if secret is None else entry + _MAC_MAGIC + _mac(entry, secret)


def decode(data: bytes | memoryview, key: str, secret: bytes | None = None) -> Artifact:
    """Verify the bytes of an entry and return its artifact.

    Args:
        data: The whole file.
        key: The key that the entry was looked up by.
        secret: The secret it must be authenticated with; None accepts any entry.

    Raises:
        EntryInvalid: The bytes are truncated, corrupt, foreign, not authentic, or another key's
            entry.
    """
    stored, code = _verified(memoryview(data), secret)
    if stored.key != key:
        raise EntryInvalid(f"entry of key {stored.key[:16]}, not of {key[:16]}")
    return Artifact(data=bytes(code), **_manifest_fields(stored))


def decode_manifest(data: bytes | memoryview, secret: bytes | None = None) -> tuple[Manifest, int]:
    """Verify the bytes of an entry and return its manifest and the size of its compiled bytes.

    Raises:
        EntryInvalid: As for `decode`, but for any key.
    """
    stored, code = _verified(memoryview(data), secret)
    return Manifest(**_manifest_fields(stored)), len(code)


def _verified(data: memoryview, secret: bytes | None) -> tuple[_Stored, memoryview]:
    manifest_bytes, total = _check_frame(data)
    # Before anything in it is decoded.
    if secret is not None:
        _authenticate(data[:total], data[total:], secret)
    end = _HEADER.size + manifest_bytes
    try:
        stored = _decoder.decode(data[_HEADER.size : end])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise EntryInvalid(f"manifest does not decode: {exc}") from None
    return stored, _code_section(stored, data[end : total - _DIGEST_BYTES])


def _is_trailer(rest: memoryview) -> bool:
    return len(rest) == _TRAILER_BYTES and rest[: len(_MAC_MAGIC)] == _MAC_MAGIC


def _authenticate(view: memoryview, trailer: memoryview, secret: bytes) -> None:
    if not trailer:
        raise EntryInvalid("it is not authenticated, and an HMAC is required")
    # In constant time, so that the time tells an attacker nothing about the right HMAC.
    if not hmac.compare_digest(trailer[len(_MAC_MAGIC) :], _mac(view, secret)):
        raise EntryInvalid("its HMAC does not match: written with another secret, or tampered with")


def _mac(entry: bytes | memoryview, secret: bytes) -> bytes:
    authentic = hmac.new(secret, _MAC_DOMAIN, hashlib.sha256)
    authentic.update(entry)
    return authentic.digest()


def _code_section(stored: _Stored, sections: memoryview) -> memoryview:
    """Return the compiled bytes, once the table of sections covers the rest of the file."""
    code = None
    offset = 0
    for name, length in stored.sections:
        if name == _CODE_SECTION:
            if code is not None:
                raise EntryInvalid("two sections with compiled bytes")
            code = sections[offset : offset + length]
        offset += length
    if offset != len(sections):
        raise EntryInvalid("sections do not add up to the file's size")
    if code is None:
        raise EntryInvalid("no section with compiled bytes")
    return code


def _manifest_fields(stored: _Stored) -> dict[str, Any]:
    fields = msgspec.structs.asdict(stored)
    del fields["sections"]
    return fields


def _check_frame(data: memoryview) -> tuple[int, int]:
    """Check magic, version, lengths and digest; return the lengths of manifest and entry."""
    if len(data) < _MINIMUM_BYTES:
        raise EntryInvalid(f"only {len(data)} bytes")
    magic, version, manifest_bytes, total = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise EntryInvalid("not an entry: wrong magic")
    if version != FORMAT_VERSION:
        raise EntryOfOtherVersion(f"format version {version}, not {FORMAT_VERSION}")
    if total != len(data) and not _is_trailer(data[total:]):
        raise EntryInvalid(f"{len(data)} bytes, should be {total}")
    if manifest_bytes > total - _MINIMUM_BYTES:
        raise EntryInvalid("manifest longer than the file")
    body = total - _DIGEST_BYTES
    if hashlib.sha256(data[:body]).digest() != data[body:total]:
        raise EntryInvalid("checksum does not match")
    return int(manifest_bytes), int(total)
