"""Where files are, how to see waiters, and how to wait for a condition."""

from __future__ import annotations

import errno
import gc
import os
import stat
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio

from ajit._cache.entries.disk import Published
from tests.cache.artifacts import a_key, an_artifact

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._cache.entries.disk import DiskStore

T = TypeVar("T")

DEADLINE_SECONDS = 60.0
"""For `until` and `poll`: far more than anything takes, and less than a test's own limit."""


def entry_file(store: DiskStore, key: str) -> Path:
    """The file of an entry."""
    return Path(store.directory.path) / "entries" / key[:2] / f"{key}.ajit"


def age(path: Path, seconds: float) -> None:
    """Make a file look unused for so long."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def put(store: DiskStore, label: object, *, idle: float = 0.0, size: int = 1000) -> str:
    """Publish an entry that was last used so long ago, and return its key."""
    key = a_key(label)
    assert isinstance(store.publish(an_artifact(key, bytes(size))), Published)
    age(entry_file(store, key), idle)
    return key


def size_of(store: DiskStore, key: str) -> int:
    """Size of an entry's file."""
    return entry_file(store, key).stat().st_size


def left(store: DiskStore) -> set[str]:
    """Keys of the entries that are there."""
    return {info.key for info in store.entries()}


def lock_file(path: Path, key: str = a_key()) -> Path:
    """The lock file of a key."""
    return path / "locks" / key[:2] / f"{key}.lock"


def temporaries(store: DiskStore) -> list[Path]:
    """The files in ``tmp``."""
    return list((Path(store.directory.path) / "tmp").iterdir())


def open_descriptors(path: Path) -> dict[int, str]:
    """Descriptors of this process for what lies in `path`, with what they are open on.

    Only those: what earlier tests left may close its own at any moment.
    """
    gc.collect()
    found = {}
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that read the list
            name = str(fd.readlink())
            if f"{name}/".startswith(f"{path}/"):
                found[int(fd.name)] = name
    return found


def open_files(path: Path) -> list[str]:
    """What this process has open there, but for directories, some of which a cache keeps."""
    return sorted(
        name
        for fd, name in open_descriptors(path).items()
        if not stat.S_ISDIR(os.fstat(fd).st_mode)
    )


def open_lock_files(path: Path) -> list[str]:
    """Lock files that this process has open there."""
    return [name for name in open_files(path) if name.endswith(".lock")]


def is_locked_for_others(path: Path, key: str = a_key()) -> bool:
    """Ask a fresh process, which is the only way to see a POSIX lock of this one."""
    code = (
        "import fcntl, sys\n"
        "try: fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except OSError: sys.exit(1)"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(lock_file(path, key))]
    return subprocess.run(command, check=False).returncode == 1


def blocked_waits(pid: int | None = None) -> int:
    """Threads of a process, by default this one, blocked in POSIX locks, as the kernel sees it."""
    wanted = str(pid or os.getpid())
    # A waiter's line has an arrow in place of the lock's kind, and its process id further on.
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return sum(lock[1] == "->" and wanted in lock for lock in locks)


def is_waited_for(pid: int | None = None) -> bool:
    """Whether a process, by default this one, is blocked in a POSIX lock."""
    return blocked_waits(pid) > 0


async def in_thread(function: Callable[..., T], *args: object) -> T:
    """Run what does I/O where it may block."""
    return await anyio.to_thread.run_sync(function, *args)


async def until(condition: Callable[[], object]) -> None:
    """Let others run until something is so, and fail if it does not become so."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():  # the kernel and other threads set no event
        assert time.monotonic() < deadline, f"not so within {DEADLINE_SECONDS} s"
        await anyio.sleep(0.001)


def poll(condition: Callable[[], T]) -> T:
    """Return what a condition gives as soon as it is true, like `until`."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not so within {DEADLINE_SECONDS} s"
        time.sleep(0.001)
    return found


def fill(place: Path) -> None:
    """Write to a file system until it is full."""
    with (place / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)):
                pass
        except OSError as exc:
            assert exc.errno == errno.ENOSPC  # noqa: PT017  # it fails at an unknown write


def in_a_forked_child(function: Callable[[], bool]) -> bool:
    """Whether a function returned true in a forked child."""
    with warnings.catch_warnings():
        # From Python 3.12 on, for the test process has threads; the child touches none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if function() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
