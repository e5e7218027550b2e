"""Leases in trouble: forks, full disks, torn records, file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.table import Busy, Lease, LeaseTable, Unavailable
from tests.cache.artifacts import a_key
from tests.cache.helpers import (
    fill,
    in_a_forked_child,
    in_thread,
    is_locked_for_others,
    lock_file,
    until,
)

KEY = a_key()

pytestmark = pytest.mark.anyio


def test_a_forked_child_has_no_lease_and_harms_none(table: LeaseTable, path: Path):
    """In the child the lease is not held, the key is busy, and the parent's lock stays."""
    lease = table.try_acquire(KEY, "nvrtc")

    def child() -> bool:
        lease.release()
        lease.beat("publishing")
        busy = table.try_acquire(KEY, "child")
        other = table.try_acquire(a_key("other"), "child")
        return (
            not lease.held
            and isinstance(busy, Busy)
            and busy.holder == lease.record
            and isinstance(other, Lease)
            and other.record.pid == os.getpid()
        )

    assert in_a_forked_child(child)
    assert lease.held
    assert is_locked_for_others(path)
    with table.try_acquire(a_key("other"), "nvrtc") as other:
        assert other.held
    lease.release()
    assert not is_locked_for_others(path)


def test_a_child_process_inherits_no_lock_file(table: LeaseTable, path: Path):
    """A compiler that is started while a lease is held has no descriptor of it."""
    with table.try_acquire(KEY, "nvrtc"):
        code = (
            "import os\n"
            "for fd in range(3, 1024):\n"
            "    link = f'/proc/self/fd/{fd}'\n"
            "    if os.path.exists(link): print(os.readlink(link))"
        )
        command = [sys.executable, "-I", "-S", "-c", code]
        done = subprocess.run(command, check=True, capture_output=True, text=True, close_fds=False)

    assert str(path) not in done.stdout


@pytest.mark.parametrize(
    "code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO]
)
async def test_a_file_system_without_locks_is_said_so(table, monkeypatch, code: int):
    """Trying and waiting answer `Unavailable` with the reason, and leave nothing open."""

    def unsupported(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    expected = Unavailable(os.strerror(code))

    assert await in_thread(table.try_acquire, KEY, "nvrtc") == expected
    with table.wait(KEY, "nvrtc") as one, table.wait(KEY, "nvrtc") as two:
        assert [await one.wait(), await two.wait()] == [expected, expected]
    await until(lambda: not table.statistics().helpers)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EMFILE])
async def test_a_lock_file_that_cannot_be_made_is_said_so(table, monkeypatch, code: int):
    """No lock file, no lease, and no exception."""
    real = os.open

    def failing(path, *args, **kwargs):
        if str(path).endswith(".lock"):
            raise OSError(code, os.strerror(code), path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", failing)

    outcome = await in_thread(table.try_acquire, KEY, "nvrtc")
    with table.wait(KEY, "nvrtc") as waiting:
        waited = await waiting.wait()

    assert isinstance(outcome, Unavailable)
    assert os.strerror(code) in outcome.reason
    assert waited == outcome


async def test_without_threads_a_wait_says_so(table, start_peer, monkeypatch):
    """No thread can be started: the waiters go on without a lease."""
    peer = await in_thread(start_peer)
    await in_thread(peer.ask, "acquire", KEY)

    def no_thread(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("ajit._cache.leases.lock_waiters.lock_threads.run", no_thread)
    with table.wait(KEY, "nvrtc") as waiting:
        outcome = await waiting.wait()

    assert isinstance(outcome, Unavailable)
    assert "can't start new thread" in outcome.reason


def test_a_full_disk_costs_the_record_and_not_the_lease(small_disk: Path):
    """On a full disk the lock still excludes; only its record cannot be written."""
    path = small_disk / "cache"
    table = LeaseTable(open_cache_directory(path))
    table.try_acquire(KEY, "nvrtc").release()
    lock_file(path).write_bytes(b"")
    fill(small_disk)

    lease = table.try_acquire(KEY, "nvrtc")

    assert isinstance(lease, Lease)
    assert is_locked_for_others(path)
    lease.release()


@pytest.mark.parametrize("content", [b"", b"x", b"AJLK" + b"\xff" * 1020, os.urandom(1024)])
def test_a_torn_record_is_no_record(table: LeaseTable, path: Path, start_peer, content: bytes):
    """Whatever the lock file says: the lock holds, and the holder is unknown."""
    peer = start_peer()
    peer.ask("acquire", KEY)
    # Written by another process: a descriptor closed in this one is none of the peer's business.
    lock_file(path).write_bytes(content)

    assert table.try_acquire(KEY, "nvrtc") == Busy(None)
    assert table.read_holder(KEY) is None


def test_a_record_with_a_wrong_checksum_is_no_record(table, path: Path, start_peer):
    """Half of it is of one beat and half of another: no holder rather than one that never was."""
    peer = start_peer()
    peer.ask("acquire", KEY)
    record = lock_file(path).read_bytes()
    lock_file(path).write_bytes(record.replace(b"peer", b"pear"))

    assert b"peer" in record
    assert table.read_holder(KEY) is None


def test_long_and_odd_names_fit_the_record(table: LeaseTable, start_peer):
    """A compiler's version may be as long as it likes, in any alphabet."""
    with table.try_acquire(KEY, "编译器" * 1000) as lease:
        assert start_peer().ask("acquire", KEY)["holder"] == os.getpid()
        assert lease.record.compiler.startswith("编译器")


def test_a_process_ends_while_its_thread_waits_for_a_lock(table: LeaseTable, path: Path):
    """Helper threads are daemons: a script that ends while one waits ends at once, cleanly."""
    code = (
        "import anyio, os, sys\n"
        "from ajit._cache.files.directory import open_cache_directory\n"
        "from ajit._cache.leases.table import LeaseTable\n"
        "def blocked():\n"
        "    locks = [lock.split() for lock in open('/proc/locks')]\n"
        "    return any('->' in lock and str(os.getpid()) in lock for lock in locks)\n"
        "async def main():\n"
        "    LeaseTable(open_cache_directory(sys.argv[1])).wait(sys.argv[2], 'nvrtc')\n"
        "    while not blocked(): await anyio.sleep(0.001)\n"
        "    print('blocked')\n"
        "anyio.run(main)\n"
    )
    with table.try_acquire(KEY, "nvrtc"):
        command = [sys.executable, "-c", code, str(path), KEY]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, "blocked\n", "")
