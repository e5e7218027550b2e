"""What excludes a process on another node: each primitive raced with it; for ``ajit doctor``.

Two processes meet in the cache's ``tmp``, one on each node or mount, and do the same steps. They
speak by directories whose names say all: to make one is the call that is most likely to be seen.
A *race* is a call that both make on one name, at the same time but for some milliseconds at random,
for what one node has done may be seen on the other one that much later. A *lock* is taken by one of
them and tried by the other one while it is held.

Only what went wrong proves anything: a primitive that had two winners does not exclude. One that
never had did so as often as it was tried, on these two nodes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import secrets
import struct
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ajit._cache.files import fs
from ajit._system.process import this_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._cache.files.directory import CacheDirectory

__all__ = ["Primitive", "Raced", "race_with_peer"]

Primitive = Literal["fcntl", "OFD lock", "flock", "O_EXCL", "link", "mkdir", "rename away"]

MEETING = f"{fs.TEMPORARY}/peer-probe"
RACES = 20
LOCK_TRIES = 3
APART_SECONDS = 0.03
"""How far apart the two calls of a race are at most: the delay that was measured on a network."""

POLL_SECONDS = 0.003
ANSWER_SECONDS = 30.0
"""How long one waits for the other's next word. Far above what a network file system delays."""

STALE_SECONDS = 600.0
"""A place that was taken so long ago is of a probe that died."""

_OFD_SETLK = 37
_WRITE_LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_REFUSED = frozenset({errno.EAGAIN, errno.EACCES})
_LOST = frozenset({errno.EEXIST, errno.ENOENT, errno.EIO, errno.ESTALE, errno.ENOTEMPTY})
"""What a loser of a race is told; some file systems say EIO for what another has just removed."""


@dataclass(frozen=True, slots=True)
class Raced:
    """What became of one primitive.

    Attributes:
        primitive: Its name.
        rounds: How often it was tried.
        both: In how many rounds both had it.
        problem: Why it could not be tried, or "".
    """

    primitive: Primitive
    rounds: int
    both: int
    problem: str = ""

    @property
    def excludes(self) -> bool:
        """Whether it excluded each time."""
        return not self.problem and self.rounds > 0 and self.both == 0


def race_with_peer(
    directory: CacheDirectory, *, wait_seconds: float
) -> tuple[str, tuple[Raced, ...]]:
    """Meet another process that does the same, and race every primitive with it. Blocks.

    Args:
        directory: The cache, which must be writable.
        wait_seconds: How long to wait for the other process.

    Returns:
        Where the other process is, and what became of each primitive. What was made is removed.

    Raises:
        TimeoutError: No other process came, or it left in the middle.
        OSError: The cache cannot be written.
    """
    talk = _Talk.meet(directory, wait_seconds)
    try:
        results = [_try_locks(talk, name, take) for name, take in _LOCKS.items()]
        results += [_race(talk, name) for name in _RACES]
        talk.both_say("done")
    finally:
        talk.clean_up()
    return talk.peer, tuple(results)


class _Talk:
    """Two processes that take turns; each is at the same step as the other one."""

    def __init__(self, dir_fd: int, me: str, peer: str) -> None:
        self.dir_fd = dir_fd
        self.place = f"{MEETING}/{'+'.join(sorted((me, peer)))}"
        self.first = me < peer
        self.peer = peer.partition(".")[0]
        self._me = me
        self._step = 0
        _make(dir_fd, self.place)

    @classmethod
    def meet(cls, directory: CacheDirectory, wait_seconds: float) -> _Talk:
        fd = directory.fd
        me = f"{this_process().file_prefix}.{secrets.token_hex(4)}"
        fs.in_folder(directory, fs.TEMPORARY, lambda _: _make(fd, MEETING))
        _make(fd, f"{MEETING}/{me}")
        try:
            peer = _wait(lambda: _another(directory, me), wait_seconds, "no other process came")
            talk = cls(fd, me, peer)
            talk.both_say("here")
        except BaseException:
            _remove(fd, f"{MEETING}/{me}")
            raise
        return talk

    def say(self, word: str) -> None:
        """Say something about this step."""
        _make(self.dir_fd, f"{self.place}/{self._step:05d}.{int(self.first)}.{word}")

    def hear(self) -> str:
        """Wait for what the other one says about this step."""
        start = f"{self._step:05d}.{int(not self.first)}."
        return _wait(
            lambda: next(
                (
                    name.removeprefix(start)
                    for name in _names(self.dir_fd, self.place)
                    if name.startswith(start)
                ),
                "",
            ),
            ANSWER_SECONDS,
            "the other process has left",
        )

    def both_say(self, word: str) -> str:
        """Say something, wait for what the other one says, and go on to the next step."""
        self.say(word)
        heard = self.hear()
        self._step += 1
        return heard

    def name(self, what: str) -> str:
        """A name for something of this step."""
        return f"{self.place}/x{self._step:05d}.{what}"

    def clean_up(self) -> None:
        """Remove what is ours; the first one removes what is common."""
        _remove(self.dir_fd, f"{MEETING}/{self._me}")
        if self.first:
            _remove(self.dir_fd, self.place)
        with suppress(OSError):  # others may meet there
            os.rmdir(MEETING, dir_fd=self.dir_fd)


def _another(directory: CacheDirectory, me: str) -> str:
    now = fs.now(directory)
    for name in _names(directory.fd, MEETING):
        # Of a process of this host that was killed, or of one that left another peer alone.
        if name != me and "+" not in name and not this_process().outlived(name):
            with suppress(OSError):
                status = os.stat(f"{MEETING}/{name}", dir_fd=directory.fd)
                if abs(now - status.st_mtime) < STALE_SECONDS:
                    return name
    return ""


# --- locks ----------------------------------------------------------------------------------------


def _take_fcntl(fd: int) -> None:
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _take_ofd(fd: int) -> None:
    fcntl.fcntl(fd, _OFD_SETLK, _WRITE_LOCK)


def _take_flock(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


_LOCKS: dict[Primitive, Callable[[int], None]] = {
    "fcntl": _take_fcntl,
    "OFD lock": _take_ofd,
    "flock": _take_flock,
}


def _try_locks(talk: _Talk, primitive: Primitive, take: Callable[[int], None]) -> Raced:
    """Each in turn holds the lock while the other one tries it."""
    both, problem = 0, ""
    for number in range(LOCK_TRIES):
        name = f"{talk.place}/lock{number}.{primitive.replace(' ', '-')}"
        mine = talk.first == (number % 2 == 0)
        first = _take(talk, name, take) if mine else None
        talk.both_say(_word(first))
        second = None if mine else _take(talk, name, take)
        heard = talk.both_say(_word(second))
        for taken in (first, second):
            if isinstance(taken, int):
                os.close(taken)
        outcome = heard if mine else _word(second)
        both += outcome == "won"
        problem = problem or (outcome if outcome not in ("won", "lost") else "")
        talk.both_say("next")
    return Raced(primitive, LOCK_TRIES, both, problem)


def _take(talk: _Talk, name: str, take: Callable[[int], None]) -> int | OSError:
    """The descriptor of the file that was locked, or why it was not."""
    try:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=talk.dir_fd)
    except OSError as exc:
        return exc
    try:
        take(fd)
    except OSError as exc:
        os.close(fd)
        return exc
    return fd


def _word(taken: int | OSError | None) -> str:
    if taken is None:
        return "waits"
    if not isinstance(taken, OSError):
        return "won"
    if taken.errno in _REFUSED:
        return "lost"
    return errno.errorcode.get(taken.errno or 0, "error")


# --- races ----------------------------------------------------------------------------------------


def _exclusive(talk: _Talk) -> Callable[[], None]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    name = talk.name("file")
    return lambda: os.close(os.open(name, flags, 0o600, dir_fd=talk.dir_fd))


def _link(talk: _Talk) -> Callable[[], None]:
    own, name, fd = talk.name(f"own{int(talk.first)}"), talk.name("linked"), talk.dir_fd
    os.close(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=fd))
    return lambda: os.link(own, name, src_dir_fd=fd, dst_dir_fd=fd)


def _mkdir(talk: _Talk) -> Callable[[], None]:
    name = talk.name("made")
    return lambda: os.mkdir(name, 0o700, dir_fd=talk.dir_fd)


def _rename_away(talk: _Talk) -> Callable[[], None]:
    name, fd = talk.name("away"), talk.dir_fd
    own = talk.name(f"mine{int(talk.first)}")
    if talk.first:
        os.mkdir(name, 0o700, dir_fd=fd)
    seen = name.rpartition("/")[2]
    _wait(lambda: seen in _names(fd, talk.place), ANSWER_SECONDS, "a directory is never seen")
    return lambda: os.rename(name, own, src_dir_fd=fd, dst_dir_fd=fd)


_RACES: dict[Primitive, Callable[[_Talk], Callable[[], None]]] = {
    "O_EXCL": _exclusive,
    "link": _link,
    "mkdir": _mkdir,
    "rename away": _rename_away,
}


def _race(talk: _Talk, primitive: Primitive) -> Raced:
    both, problem, words = 0, "", Counter[str]()
    for _ in range(RACES):
        call, said = None, "ready"
        try:
            call = _RACES[primitive](talk)
        except OSError as exc:
            said = errno.errorcode.get(exc.errno or 0, "error")
        heard = talk.both_say(said)
        if call is None or heard != "ready":
            return Raced(primitive, 0, 0, said if call is None else heard)
        # What the one does is seen by the other one so much later.
        time.sleep(random.uniform(0, APART_SECONDS))  # noqa: S311  # jitter, not a secret
        words = Counter([(mine := _outcome(call)), talk.both_say(mine)])
        both += words["won"] == 2
        problem = problem or next((word for word in words if word not in ("won", "lost")), "")
    return Raced(primitive, RACES, both, problem)


def _outcome(call: Callable[[], None]) -> str:
    try:
        call()
    except OSError as exc:
        return "lost" if exc.errno in _LOST else errno.errorcode.get(exc.errno or 0, "error")
    return "won"


# --- files ----------------------------------------------------------------------------------------


def _names(dir_fd: int, name: str) -> list[str]:
    """Names in a directory, sorted; none if it cannot be read now."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
    except OSError:
        return []
    try:
        with os.scandir(fd) as found:
            return sorted(entry.name for entry in found)
    except OSError:
        return []
    finally:
        os.close(fd)


def _make(dir_fd: int, name: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=dir_fd)


def _remove(dir_fd: int, name: str) -> None:
    """Remove a directory of ours and what is in it, one level deep."""
    for inner in _names(dir_fd, name):
        with suppress(OSError):
            try:
                os.unlink(f"{name}/{inner}", dir_fd=dir_fd)
            except (IsADirectoryError, PermissionError):
                os.rmdir(f"{name}/{inner}", dir_fd=dir_fd)
    with suppress(OSError):
        os.rmdir(name, dir_fd=dir_fd)


def _wait(look: Callable[[], str | bool], seconds: float, problem: str) -> str:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{problem} within {seconds:g} s")
        time.sleep(POLL_SECONDS)
    return str(found)
