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

Where seals are asked for, a node has a file for each key: processes that trust other keys would
discard each other's. A process reads those of all keys that it trusts, and writes that of its own;
one that has no key of its own writes none.
"""

from __future__ import annotations

import hashlib
import re
import struct
import threading
import time
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ajit._cache.entries import digest_file
from ajit._cache.entries.results import reason_of
from ajit._cache.entries.touch import Touches
from ajit._cache.files import fs
from ajit._core.seal import NO_TRUST
from ajit._system.guarded_calls import NoAnswer, guarded_calls
from ajit._system.process import this_process
from ajit._system.threads import DaemonThreads
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ajit._cache.entries.digest_file import Records
    from ajit._cache.files.directory import CacheDirectory
    from ajit._core.seal import Trust

__all__ = ["TOP", "DigestInfo", "NodeDigests", "digest_files", "is_node_name", "node_name"]

TOP = "digests"

QUIET_SECONDS = 1.0
"""It is written when nothing was learned for so long. Pretty arbitrary."""

ROUNDS = 30
"""And after so many of these at the latest."""

CLOSE_SECONDS = 2.0
"""How long `close` waits for a disk. Pretty arbitrary: what is not written is hashed again."""

is_node_name = re.compile(r"[A-Za-z0-9-]+-[0-9a-f]{16}").fullmatch
"""Matches the name of a file of digests, as `NodeDigests` makes it."""

READ_SECONDS = 2.0
"""How long a look-up waits for the file. Pretty arbitrary: what is not read is hashed again."""

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
        unread: Whether it could not be read now: it may be good.
    """

    node: str
    size_bytes: int
    records: int
    problem: str
    unread: bool = False

    @property
    def is_bad(self) -> bool:
        """Whether it was read, and is no such file."""
        return bool(self.problem) and not self.unread


class NodeDigests:
    """The digests of this node in one cache. Any thread may use it; nothing raises.

    Args:
        directory: The cache.
        trust: Which seal of a file is asked for.
    """

    def __init__(self, directory: CacheDirectory, trust: Trust = NO_TRUST) -> None:
        self._directory = directory
        self._trust = trust
        # Its own first.
        self._nodes = [node_name(identity) for identity in trust.key_ids or (b"",)]
        self._touches = Touches(directory)
        self._calls = guarded_calls(directory.path)
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
        return f"{TOP}/{self._nodes[0]}"

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

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write what was learned now. Blocks, but not for longer than ``seconds``."""
        self._hurry.set()
        self._idle.wait(seconds)

    def flush(self) -> None:
        """Write what was learned, merged with what is there. Blocks."""
        with self._lock:
            new, self._new = self._new, {}
        if not new:
            return
        there = _read(self._directory, self._nodes[0], self._trust).records
        merged = digest_file.bounded(there | new)
        if merged != there:
            data = digest_file.encode(merged, self._nodes[0], self._trust)
            # A disk that is full, or was made read-only: the files are hashed again another time.
            with suppress(OSError, CacheError):
                fs.publish_file(self._directory, self.name, data, replace=True)
        with self._lock:
            if self._there is not None:  # else the next look reads the files
                self._there = self._there | merged  # replaced, and never changed

    def _note(self, records: Records) -> None:
        if not records or self._directory.access != "writable" or not self._trust.can_keep:
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
        """Read the files, once."""
        with self._lock:
            if self._there is None:
                there: Records = {}
                for node in reversed(self._nodes):
                    found = self._read_in_time(node)
                    there |= found.records
                    if not found.problem:
                        self._touches.note(f"{TOP}/{node}", found.modified)
                self._there = there
            return self._there

    def _read_in_time(self, node: str) -> _Loaded:
        """Read the file, unless that takes long.

        Every look-up of the process asks here, those of other caches included: if this one's file
        system hangs, the headers are hashed instead.
        """
        read = partial(_read, self._directory, node, self._trust)
        if self._calls.is_open:
            return _Loaded({}, 0, 0.0, self._calls.reason)
        try:
            return self._calls.call_blocking(read, seconds=READ_SECONDS, lane="digests")
        except NoAnswer as exc:
            return _Loaded({}, 0, 0.0, str(exc))


def digest_files(
    directory: CacheDirectory, trust: Trust, failed: fs.Failed = lambda _name, _error: None
) -> Iterator[DigestInfo]:
    """Yield every file of digests, verified. Blocks. It tells if they cannot be listed."""
    for node in filter(is_node_name, fs.list_names(directory, TOP, failed)):
        found = _read(directory, node, trust)
        yield DigestInfo(node, found.size_bytes, len(found.records), found.problem, found.unread)


class _Loaded(NamedTuple):
    records: Records
    size_bytes: int
    modified: float
    problem: str
    unread: bool = False


def _read(directory: CacheDirectory, node: str, trust: Trust) -> _Loaded:
    """Read and verify a file; where it cannot be used, there are no records."""
    name, size, modified = f"{TOP}/{node}", 0, 0.0
    try:
        status = fs.stat_file(directory, name)
        size, modified = status.st_size, status.st_mtime
        if size > digest_file.MAX_BYTES:
            return _Loaded({}, size, modified, "it is too large")
        data = fs.read_file(directory, name, digest_file.MAX_BYTES)
        records = digest_file.decode(data, node, trust)
    except (OSError, MemoryError, digest_file.DigestFileInvalid) as exc:
        unread = not isinstance(exc, (fs.UnusableFile, digest_file.DigestFileInvalid))
        return _Loaded({}, size, modified, reason_of(exc), unread)
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


def node_name(key: bytes = b"") -> str:
    """Return the name of this node's file: for people, then what makes it differ from others.

    Args:
        key: What tells apart files of one node, such as the id of the key that seals one.
    """
    host = this_process().file_prefix.partition(".")[0]
    machine = b""
    with suppress(OSError), MACHINE_ID.open("rb") as file:
        machine = file.read(64).strip()
    told_apart = hashlib.sha256(b"%d %s %s" % (2, machine, this_process().host.encode()))
    told_apart.update(key)
    return f"{host}-{told_apart.hexdigest()[:16]}"
