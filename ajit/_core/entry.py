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

After the end, and not counted in the length, a seal of that digest may follow
(`ajit._core.seal`). A reader that asks for no seal ignores it, so readers of both kinds may share a
store. A reader that asks for one refuses an entry without it. The digest detects accidents, the
seal detects attacks: who can write to the store, but has no key, cannot make such a reader use
anything.

A reader has the whole file in memory, and uses none of it before magic, length, digest and key
echo agree. Lengths are checked against what is there before anything is sliced, so a decoder can
neither crash, nor loop, nor allocate more than the Python objects of what the file really has: its
compiled bytes once more, and its manifest, whose size, counts and lengths are limited. Nothing is
ever unpickled.
"""

from __future__ import annotations

import hashlib
import struct

from ajit._core.manifest import (
    Manifest,
    ManifestInvalid,
    StoredManifest,
    decode_stored,
    encode_stored,
)
from ajit._core.seal import NO_TRUST, NotAuthentic, SealInfo, Trust, is_seal
from ajit._core.short_repr import cut

__all__ = [
    "FORMAT_VERSION",
    "Artifact",
    "CannotEncode",
    "EntryInvalid",
    "EntryOfOtherVersion",
    "Manifest",
    "decode",
    "decode_manifest",
    "encode",
    "seal_of",
]

MAGIC = b"AJITENT\0"
FORMAT_VERSION = 3
_HEADER = struct.Struct("<8sIIQ")
_DIGEST_BYTES = 32
_MINIMUM_BYTES = _HEADER.size + _DIGEST_BYTES
_CODE_SECTION = "code"


class EntryInvalid(ValueError):
    """The bytes are not a valid entry of the key. Internal: a user sees a miss."""


class EntryOfOtherVersion(EntryInvalid):
    """It says that another version of ajit wrote it, which alone can read it."""


class CannotEncode(ValueError):
    """No entry can hold the artifact. Internal: it is used and not kept."""


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


def encode(artifact: Artifact, trust: Trust = NO_TRUST) -> bytes:
    """Return the bytes of an entry, with the seal that this process makes.

    Raises:
        CannotEncode: No reader would take it: it has too many parts, or too long ones.
        CannotSeal: It asks for seals that it cannot make.
    """
    try:
        manifest = encode_stored(artifact, ((_CODE_SECTION, len(artifact.data)),))
    except ManifestInvalid as exc:
        raise CannotEncode(str(exc)) from None
    total = _HEADER.size + len(manifest) + len(artifact.data) + _DIGEST_BYTES
    header = _HEADER.pack(MAGIC, FORMAT_VERSION, len(manifest), total)
    body = b"".join((header, manifest, artifact.data))
    digest = hashlib.sha256(body).digest()
    return b"".join((body, digest, trust.seal("entry", digest)))


def decode(data: bytes | memoryview, key: str, trust: Trust = NO_TRUST) -> Artifact:
    """Verify the bytes of an entry and return its artifact.

    Args:
        data: The whole file.
        key: The key that the entry was looked up by.
        trust: Which seal is asked for.

    Raises:
        EntryInvalid: The bytes are truncated, corrupt, foreign, not authentic, or another key's
            entry.
    """
    stored, code = _verified(memoryview(data), trust)
    if stored.key != key:
        raise EntryInvalid(f"entry of key {stored.key[:16]}, not of {key[:16]}")
    return Artifact(data=bytes(code), **stored.fields())


def decode_manifest(data: bytes | memoryview, trust: Trust = NO_TRUST) -> tuple[Manifest, int]:
    """Verify the bytes of an entry and return its manifest and the size of its compiled bytes.

    Raises:
        EntryInvalid: As for `decode`, but for any key.
    """
    stored, code = _verified(memoryview(data), trust)
    return Manifest(**stored.fields()), len(code)


def seal_of(data: bytes | memoryview, trust: Trust = NO_TRUST) -> SealInfo | None:
    """Return the seal of an entry that was decoded before, under the same trust."""
    view = memoryview(data)
    return _check_seal(view, int(_HEADER.unpack_from(view)[3]), trust)


def _verified(data: memoryview, trust: Trust) -> tuple[StoredManifest, memoryview]:
    manifest_bytes, total = _check_frame(data)
    # Before anything in it is decoded.
    if trust.required != "none":
        _check_seal(data, total, trust)
    end = _HEADER.size + manifest_bytes
    try:
        stored = decode_stored(data[_HEADER.size : end])
    except ManifestInvalid as exc:
        raise EntryInvalid(str(exc)) from None
    return stored, _code_section(stored, data[end : total - _DIGEST_BYTES])


def _check_seal(data: memoryview, total: int, trust: Trust) -> SealInfo | None:
    digest, seal = bytes(data[total - _DIGEST_BYTES : total]), bytes(data[total:])
    try:
        return trust.check("entry", digest, seal)
    except NotAuthentic as exc:
        raise EntryInvalid(str(exc)) from None


def _code_section(stored: StoredManifest, sections: memoryview) -> memoryview:
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


def _check_frame(data: memoryview) -> tuple[int, int]:
    """Check magic, version, lengths and digest; return the lengths of manifest and entry."""
    if len(data) < _MINIMUM_BYTES:
        raise EntryInvalid(f"only {len(data)} bytes")
    magic, version, manifest_bytes, total = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise EntryInvalid("not an entry: wrong magic")
    if version != FORMAT_VERSION:
        raise EntryOfOtherVersion(f"format version {version}, not {FORMAT_VERSION}")
    if total != len(data) and not is_seal(data[total:]):
        raise EntryInvalid(f"{len(data)} bytes, should be {total}")
    if manifest_bytes > total - _MINIMUM_BYTES:
        raise EntryInvalid("manifest longer than the file")
    body = total - _DIGEST_BYTES
    if hashlib.sha256(data[:body]).digest() != data[body:total]:
        raise EntryInvalid("checksum does not match")
    return int(manifest_bytes), int(total)
