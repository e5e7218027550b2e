r"""Digests of files as the bytes of one file: what a node knows of the headers that lie on it.

Layout, all integers little-endian::

    offset  size  what
    0       8     magic and format version, b"AJITDIG\2"
    8       8     length of the records, R
    16      R     records: MessagePack, a map of 40 bytes (device, inode, size, mtime and ctime in
                  nanoseconds) to 36 bytes (day of the last use since 1970, SHA-256)
    16+R    32    SHA-256 of the file's name and everything before
    48+R    ...   a seal of that digest, see `ajit._core.seal`, or nothing

A forged digest would lead to the entry of another header: a wrong kernel. So a reader that asks for
seals takes only records with a good one. The name is covered, since devices and inodes of one node
mean nothing on another one.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TypeAlias

import msgspec

from ajit._core.seal import NotAuthentic, Trust, is_seal

__all__ = [
    "MAX_BYTES",
    "MAX_RECORDS",
    "DigestFileInvalid",
    "Records",
    "bounded",
    "day_of",
    "decode",
    "digest_of",
    "encode",
    "pack_stamp",
    "pack_value",
]

MAX_RECORDS = 20_000
"""The files used last are kept. Pretty arbitrary: several large trees of headers, 1.6 MB."""

MAX_BYTES = 4 * 1024 * 1024
"""A larger file is not even read."""

Records: TypeAlias = dict[bytes, bytes]
"""Packed stamp to packed day and digest. Packed, since a file of 20 000 is decoded in 3 ms so."""

_MAGIC = b"AJITDIG\2"
_HEADER = struct.Struct("<8sQ")
_STAMP = struct.Struct("<QQQqq")
_VALUE = struct.Struct(">I32s")
_DAY_BYTES = 4
_FILE_BYTES = 16  # of a stamp: device and inode
_DIGEST_BYTES = 32

_decoder = msgspec.msgpack.Decoder(Records)


class DigestFileInvalid(ValueError):
    """The bytes are not such a file. Internal: it counts as not there."""


def pack_stamp(stamp: tuple[int, int, int, int, int]) -> bytes:
    """Return a stamp as the key of a record.

    Raises:
        struct.error: A number does not fit.
    """
    return _STAMP.pack(*stamp)


def pack_value(day: int, digest: str) -> bytes:
    """Return the value of a record."""
    return _VALUE.pack(day, bytes.fromhex(digest))


def digest_of(value: bytes) -> str:
    """Return the digest of a record in hex."""
    return value[_DAY_BYTES:].hex()


def day_of(value: bytes) -> int:
    """Return the day on which a record was last used, counted from 1970."""
    return int.from_bytes(value[:_DAY_BYTES], "big")


def bounded(records: Records) -> Records:
    """Return at most `MAX_RECORDS` of the records: one for each file, those used last."""
    latest: dict[bytes, bytes] = {}
    for stamp in records:
        # A file has one content at a time, and its ctime never goes back to an earlier one.
        other = latest.get(stamp[:_FILE_BYTES])
        if other is None or _STAMP.unpack(stamp)[4] > _STAMP.unpack(other)[4]:
            latest[stamp[:_FILE_BYTES]] = stamp
    stamps = sorted(latest.values(), key=lambda stamp: day_of(records[stamp]), reverse=True)
    return {stamp: records[stamp] for stamp in stamps[:MAX_RECORDS]}


def encode(records: Records, name: str, trust: Trust) -> bytes:
    """Return the bytes of a file of that name, with the seal that this process makes.

    Raises:
        CannotSeal: It asks for seals that it cannot make.
    """
    packed = msgspec.msgpack.encode(records)
    body = _HEADER.pack(_MAGIC, len(packed)) + packed
    digest = _checksum(body, name)
    return body + digest + trust.seal("digests", digest)


def decode(data: bytes, name: str, trust: Trust) -> Records:
    """Verify the bytes of a file and return its records.

    Raises:
        DigestFileInvalid: They are truncated, corrupt, foreign, another name's, or not authentic.
    """
    if len(data) < _HEADER.size + _DIGEST_BYTES:
        raise DigestFileInvalid(f"only {len(data)} bytes")
    magic, length = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise DigestFileInvalid("not a file of digests of this format")
    end = _HEADER.size + length
    body, digest = data[:end], data[end : end + _DIGEST_BYTES]
    seal = data[end + _DIGEST_BYTES :]
    if seal and not is_seal(seal):
        raise DigestFileInvalid(f"{len(data)} bytes do not fit its header")
    if digest != _checksum(body, name):
        raise DigestFileInvalid("checksum does not match")
    try:
        trust.check("digests", digest, seal)
    except NotAuthentic as exc:
        raise DigestFileInvalid(str(exc)) from None
    return _records(body[_HEADER.size :])


def _records(packed: bytes) -> Records:
    try:
        records = _decoder.decode(packed)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise DigestFileInvalid(f"it does not decode: {exc}") from None
    if any(len(k) != _STAMP.size or len(v) != _VALUE.size for k, v in records.items()):
        raise DigestFileInvalid("a record has a wrong length")
    return records


def _checksum(body: bytes, name: str) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + body).digest()
