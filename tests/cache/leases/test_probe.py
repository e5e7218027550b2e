"""The lock probe: real locks, a real second process."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from ajit._cache.files.directory import CacheDirectory, open_cache_directory
from ajit._cache.leases.probe import LockProbe, locks_work


def test_locks_of_a_local_file_system_work(directory: CacheDirectory):
    """They exclude a child process, are free again afterwards, and nothing is left behind."""
    assert locks_work(directory) == LockProbe(works=True, reason="")
    assert list((Path(directory.path) / "tmp").iterdir()) == []


def test_locks_that_do_not_exclude_are_found_out(directory: CacheDirectory, monkeypatch):
    """A lock that is only pretended excludes no process."""
    monkeypatch.setattr(fcntl, "lockf", lambda *args: None)

    probe = locks_work(directory)

    assert not probe.works
    assert "does not keep another process out" in probe.reason


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_missing_locks_are_said_so(directory: CacheDirectory, monkeypatch, code: int):
    """A file system without locks is named as such."""

    def unsupported(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", unsupported)

    assert locks_work(directory) == LockProbe(
        works=False, reason=f"the file system has no locks ({os.strerror(code)})"
    )


def test_a_cache_that_cannot_be_written_has_no_locks(read_only_mount):
    """Read-only or absent: the reason is the directory's."""
    probe = locks_work(open_cache_directory(read_only_mount() / "cache"))

    assert not probe.works
    assert "cannot be written" in probe.reason
