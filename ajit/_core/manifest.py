"""The manifest of an entry: everything about an artifact except its bytes.

It is MessagePack, whose size, counts and lengths are limited before Python's objects are made.

What of it is only for people (labels, hosts, logs) is cleaned when it is written and when it is
read, see `ajit._printable`. What is compared or looked up (entry points, symbols, parts of the key)
stays as it is.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from ajit._core.job import ArtifactKind
from ajit._core.short_repr import cut
from ajit._printable import printable, printable_line

__all__ = [
    "Line",
    "Manifest",
    "ManifestInvalid",
    "StoredManifest",
    "check_times",
    "cleaned",
    "decode_stored",
    "decoded",
    "encode_stored",
    "storable_fields",
]

MAX_MANIFEST_BYTES = 32 * 1024 * 1024
"""A larger manifest is not decoded. The largest have the names of many thousand headers."""

MAX_LOG_CHARACTERS = 2 * 1024 * 1024
"""Twice what a compile worker keeps of its compiler's output."""

MAX_NAMES = 65_536
"""Entry points, symbols, flags. Pretty arbitrary: more than a source of 64 MiB declares."""

MAX_KEY_FIELDS = 262_144
"""Each file that was read is one; a reading list has at most 50 000."""

MAX_LINE_CHARACTERS = 4096

MAX_SECTIONS = 16

_LATEST = 253_402_300_800.0
"""Unix time of the year 10000, which dates cannot have."""

_LONGEST_SECONDS = 1e9


class ManifestInvalid(ValueError):
    """It does not decode, or is above a limit. Internal: a user sees a miss."""


Line: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_LINE_CHARACTERS)]
Names: TypeAlias = Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_NAMES)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about an artifact except its bytes. See `Artifact` for the fields."""

    key: Line
    base: Line
    key_fields: Annotated[tuple[tuple[str, str], ...], msgspec.Meta(max_length=MAX_KEY_FIELDS)]
    name: Line
    kind: ArtifactKind
    arch: Line
    compiler: Line
    compiler_version: Line
    entries: Names
    lowered: Annotated[dict[str, str], msgspec.Meta(max_length=MAX_NAMES)]
    log: Annotated[str, msgspec.Meta(max_length=MAX_LOG_CHARACTERS)]
    command: Names
    created: float
    seconds: float
    host: Line
    ajit_version: Line


class StoredManifest(Manifest, frozen=True, kw_only=True):
    """The manifest as written: with the table of sections."""

    sections: Annotated[
        tuple[tuple[Line, Annotated[int, msgspec.Meta(ge=0)]], ...],
        msgspec.Meta(max_length=MAX_SECTIONS),
    ]

    def fields(self) -> dict[str, Any]:
        """The fields of a `Manifest`, cleaned."""
        fields = msgspec.structs.asdict(self)
        del fields["sections"]
        return cleaned(fields)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(StoredManifest)
_MANIFEST_FIELDS = Manifest.__struct_fields__
_LINES = ("name", "arch", "compiler", "compiler_version", "host", "ajit_version")
"""Only for people, and one line each."""


def encode_stored(manifest: Manifest, sections: tuple[tuple[str, int], ...]) -> bytes:
    """Return the bytes of a manifest and a table of sections.

    Raises:
        ManifestInvalid: No reader would take it: it has too many parts, or too long ones.
    """
    data = _encoder.encode(StoredManifest(sections=sections, **storable_fields(manifest)))
    decode_stored(data)
    return data


def storable_fields(manifest: Manifest) -> dict[str, Any]:
    """Return the fields of a manifest as they are written: cleaned, and cut to what is read."""
    fields = cleaned({field: getattr(manifest, field) for field in _MANIFEST_FIELDS})
    fields |= {name: cut(fields[name], MAX_LINE_CHARACTERS) for name in _LINES}
    fields["log"] = cut(fields["log"], MAX_LOG_CHARACTERS)
    return fields


def decode_stored(data: bytes | memoryview) -> StoredManifest:
    """Return what bytes hold. Its texts are not cleaned yet.

    Raises:
        ManifestInvalid: See there.
    """
    return decoded(data, _decoder)


M = TypeVar("M", bound=Manifest)


def decoded(data: bytes | memoryview, decoder: msgspec.msgpack.Decoder[M]) -> M:
    """Return what bytes hold, of any kind of manifest. Its texts are not cleaned yet.

    Raises:
        ManifestInvalid: It is too long, does not decode, or has impossible times.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestInvalid(f"manifest of {len(data)} bytes, at most {MAX_MANIFEST_BYTES}")
    try:
        stored = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ManifestInvalid(f"manifest does not decode: {exc}") from None
    check_times(stored)
    return stored


def check_times(manifest: Manifest) -> None:
    """Refuse times that no machine can have.

    Raises:
        ManifestInvalid: See there.
    """
    # Written so that what is not a number is out of bounds.
    if not (0 <= manifest.created < _LATEST and 0 <= manifest.seconds < _LONGEST_SECONDS):
        raise ManifestInvalid(f"no such time: {manifest.created:g}, {manifest.seconds:g} s")


def cleaned(fields: dict[str, Any]) -> dict[str, Any]:
    """Clean what is only for people."""
    for name in _LINES:
        fields[name] = printable_line(fields[name])
    fields["log"] = printable(fields["log"])
    fields["command"] = tuple(map(printable_line, fields["command"]))
    return fields
