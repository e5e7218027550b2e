"""Claims on disk: the directories by which nodes exclude each other where locks do not reach.

`ajit._core.claim` has the rules, and says why it is like this. On disk::

    locks/<2 hex>/<key>.claims/00000001/record     the holder record of one claim
    locks/<2 hex>/<key>.claims/00000002/record     the next one

The local lock (`ajit._cache.leases.lock_file`) stays in front: its holder goes for the claim,
so mostly one process of each node does. Nothing wakes a waiter across nodes: it looks again, often
at first, and less often the longer it has waited.

Each look opens directory and record anew: network file systems ask the server when a file is
opened, and may answer from their memory as long as it stays open. For the same reason each beat
opens, writes and closes: a write through a descriptor that stays open may stay on this node.
"""

from __future__ import annotations

import errno
import os
import random
import re
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from ajit._cache.files import fs
from ajit._cache.files.folders import Folder
from ajit._cache.leases import posix
from ajit._cache.leases.holder import HolderRecord, read_record, write_record
from ajit._cache.leases.late_marks import late_marks
from ajit._core.claim import Action, Happening, Limits, Mark, Seen, State, Watch, look, step
from ajit._core.seal import NO_TRUST
from ajit._system.process import is_gone, this_process

if TYPE_CHECKING:
    from ajit._cache.files.directory import CacheDirectory
    from ajit._core.seal import Trust

__all__ = ["Claims", "limits_for", "pause_seconds"]

SETTLE_SECONDS = 2.0
"""How long what was published may not be seen yet on another node. Measured on a FUSE file system:
up to a second, for a rename."""

LEAST_SILENCE_SECONDS = 3.0
"""Beats come every second, and become visible after up to one more."""

SILENCE_OF_PATIENCE = 0.7
"""A claim is followed before its waiters lose patience: then one of them compiles, and not each."""

DAY_SECONDS = 24 * 3600.0

_RECORD = "record"
_OPEN_CLAIM = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_NUMBER = re.compile(r"[0-9]{8}")

MOST_NUMBER = 99_999_999
"""A longer name would not be seen as a number. No key has so many leases, so a claim near it was
put there by another program; then there are no claims of that key, until it is removed."""

_PASSING = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EREMOTEIO,
        errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EHOSTDOWN,
        errno.EHOSTUNREACH, errno.ENETUNREACH,
    }
)  # fmt: skip
"""What a network file system says while its server restarts: no news, not the end of a wait."""

_OVER = frozenset({errno.ENOENT, errno.ENOTCONN, errno.ECONNABORTED})
"""There is no such claim any more, or nothing is mounted any more by which it could be written."""


class Claims:
    """The claims of one key, for one process. One thread at a time uses it, but for `read`."""

    def __init__(self, directory: CacheDirectory, key: str) -> None:
        self._directory, self._key = directory, key
        self._top = f"locks/{key[:2]}/{key}.claims"
        self._limits = limits_for(directory.patience_seconds)
        self._state, self._watch = State.WATCHING, Watch()
        self._looked = time.monotonic()
        self._number = 0

    @property
    def held(self) -> bool:
        """Whether this process has made the newest claim and not left it."""
        return self._number > 0

    def try_make(self, trust: Trust = NO_TRUST) -> bool:
        """Look at the newest claim, and make the next one if it may be followed.

        Args:
            trust: Which seal of a record is asked for. Without it a claim counts as silent.

        Raises:
            OSError: There are no claims to be had here.
        """
        try:
            self._take_in(self._look(trust))
        except OSError as exc:
            if exc.errno not in _PASSING:
                raise
            return False
        return self.held

    @property
    def settling(self) -> bool:
        """Whether the last holder has just left, and what it published may not be seen yet."""
        return self._state is State.SETTLING

    def is_free(self, trust: Trust = NO_TRUST) -> bool:
        """Whether the newest claim was left, or its holder's process is gone. Makes none.

        Raises:
            OSError: There are no claims to be had here.
        """
        try:
            return self._look(trust).mark in (Mark.LEFT, Mark.PUBLISHED, Mark.DEAD)
        except OSError as exc:
            if exc.errno not in _PASSING:
                raise
            return False

    def read(self, trust: Trust = NO_TRUST, *, left: bool = False) -> HolderRecord | None:
        """Read the record of the newest claim; None if it was left, or cannot be read.

        Args:
            trust: Which seal of the record is asked for.
            left: Whether to return the record of a holder that has left as well.
        """
        try:
            number = self._newest()
        except OSError:
            return None
        record = self._read(number, trust)[0] if number else None
        if record is None or record.left:
            return record if left else None
        return None if _is_dead(record) else record

    def newest_record(self) -> str:
        """The name of the file that has, or will have, the record of the newest claim.

        Raises:
            OSError: The claims cannot be listed.
        """
        return f"{self._name(self._newest())}/{_RECORD}"

    def write(self, record: HolderRecord, trust: Trust = NO_TRUST) -> None:
        """Write the record of the claim that is held. A failure is ignored, as with any beat."""
        self._write(self._number, record, trust)

    def leave(self, record: HolderRecord, trust: Trust = NO_TRUST, *, published: bool) -> None:
        """Mark the claim that is held as left, and remove what is a day old.

        A mark that cannot be written now is tried again, by another thread, for a while.

        Args:
            record: What is marked.
            trust: What it is sealed with.
            published: Whether something was published, which another node may see later than this.
        """
        self._state, (action,) = step(self._state, Happening.DONE)
        assert action is Action.MARK
        number, self._number = self._number, 0
        self._state = State.WATCHING
        left = msgspec.structs.replace(record, left=True, published=published)
        if not self._write(number, left, trust):
            late_marks.add(partial(self._write, number, left, trust))
        with suppress(OSError):
            self._sweep()

    def _write(self, number: int, record: HolderRecord, trust: Trust) -> bool:
        """Whether the record is written, or there is no such claim any more."""
        try:
            fd = self._open_record(self._claim(number))
        except OSError as exc:
            return exc.errno in _OVER
        written = write_record(fd, record, self._place(number), trust)
        try:
            os.close(fd)  # here, network file systems send what was written
        except OSError:
            return False
        return written

    # --- looking and making -----------------------------------------------------------------------

    def _take_in(self, seen: Seen) -> None:
        now = time.monotonic()
        elapsed, self._looked = now - self._looked, now
        self._watch, happening = look(self._watch, seen, elapsed, self._limits)
        self._state, actions = step(self._state, happening)
        if Action.MAKE in actions:
            self._make(self._watch.seen.number + 1)

    def _make(self, number: int) -> None:
        sharing = self._directory.sharing
        happening = Happening.EXISTS
        try:
            if number > MOST_NUMBER:
                reason = f"{self._name(MOST_NUMBER)} is the last number there is; remove it"
                raise OSError(errno.EOVERFLOW, reason)
            fs.in_folder(
                self._directory,
                self._top,
                # One winner, where no lock and no other create-only call has one.
                lambda folder: sharing.make_new_directory(_last(number), folder.fd),
            )
            happening, self._number = Happening.MADE, number
        except FileExistsError:
            self._watch = self._watch.knows_of(number)
        finally:
            # After an error it may be there or not. The next look tells.
            self._state, _ = step(self._state, happening)

    def _look(self, trust: Trust) -> Seen:
        number = self._newest()
        if number == 0:
            return Seen()
        record, modified = self._read(number, trust)
        if record is None:
            return Seen(number, Mark.UNWRITTEN)
        beat = (record.host, record.pid, record.started, record.beat)
        mark = self._mark_of(record)
        settled = self._settled_seconds(number, modified) if mark is Mark.PUBLISHED else 0.0
        return Seen(number, mark, beat, settled)

    def _mark_of(self, record: HolderRecord) -> Mark:
        if record.left:
            return Mark.PUBLISHED if record.published else Mark.LEFT
        return Mark.DEAD if _is_dead(record) else Mark.HELD

    def _settled_seconds(self, number: int, modified: float) -> float:
        """How long ago a claim was left. Asked once for each claim: it takes two calls."""
        known = self._watch.seen
        if (known.number, known.mark) == (number, Mark.PUBLISHED):
            return known.settled_seconds
        return max(0.0, fs.now(self._directory) - modified)

    def _newest(self) -> int:
        return max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        # Not "there are none" after an error: then number 1 would be made once more.
        names = fs.list_names_or_raise(self._directory, self._top)
        return [int(name) for name in names if _NUMBER.fullmatch(name)]

    def _read(self, number: int, trust: Trust) -> tuple[HolderRecord | None, float]:
        """The record of a claim, and its time by the file system's clock."""
        try:
            claim = self._claim(number)
            fd = fs.open_checked(claim, _RECORD, posix.OPEN_TO_READ, self._directory.sharing)
        except OSError:
            return None, 0.0
        try:
            return read_record(fd, self._place(number), trust), os.fstat(fd).st_mtime
        except OSError:
            return None, 0.0
        finally:
            fs.close_unwritten(fd)

    def _claim(self, number: int) -> Folder:
        """Open the directory of a claim: that asks the file server what is in it now.

        Raises:
            OSError: There is none, or it must not be used.
        """
        name = self._name(number)
        top = self._directory.folders.current(self._top)
        claim = Folder(name, os.open(_last(number), _OPEN_CLAIM, dir_fd=top.fd))
        reason = self._directory.sharing.objection(os.fstat(claim.fd))
        if reason:
            raise fs.UnsafeFolder(errno.EPERM, f"{name}: {reason}")
        return claim

    def _open_record(self, claim: Folder) -> int:
        sharing = self._directory.sharing
        try:
            return fs.open_checked(claim, _RECORD, os.O_WRONLY, sharing, only_name=True)
        except FileNotFoundError:
            # Makes the record, and never the claim: if that is gone, nothing is written.
            fd = os.open(_RECORD, _CREATE, sharing.file_mode, dir_fd=claim.fd)
        try:
            os.fchmod(fd, sharing.file_mode)  # the umask
        except BaseException:
            fs.close_unwritten(fd)
            raise
        return fd

    def _sweep(self) -> None:
        """Remove claims that are a day old, but not the newest two."""
        old = sorted(self._numbers())[:-2]
        now = fs.now(self._directory) if old else 0.0
        for number in old:
            # Each for itself: one that has a strange file in it stays, and the others go.
            with suppress(OSError):
                self._sweep_one(self._name(number), now)

    def _sweep_one(self, name: str, now: float) -> None:
        if now - fs.stat_file(self._directory, name).st_mtime > DAY_SECONDS:
            fs.remove_file(self._directory, f"{name}/{_RECORD}")
            fs.remove_empty(self._directory, name)

    def _place(self, number: int) -> str:
        """What the seal of a record is for: one claim, and no other that it might be put into."""
        return f"{self._key} {number}"

    def _name(self, number: int) -> str:
        return f"{self._top}/{_last(number)}"

    def __repr__(self) -> str:
        return f"<Claims {self._state.value} {self._watch.seen.number} held={self._number}>"


def _last(number: int) -> str:
    return f"{number:08d}"


def limits_for(patience_seconds: float) -> Limits:
    """The limits for waiters with that patience."""
    silence = max(LEAST_SILENCE_SECONDS, SILENCE_OF_PATIENCE * patience_seconds)
    return Limits(silence, SETTLE_SECONDS)


def pause_seconds(waited_seconds: float) -> float:
    """How long to rest before the next look: at random, and a fiftieth of the wait, at least 30 ms.

    So a hand-over costs a fiftieth of what was waited for, and half a second at most; and a
    thousand nodes that wait for minutes do not ask one server a hundred times a second each.
    """
    mean = min(0.5, max(0.03, waited_seconds / 50))
    return mean * random.uniform(0.5, 1.5)  # noqa: S311  # jitter, not a secret


def _is_dead(record: HolderRecord) -> bool:
    """Whether the record is of a process of this machine that is gone."""
    us = this_process()
    if not record.boot_id or (record.boot_id, record.namespace) != (us.boot_id, us.namespace):
        return False
    if record.namespace == 0:
        return False
    return is_gone(record.pid, record.start_ticks)
