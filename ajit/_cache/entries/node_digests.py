"""Digests on disk: ``digests/<node>`` keeps what a node's processes know of the files they read.

A look-up needs the digest of every header that a kernel includes. Without this file each process
would read all of them once more. It is a `ajit._compile.recorder.digests.Source`: read when a
digest that the process does not know is first needed, and written in the background, a moment after
the last file was hashed, or when the runtime closes. It is merged with what is there; of two
processes that write at the same time, one loses what it has learned, and that costs hashing. A file
that is damaged, foreign or not authentic counts as not there.

Why a stamp can be relied on beyond the life of a process: a program that changes a file cannot
choose its ctime, which the kernel sets from a clock that goes by nanoseconds. Where it does not, as
in images of file systems that are built reproducibly (all their times are 0 or 1), two versions of
a file may have one stamp, and a machine or container may be started anew with another image. So a
ctime of whole seconds is relied on only in the same boot and the same mount namespace.

A node is a machine id and a host name: numbers of devices and inodes mean nothing on another one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ajit._cache.entries import digest_file
from ajit._cache.entries.touch import Touches
from ajit._cache.files import fs
from ajit._system.process import this_process
from ajit._system.threads import DaemonThreads
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ajit._cache.entries.digest_file import Records
    from ajit._cache.files.directory import CacheDirectory

__all__ = ["TOP", "DigestInfo", "NodeDigests", "digest_files"]

TOP = "digests"

QUIET_SECONDS = 1.0
"""It is written when nothing was learned for so long. Pretty arbitrary."""

ROUNDS = 30
"""And after so many of these at the latest."""

CLOSE_SECONDS = 2.0
"""How long `close` waits for a disk. Pretty arbitrary: what is not written is hashed again."""

MACHINE_ID = Path("/etc/machine-id")

_DAY_SECONDS = 86400
_SECOND_NS = 1_000_000_000

_threads = DaemonThreads("ajit-digests")

Stamp = tuple[int, int, int, int, int]


class DigestInfo(NamedTuple):
    """One file of digests.

    Attributes:
        node: Its name.
        size_bytes: Its size.
        records: How many digests it holds.
        problem: Why it counts as not there, or "".
    """

    node: str
    size_bytes: int
    records: int
    problem: str


class NodeDigests:
    """The digests of this node in one cache. Any thread may use it; nothing raises.

    Args:
        directory: The cache.
        secret: Authenticates the file; None accepts every file.
    """

    def __init__(self, directory: CacheDirectory, secret: bytes | None = None) -> None:
        self._directory = directory
        self._secret = secret
        self._node = _node_name(secret)
        self._touches = Touches(directory)
        self._lock = threading.Lock()  # guards all that follows
        self._there: Records | None = None
        self._day = _today()
        self._new: Records = {}
        self._working = False
        self._hurry = threading.Event()
        self._idle = threading.Event()
        self._idle.set()

    @property
    def name(self) -> str:
        """Its file, relative to the cache directory."""
        return f"{TOP}/{self._node}"

    def known(self, stamp: Stamp) -> str | None:
        """Return the digest of a file of this stamp, if this node knows it."""
        packed = _packed(stamp)
        if packed is None:
            return None
        there = self._there  # without the lock: it is replaced, and never changed
        if there is None:
            there = self._load()
        value = there.get(packed)
        if value is None:
            return None
        digest = digest_file.digest_of(value)
        if digest_file.day_of(value) != self._day:  # in both directions: clocks are wrong in both
            self.learned({stamp: digest})
        return digest

    def learned(self, values: Mapping[Stamp, str]) -> None:
        """Keep digests. Does no I/O; may start a thread."""
        self._day = _today()
        packed = {_packed(stamp): digest for stamp, digest in values.items()}
        self._note(
            {
                stamp: digest_file.pack_value(self._day, digest)
                for stamp, digest in packed.items()
                if stamp is not None
            }
        )

    def close(self) -> None:
        """Write what was learned now. Blocks, but not for longer than `CLOSE_SECONDS`."""
        self._hurry.set()
        self._idle.wait(CLOSE_SECONDS)

    def flush(self) -> None:
        """Write what was learned, merged with what is there. Blocks."""
        with self._lock:
            new, self._new = self._new, {}
        if not new:
            return
        there = _read(self._directory, self._node, self._secret).records
        merged = digest_file.bounded(there | new)
        if merged != there:
            data = digest_file.encode(merged, self._node, self._secret)
            # A disk that is full, or was made read-only: the files are hashed again another time.
            with suppress(OSError, CacheError):
                fs.publish_file(self._directory, self.name, data, replace=True)
        with self._lock:
            self._there = merged

    def _note(self, records: Records) -> None:
        if not records or self._directory.access != "writable":
            return
        with self._lock:
            self._new |= records
            start, self._working = not self._working, True
            if start:
                self._idle.clear()
        if start:
            try:
                _threads.run(self._work)
            except RuntimeError:  # no more threads: the next digest tries again
                self._rest(anyway=True)

    def _work(self) -> None:
        while True:
            self._wait_for_quiet()
            self.flush()
            if self._rest():
                return

    def _rest(self, *, anyway: bool = False) -> bool:
        """Stop working, unless something was learned while the file was written."""
        with self._lock:
            if self._new and not anyway:
                return False
            self._working = False
            self._idle.set()
            return True

    def _wait_for_quiet(self) -> None:
        seen = -1
        for _ in range(ROUNDS):
            if len(self._new) == seen or self._hurry.wait(QUIET_SECONDS):
                return
            seen = len(self._new)

    def _load(self) -> Records:
        """Read the file, once."""
        with self._lock:
            if self._there is None:
                found = _read(self._directory, self._node, self._secret)
                self._there = found.records
                if not found.problem:
                    self._touches.note(self.name, found.modified)
            return self._there


def digest_files(directory: CacheDirectory, secret: bytes | None) -> Iterator[DigestInfo]:
    """Yield every file of digests, verified. Blocks."""
    for node in fs.list_names(directory.fd, TOP):
        found = _read(directory, node, secret)
        yield DigestInfo(node, found.size_bytes, len(found.records), found.problem)


class _Loaded(NamedTuple):
    records: Records
    size_bytes: int
    modified: float
    problem: str


def _read(directory: CacheDirectory, node: str, secret: bytes | None) -> _Loaded:
    """Read and verify a file; where it cannot be used, there are no records."""
    name, size, modified = f"{TOP}/{node}", 0, 0.0
    try:
        status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
        size, modified = status.st_size, status.st_mtime
        if size > digest_file.MAX_BYTES:
            return _Loaded({}, size, modified, "it is too large")
        records = digest_file.decode(fs.read_file(directory, name), node, secret)
    except (OSError, digest_file.DigestFileInvalid) as exc:
        return _Loaded({}, size, modified, getattr(exc, "strerror", None) or str(exc))
    return _Loaded(records, size, modified, "")


def _packed(stamp: Stamp) -> bytes | None:
    """Return a stamp as it is kept; None if it cannot be relied on later, see the docstring."""
    if stamp[4] % _SECOND_NS == 0:
        here = _boot_and_mounts()
        if here is None:
            return None
        stamp = (stamp[0] ^ here, *stamp[1:])
    try:
        return digest_file.pack_stamp(stamp)
    except struct.error:
        return None


@cache
def _boot_and_mounts() -> int | None:
    """A number of this boot and mount namespace; None if they cannot be told."""
    boot = this_process().boot_id
    try:
        mounts = Path("/proc/self/ns/mnt").stat().st_ino
    except OSError:
        return None
    told_apart = hashlib.sha256(f"{boot} {mounts}".encode()).digest()
    return int.from_bytes(told_apart[:7], "little") if boot else None


def _today() -> int:
    return int(time.time()) // _DAY_SECONDS


def _node_name(secret: bytes | None) -> str:
    """Return the name of this node's file: for people, then what makes it differ from others."""
    host = this_process().file_prefix.partition(".")[0]
    machine = b""
    with suppress(OSError), MACHINE_ID.open("rb") as file:
        machine = file.read(64).strip()
    told_apart = hashlib.sha256(b"%d %s %s" % (1, machine, this_process().host.encode()))
    if secret is not None:
        # Processes with and without a secret share a cache, and would discard each other's file.
        told_apart.update(hmac.new(secret, b"ajit node", hashlib.sha256).digest())
    return f"{host}-{told_apart.hexdigest()[:16]}"
