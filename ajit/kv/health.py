"""The health of a service, in a page that its clients map: read without a message.

The loop of the service writes it ten times a second. A service that is stopped, or whose loop is
blocked, answers no message, and its page says so at once: the beat stands still. Clients may map it
for reading only, which is sealed. Readers measure silence by their own clock.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from dataclasses import dataclass

from ajit.kv.memory import SlabError

__all__ = ["BEAT_SECONDS", "Health", "HealthPage", "HealthReader"]

BEAT_SECONDS = 0.1

PAGE_BYTES = 4096

F_SEAL_FUTURE_WRITE = 0x10
"""Mappings that are made later cannot write; as in the kernel's fcntl.h."""

_LAYOUT = struct.Struct("<8s16sQQQQQQQ")
"""Magic, boot, beat, lag in ns, used bytes, limit, clients, leases, reservations."""
_MAGIC = b"ajitkv1\0"


@dataclass(frozen=True, slots=True)
class Health:
    """What a page says.

    Attributes:
        boot: Of the service.
        beat: Counts up ten times a second.
        silent_seconds: Since when it has not, by the reader's clock; 0.0 at the first look.
        lag_seconds: How much too late the loop was at the last beat.
        used_bytes: Memory of chunks.
        limit_bytes: Most memory for chunks.
        clients: That are connected.
        leases: Leases that are held.
        reservations: Reservations that are not over.
    """

    boot: bytes
    beat: int
    silent_seconds: float
    lag_seconds: float
    used_bytes: int
    limit_bytes: int
    clients: int
    leases: int
    reservations: int


class HealthPage:
    """The page of a service. It belongs to the service's loop.

    Args:
        boot: 16 bytes, other ones after each start.
    """

    def __init__(self, boot: bytes) -> None:
        self._boot, self._beat = boot, 0
        self.descriptor = os.memfd_create("ajit-kv-health", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, PAGE_BYTES)
        self._map = mmap.mmap(self.descriptor, PAGE_BYTES)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)

    def beat(self, lag_seconds: float, *counts: int) -> None:
        """Write a beat, and what `Health` has after it."""
        self._beat += 1
        lag = max(0, int(lag_seconds * 1e9))
        _LAYOUT.pack_into(self._map, 0, _MAGIC, self._boot, self._beat, lag, *counts)

    def close(self) -> None:
        """Give it back; readers keep theirs, and see no more beats."""
        self._map.close()
        os.close(self.descriptor)


class HealthReader:
    """The page of a service, as another process reads it.

    Args:
        descriptor: Of the page; it is closed.

    Raises:
        SlabError: It is no such page.
    """

    def __init__(self, descriptor: int) -> None:
        try:
            if os.fstat(descriptor).st_size < PAGE_BYTES:
                raise SlabError("the health page of the service is too small")
            self._map = mmap.mmap(descriptor, PAGE_BYTES, prot=mmap.PROT_READ)
        except (OSError, ValueError) as exc:
            raise SlabError(f"the health page of the service cannot be mapped: {exc}") from exc
        finally:
            os.close(descriptor)
        self._beat, self._since = -1, 0.0

    def read(self) -> Health:
        """Return what the page says now.

        Raises:
            SlabError: It is no page of this version.
        """
        values = _LAYOUT.unpack_from(self._map, 0)
        magic, boot, beat, lag, *counts = values
        if magic != _MAGIC:
            raise SlabError("the health page of the service has another version")
        now = time.monotonic()
        if beat != self._beat:
            self._beat, self._since = beat, now
        return Health(boot, beat, now - self._since, lag / 1e9, *counts)

    def close(self) -> None:
        """Give the mapping back."""
        self._map.close()
