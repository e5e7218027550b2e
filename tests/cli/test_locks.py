"""`ajit locks`: who holds which lease, since when, how silent, and how many wait."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest

from ajit._cache.entries.collector import EVICTION_LEASE
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.holder import write_record
from ajit._cache.leases.permits import CompilePermits
from ajit._cache.leases.table import LeaseTable
from ajit.cli import exits
from tests.cache.artifacts import a_job, a_key
from tests.cache.helpers import age, is_waited_for, lock_file, poll

KEY = a_key()
STOPPED = """
import os, signal, sys
from pathlib import Path
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.table import LeaseTable

with LeaseTable(open_cache_directory(Path(sys.argv[1]))).try_acquire(sys.argv[2], "nvcc") as lease:
    lease.beat("compiling")
    os.kill(os.getpid(), signal.SIGSTOP)
"""
WAIT = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX)"


@pytest.fixture
def table(ajit):
    """The leases of the test's cache."""
    return LeaseTable(open_cache_directory(ajit.cache_dir))


def test_a_held_lease_is_listed_with_its_holder(ajit, table):
    """Key, kernel, host, process, phase and compiler; what is free is not listed."""
    table.try_acquire(a_key("free"), "nvcc 13.0").release()
    with table.try_acquire(KEY, "nvcc 13.0", name="saxpy.cu") as lease:
        lease.beat("compiling")
        [row] = ajit("locks", "--json").json()["leases"]
        shown = ajit("locks").out

    assert (KEY, os.getpid(), "compiling") == (row["key"], row["pid"], row["phase"])
    assert 0 <= row["silent_seconds"] < row["age_seconds"] + 60
    for text in (KEY[:12], "saxpy.cu", str(os.getpid()), "compiling", "nvcc 13.0"):
        assert text in shown


def test_silence_is_counted_from_the_last_beat(ajit, table):
    """A holder that does not beat looks like this."""
    with table.try_acquire(KEY, "nvcc"):
        before = lock_file(ajit.cache_dir, KEY).stat().st_mtime - 100
        os.utime(lock_file(ajit.cache_dir, KEY), (before, before))
        [row] = ajit("locks", "--json").json()["leases"]

    assert 100 <= row["silent_seconds"] < 200


def test_a_holder_that_is_stopped_is_called_so(ajit, table):
    """And not compiling, as it was before."""
    args = [sys.executable, "-c", STOPPED, str(ajit.cache_dir), KEY]
    with subprocess.Popen(args) as process:
        try:
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            [row] = ajit("locks", "--json").json()["leases"]
            shown = ajit("locks").out
        finally:
            process.kill()

    assert (process.pid, True) == (row["pid"], row["stopped"])
    assert "stopped" in shown
    assert "compiling" not in shown


def test_the_age_of_a_lease_on_another_host_is_by_that_hosts_clock(ajit, table):
    """Clocks of two hosts are not subtracted: only the age at the last beat is known."""
    elsewhere = {"boot_id": "elsewhere", "host": "far", "started": 1000.0, "beat_time": 1042.5}
    with table.try_acquire(KEY, "nvcc") as lease:
        write_record(lease._lock_file.fd, msgspec.structs.replace(lease.record, **elsewhere))
        [row] = ajit("locks", "--json").json()["leases"]

    assert 42.5 == row["age_seconds"]


def test_a_record_without_its_lock_names_no_holder(ajit, table):
    """A killed holder leaves its record behind; the kernel knows better."""
    reader = "import sys; print(open(sys.argv[1], 'rb').read().hex())"  # closing drops our lock
    file = lock_file(ajit.cache_dir, KEY)
    with table.try_acquire(KEY, "nvcc"):
        command = [sys.executable, "-I", "-c", reader, file]
        record = bytes.fromhex(subprocess.check_output(command, text=True))
    lock_file(ajit.cache_dir, KEY).write_bytes(record)

    ended = ajit("locks")

    assert exits.FINE == ended.code
    assert "no lease is held" in ended.out


def test_a_lease_by_directory_is_listed_as_well(ajit, table):
    """Its record is in its claim; how long it is silent is told by that, too."""
    table.directory.lease_kind = "directory"
    table.try_acquire(a_key("free"), "nvcc 13.0").release()
    with table.try_acquire(KEY, "nvcc 13.0") as lease:
        age(claims(ajit.cache_dir) / "00000001" / "record", 30)
        listed = ajit("locks", "--json", AJIT_LEASE="directory").json()

    [row] = listed["leases"]
    assert (KEY, lease.record.pid) == (row["key"], row["pid"])
    assert 29 < row["silent_seconds"] < 60
    assert [] == listed["others"]


def claims(cache_dir):
    """Where the claims of the key are."""
    return cache_dir / "locks" / KEY[:2] / f"{KEY}.claims"


def test_waiters_are_counted(ajit, table):
    """Another process blocks in the lock."""
    with table.try_acquire(KEY, "nvcc") as lease:
        command = [sys.executable, "-I", "-c", WAIT, lock_file(ajit.cache_dir, KEY)]
        with subprocess.Popen(command) as waiter:
            poll(lambda: is_waited_for(waiter.pid))
            [row] = ajit("locks", "--json").json()["leases"]
            lease.release()

    assert 1 == row["waiters"]


def test_permits_and_the_evictor_are_listed_apart(ajit, table):
    """They are no kernels."""
    permit = CompilePermits(table.directory, 2).try_admit(a_job())
    with table.try_acquire(EVICTION_LEASE, "eviction"):
        listed = ajit("locks", "--json").json()
        shown = ajit("locks").out
    permit.release()

    assert [] == listed["leases"]
    assert {"permit", "eviction"} == {row["kind"] for row in listed["others"]}
    assert "permit 0" in shown
