"""The holder record: what a lock file says about the holder of the lease.

It informs waiters. Only the kernel decides about the lock.
Layout, little-endian, in one write of a fixed size::

    offset  size  what
    0       4     magic, b"AJLK"
    4       4     CRC-32 of the payload
    8       4     length of the payload
    12      ...   MessagePack, then a seal (`ajit._core.seal`) or nothing, then zeros up to 1024

Reading races with writing, so a record that is torn, cleared or of another version reads as None.

Where seals are asked for, a record without a good one reads as None, too: who may write to the
cache, but has no key, can hold a lock and beat, and that counts as silence. The seal covers the
name of the lock, so that the record of one is not valid for another. That an old record is not
taken for a new beat is up to `ajit._cache.leases.pulse`.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
import zlib
from contextlib import suppress
from typing import Literal

import msgspec

from ajit._core.events import Holder
from ajit._core.seal import NO_TRUST, CannotSeal, NotAuthentic, Trust, seal_at
from ajit._printable import printable_line
from ajit._system.process import this_process

__all__ = [
    "HolderRecord",
    "Phase",
    "clear_record",
    "decode_record",
    "encode_record",
    "fitting",
    "read_record",
    "write_record",
]

Phase = Literal["queued", "compiling", "publishing"]

RECORD_BYTES = 1024
_MAGIC = b"AJLK"
_HEADER = struct.Struct("<4sII")
_EMPTY = bytes(RECORD_BYTES)

# Bytes kept of the texts, in UTF-8: so record and seal always have room.
HOST_BYTES = 128
COMPILER_BYTES = 256
NAME_BYTES = 128

END_OF_TIME = 1e11
"""Seconds beyond which no time of a record is believed; of the wall clock: the year 5138."""


class HolderRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The holder of a lease, as it described itself at its last beat.

    Attributes:
        host: Host name.
        boot_id: The kernel's random id of that host's boot.
        pid: Process id on that host.
        start_ticks: When the process started, in clock ticks after boot.
        phase: What it is doing.
        compiler: Compiler and version.
        started: Unix time at which it took the lease, by its clock.
        beat: Count of beats. A waiter measures silence by its own clock, as the time for which
            this has not changed.
        beat_time: Unix time of the last beat, by its clock.
        name: Label of what it compiles, if it told.
        namespace: The pid namespace in which ``pid`` is meant, 0 if unknown.
        left: Whether it has left: the record of a claim, see `ajit._cache.leases.claims`.
        published: Whether it had published something for its waiters when it left.
        cpu_seconds: CPU time that its compiler had used at the last beat.
    """

    host: str
    boot_id: str
    pid: int
    start_ticks: int
    phase: Phase
    compiler: str
    started: float
    beat: int
    beat_time: float
    name: str = ""
    namespace: int = 0
    left: bool = False
    published: bool = False
    cpu_seconds: float = 0.0

    def age_seconds(self) -> float:
        """Seconds since it took the lease; up to its last beat if it is on another host."""
        beat_age = max(0.0, self.beat_time - self.started)
        if not self.boot_id or self.boot_id != this_process().boot_id:
            return beat_age
        # One kernel, one clock. Up to a second has passed since the beat, more if it is stopped.
        return beat_age + max(0.0, time.time() - self.beat_time)

    def holder(self) -> Holder:
        """The same, as events report it."""
        return Holder(
            host=self.host,
            pid=self.pid,
            phase=self.phase,
            compiler=self.compiler,
            age_seconds=self.age_seconds(),
            cpu_seconds=self.cpu_seconds,
        )


_TEXTS = ("host", "boot_id", "compiler", "name")

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(HolderRecord)


def encode_record(record: HolderRecord, place: str = "", trust: Trust = NO_TRUST) -> bytes:
    """Return the bytes of a record: always `RECORD_BYTES`.

    Args:
        record: The record.
        place: The name of its lock.
        trust: What it is sealed with. Without a key for the seal that is asked for it has none:
            then it says nothing to those who ask for one, and the lock holds all the same.
    """
    payload = _encoder.encode(record)
    seal = b""
    with suppress(CannotSeal):
        seal = trust.seal("holder", _digest(payload, place))
    head = _HEADER.pack(_MAGIC, zlib.crc32(payload), len(payload))
    return (head + payload + seal).ljust(RECORD_BYTES, b"\0")


def decode_record(data: bytes, place: str = "", trust: Trust = NO_TRUST) -> HolderRecord | None:
    """Return the record that bytes hold; None if there is none, or it must have a seal and has not.

    Args:
        data: What was read.
        place: The name of the lock.
        trust: Which seal is asked for.
    """
    if len(data) < _HEADER.size:
        return None
    magic, checksum, length = _HEADER.unpack_from(data)
    payload = data[_HEADER.size : _HEADER.size + length]
    if magic != _MAGIC or len(payload) != length or zlib.crc32(payload) != checksum:
        return None
    try:
        if trust.required != "none":
            seal = seal_at(data, _HEADER.size + length)
            trust.check("holder", _digest(payload, place), seal)
        record = _decoder.decode(payload)
    except (NotAuthentic, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return _cleaned(record) if _is_in_time(record) else None


def write_record(fd: int, record: HolderRecord, place: str = "", trust: Trust = NO_TRUST) -> bool:
    """Write a record, and say whether it could be. It need not be: the lock holds without it."""
    data = encode_record(record, place, trust)
    with suppress(OSError):
        # One call at a fixed place, no seek: another thread may be reading by the same descriptor.
        return os.pwrite(fd, data, 0) == len(data)
    return False


def clear_record(fd: int) -> None:
    """Clear the record: no process holds the lease. A failure is ignored."""
    with suppress(OSError):
        # Overwritten and not truncated: no change of size, so nothing for a file system to log.
        os.pwrite(fd, _EMPTY, 0)


def read_record(fd: int, place: str = "", trust: Trust = NO_TRUST) -> HolderRecord | None:
    """Read a record; None if there is none, or it must have a seal and has not."""
    try:
        data = os.pread(fd, RECORD_BYTES, 0)
    except OSError:
        return None
    return decode_record(data, place, trust)


def fitting(text: str, limit_bytes: int) -> str:
    """Return a text for a record: one line, cut to so many bytes."""
    return printable_line(text).encode()[:limit_bytes].decode(errors="ignore")


def _is_in_time(record: HolderRecord) -> bool:
    """Whether its times can be, each by itself: a sum may hide one, and an age become infinite."""
    times = (record.started, record.beat_time, record.cpu_seconds)
    return all(0 <= value < END_OF_TIME for value in times)  # not so for what is not a number


def _cleaned(record: HolderRecord) -> HolderRecord:
    """Return the record with texts that can be shown: they reach logs and terminals."""
    shown = {name: printable_line(getattr(record, name)) for name in _TEXTS}
    if all(getattr(record, name) == text for name, text in shown.items()):
        return record
    return msgspec.structs.replace(record, **shown)


def _digest(payload: bytes, place: str) -> bytes:
    return hashlib.sha256(place.encode() + b"\0" + payload).digest()
