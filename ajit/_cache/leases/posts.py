"""Posts on disk: what each rank of a group says of itself, for the others to read.

`ajit._core.readiness` has the rules. On disk::

    locks/ra/<group>/<rank>     one line of JSON, a line with the first digits of its SHA-256, and
                                a line with its seal, if it has one

Only the rank itself writes its post, always into the same file, which each look opens anew: so also
a network file system shows what was written last. A look that races with a write finds a digest
that does not fit, and that is no news. A post that must have a seal and has no good one is none.

Everything here blocks: call it from a thread.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from ajit._cache.files import fs
from ajit._core.readiness import Phase, Post
from ajit._core.seal import NO_TRUST, NotAuthentic, Trust
from ajit._printable import printable_line
from ajit._system.process import is_gone, this_process

if TYPE_CHECKING:
    from ajit._cache.files.directory import CacheDirectory
    from ajit._cache.files.folders import Folder

__all__ = ["MOST_RANKS", "RankPost", "RankPosts", "group_name"]

TOP = "locks/ra"

MOST_RANKS = 4096
"""Pretty arbitrary: each of them reads the posts of all others."""

MAX_POST_BYTES = 1024 * 1024
"""A larger file is not read: `MOST_RANKS` sessions, and then some."""

OLD_SECONDS = 24 * 3600.0
"""Posts of a group in which nothing was written for so long are removed."""

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIGITS = 16
_IS_GROUP = re.compile(r"[0-9a-f]{64}").fullmatch


class RankPost(msgspec.Struct, frozen=True, kw_only=True):
    """A post, with who wrote it.

    Attributes:
        session: Later ones compare greater.
        phase: How far it is.
        beat: Count of posts.
        echoes: Of each rank, the session that it has seen last.
        host: Host name.
        pid: Process id on that host.
        boot_id: The kernel's random id of that host's boot.
        namespace: The pid namespace in which ``pid`` is meant, 0 if unknown.
        start_ticks: When the process started.
        done: Kernels that it has ready.
        total: Kernels that it wants.
        detail: Why it has failed, or "".
    """

    session: str
    phase: Phase
    beat: int
    echoes: tuple[str, ...]
    host: str
    pid: int
    boot_id: str = ""
    namespace: int = 0
    start_ticks: int = 0
    done: int = 0
    total: int = 0
    detail: str = ""

    @property
    def post(self) -> Post:
        """What the protocol needs of it."""
        return Post(self.session, self.phase, self.beat, self.echoes)

    @property
    def is_dead(self) -> bool:
        """Whether its process was on this machine, and is gone."""
        us = this_process()
        if not self.boot_id or (self.boot_id, self.namespace) != (us.boot_id, us.namespace):
            return False
        return self.namespace != 0 and is_gone(self.pid, self.start_ticks)

    def __str__(self) -> str:
        """``pid 71 on node2``."""
        return f"pid {self.pid} on {self.host}"


_decoder = msgspec.json.Decoder(RankPost)


def group_name(*parts: object) -> str:
    """Return the name of a group that is told apart by these parts."""
    return hashlib.sha256(msgspec.json.encode([str(part) for part in parts])).hexdigest()


class RankPosts:
    """The posts of one group in one cache directory. One thread at a time uses it.

    Args:
        directory: The cache.
        group: From `group_name`.
        trust: Which seal of a post is asked for, and what is sealed with.
    """

    def __init__(self, directory: CacheDirectory, group: str, trust: Trust = NO_TRUST) -> None:
        self._directory, self._folder, self._trust = directory, f"{TOP}/{group}", trust

    def read(self, rank: int) -> RankPost | None:
        """Return what a rank says; None if that cannot be read now."""
        with suppress(OSError):
            data = fs.read_file(self._directory, f"{self._folder}/{rank}", MAX_POST_BYTES)
            return self._opened(data, rank)
        return None

    def write(self, rank: int, post: RankPost) -> None:
        """Write the post of this process.

        Raises:
            OSError: It could not be written.
            CacheError: The cache directory that is there now cannot be used.
            CannotSeal: This process asks for seals that it cannot make.
        """
        data = msgspec.json.encode(post)
        seal = self._trust.seal("rank", self._covered(data, rank))
        check = hashlib.sha256(data).hexdigest()[:_DIGITS].encode()
        whole = b"\n".join((data, check, seal.hex().encode()))
        fd = fs.in_folder(self._directory, self._folder, lambda folder: self._open(folder, rank))
        try:
            # In place: a new file of this name might not be seen on another node for a while.
            os.pwrite(fd, whole, 0)
            os.ftruncate(fd, len(whole))
        finally:
            # Here, network file systems send what was written.
            os.close(fd)

    def sweep(self) -> None:
        """Remove the posts of groups that are a day old. Never raises."""
        now = None
        for name in filter(_IS_GROUP, fs.list_names(self._directory, TOP)):
            with suppress(OSError):
                now = fs.now(self._directory) if now is None else now
                self._sweep(f"{TOP}/{name}", now)

    def _sweep(self, folder: str, now: float) -> None:
        names = [name for name in fs.list_names(self._directory, folder) if name.isdecimal()]
        times = [fs.stat_file(self._directory, f"{folder}/{name}").st_mtime for name in names]
        if now - max(times, default=0.0) > OLD_SECONDS:
            for name in names:
                fs.remove_file(self._directory, f"{folder}/{name}")
            fs.remove_empty(self._directory, folder)

    def _open(self, folder: Folder, rank: int) -> int:
        sharing, name = self._directory.sharing, str(rank)
        try:
            return fs.open_checked(folder, name, os.O_WRONLY, sharing, only_name=True)
        except FileNotFoundError:
            fd = os.open(name, _CREATE, sharing.file_mode, dir_fd=folder.fd)
        except fs.UnusableFile:
            # A link, or another user's: the name is this rank's.
            os.unlink(name, dir_fd=folder.fd)
            fd = os.open(name, _CREATE, sharing.file_mode, dir_fd=folder.fd)
        try:
            os.fchmod(fd, sharing.file_mode)  # the umask
        except BaseException:
            fs.close_unwritten(fd)
            raise
        return fd

    def _opened(self, data: bytes, rank: int) -> RankPost | None:
        line, check, written = (*data.split(b"\n", 2), b"", b"")[:3]
        if check != hashlib.sha256(line).hexdigest()[:_DIGITS].encode():
            return None  # it is being written
        try:
            seal = binascii.unhexlify(written)
            self._trust.check("rank", self._covered(line, rank), seal)
            post = _decoder.decode(line)
        except (ValueError, NotAuthentic, msgspec.DecodeError):  # what is no hex is a ValueError
            return None
        return msgspec.structs.replace(
            post, host=printable_line(post.host), detail=printable_line(post.detail)
        )

    def _covered(self, data: bytes, rank: int) -> bytes:
        """What the seal covers: the post of one rank of one group, and of no other."""
        return hashlib.sha256(f"{self._folder} {rank}\n".encode() + data).digest()
