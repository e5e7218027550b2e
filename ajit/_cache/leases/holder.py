"""The holder record: what a lock file says about the holder of the lease.

It informs waiters. Only the kernel decides about the lock.
Layout, little-endian, in one write of a fixed size::

    offset  size  what
    0       4     magic, b"AJLK"
    4       4     CRC-32 of the payload
    8       4     length of the payload
    12      ...   MessagePack, then zeros up to 1024 bytes

Reading races with writing, so a record that is torn, cleared or of another version reads as None.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from contextlib import suppress
from typing import Literal

import msgspec

from ajit._core.events import Holder
from ajit._system.process import this_process

__all__ = ["HolderRecord", "Phase", "clear_record", "read_record", "write_record"]

Phase = Literal["queued", "compiling", "publishing"]

RECORD_BYTES = 1024
_MAGIC = b"AJLK"
_HEADER = struct.Struct("<4sII")
_EMPTY = bytes(RECORD_BYTES)

# Characters kept of the texts. UTF-8 takes four bytes at most, so the record always has room.
HOST_CHARACTERS = 64
COMPILER_CHARACTERS = 128
NAME_CHARACTERS = 48


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
        )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(HolderRecord)


def write_record(fd: int, record: HolderRecord) -> None:
    """Write a record. A failure is ignored: the lock holds without it."""
    payload = _encoder.encode(record)
    head = _HEADER.pack(_MAGIC, zlib.crc32(payload), len(payload))
    with suppress(OSError):
        # One call at a fixed place, no seek: another thread may be reading by the same descriptor.
        os.pwrite(fd, (head + payload).ljust(RECORD_BYTES, b"\0"), 0)


def clear_record(fd: int) -> None:
    """Clear the record: no process holds the lease. A failure is ignored."""
    with suppress(OSError):
        # Overwritten and not truncated: no change of size, so nothing for a file system to log.
        os.pwrite(fd, _EMPTY, 0)


def read_record(fd: int) -> HolderRecord | None:
    """Read a record; None if there is none."""
    try:
        data = os.pread(fd, RECORD_BYTES, 0)
    except OSError:
        return None
    if len(data) < _HEADER.size:
        return None
    magic, checksum, length = _HEADER.unpack_from(data)
    payload = data[_HEADER.size : _HEADER.size + length]
    if magic != _MAGIC or len(payload) != length or zlib.crc32(payload) != checksum:
        return None
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
