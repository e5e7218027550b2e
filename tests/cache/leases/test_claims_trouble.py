"""Claims where the file server errs, or where others have put something among them."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from ajit._cache.files.directory import CacheDirectory
from ajit._cache.leases import late_marks as module
from ajit._cache.leases.claims import MOST_NUMBER, Claims
from ajit._cache.leases.late_marks import LateMarks, late_marks
from ajit._cache.leases.lease import first_record
from ajit._cache.leases.table import LeaseTable, Unavailable
from ajit._core.claim import Mark
from ajit._core.seal import NO_TRUST
from tests.cache.artifacts import a_key
from tests.cache.helpers import age, poll

KEY = a_key()
DAY = 24 * 3600.0
RECORD = first_record("nvrtc")


@pytest.fixture
def directory(directory: CacheDirectory) -> CacheDirectory:
    """A cache directory whose leases are directories."""
    directory.lease_kind = "directory"
    directory.patience_seconds = 4.0
    return directory


@pytest.fixture
def top(path: Path) -> Path:
    """Where the claims of the key are."""
    return path / "locks" / KEY[:2] / f"{KEY}.claims"


def numbers(top: Path) -> list[int]:
    """The claims that are there."""
    return sorted(int(place.name) for place in top.iterdir())


def claim_once(directory: CacheDirectory) -> None:
    """Make a claim and leave it."""
    claims = Claims(directory, KEY)
    assert claims.try_make()
    claims.write(RECORD)
    claims.leave(RECORD, published=False)


def fail_once(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The next directory cannot be listed."""
    real, codes = os.scandir, [code]

    def scandir(fd):
        if codes:
            raise OSError(codes.pop(), "the server restarts")
        return real(fd)

    monkeypatch.setattr(os, "scandir", scandir)


def test_claims_that_cannot_be_listed_are_not_none(directory, top: Path, monkeypatch):
    """Old numbers are swept: who took an error for "there are none" would make number 1 anew."""
    for _ in range(3):
        claim_once(directory)
    for number in (1, 2, 3):
        age(top / f"{number:08d}", 2 * DAY)
    claim_once(directory)
    holder, other = Claims(directory, KEY), Claims(directory, KEY)
    assert holder.try_make()
    holder.write(RECORD)

    fail_once(monkeypatch, errno.EIO)
    assert not other.try_make()
    fail_once(monkeypatch, errno.EIO)
    assert not other.is_free()
    fail_once(monkeypatch, errno.EIO)
    assert other.read() is None
    assert [3, 4, 5] == numbers(top)
    assert not other.try_make()


def test_claims_that_may_not_be_listed_are_unavailable(directory, table: LeaseTable, monkeypatch):
    """That is no restart of a server, so it is said at once."""
    claim_once(directory)
    fail_once(monkeypatch, errno.EACCES)

    assert isinstance(table.try_acquire(KEY, "nvrtc"), Unavailable)


def test_when_a_holder_wrote_is_not_known_if_claims_cannot_be_listed(
    directory, table: LeaseTable, monkeypatch
):
    """It is told to people; an error is no reason to fail."""
    with table.try_acquire(KEY, "nvrtc"), table._borrow(KEY) as lock_file:
        assert lock_file.last_written()
        fail_once(monkeypatch, errno.EIO)

        assert lock_file.last_written() is None


def test_a_strange_file_in_an_old_claim_does_not_end_the_sweep(directory, top: Path):
    """That claim stays, and the others go."""
    for _ in range(5):
        claim_once(directory)
    (top / "00000002" / "strange").touch()
    for number in range(1, 6):
        age(top / f"{number:08d}", 2 * DAY)

    claim_once(directory)

    assert [2, 5, 6] == numbers(top)


@pytest.mark.parametrize("planted", ["100000000", "9" * 30, "0" * 9])
def test_a_number_of_another_width_is_no_claim(directory, top: Path, planted: str):
    """Claims go on from the newest of their own."""
    claim_once(directory)
    (top / planted).mkdir()

    claim_once(directory)

    assert (top / "00000002").exists()


def test_the_last_number_is_followed_by_none(directory, table: LeaseTable, top: Path):
    """The one behind it would not be seen: two would hold the lease. What to remove is told."""
    claim_once(directory)
    last = top / str(MOST_NUMBER)
    last.mkdir()
    claims = Claims(directory, KEY)
    claims._limits = claims._limits._replace(silence_seconds=0.0)

    with pytest.raises(OSError, match=f"{MOST_NUMBER} is the last number there is; remove it"):
        claims.try_make()

    assert not claims.held
    assert [1, MOST_NUMBER] == numbers(top)
    last.rmdir()
    assert table.try_acquire(KEY, "nvrtc").release() is None


@pytest.mark.parametrize("call", ["open", "pwrite", "close"])
def test_a_mark_that_could_not_be_written_is_written_later(
    directory, top: Path, monkeypatch, call: str
):
    """The file server restarts in the moment in which the lease is released."""
    claims, other = Claims(directory, KEY), Claims(directory, KEY)
    assert claims.try_make()
    claims.write(RECORD)
    down, real = threading.Event(), getattr(os, call)
    down.set()

    def fail(*args, **kwargs):
        ours = call != "open" or args[0] == "record"
        if down.is_set() and ours:
            raise OSError(errno.EIO, "the server restarts")
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, fail)
    claims.leave(RECORD, published=True)
    before = late_marks.waiting()
    down.clear()
    poll(lambda: not late_marks.waiting())

    assert before == 1
    assert other._look(NO_TRUST).mark is Mark.PUBLISHED


def test_a_mark_of_a_claim_that_is_gone_is_not_tried_again(directory, top: Path):
    """There is nothing to be marked, and nothing is made for it."""
    claims = Claims(directory, KEY)
    assert claims.try_make()
    (top / "00000001").rmdir()
    claims.leave(RECORD, published=False)

    assert not late_marks.waiting()
    assert numbers(top) == []


def test_marks_that_are_never_written_are_given_up(monkeypatch):
    """After a minute a holder is silent for every waiter, and the thread ends."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(module, "GIVE_UP_SECONDS", 0.0)
    marks, tried = LateMarks(), []
    marks.add(lambda: bool(tried.append(1)))
    poll(lambda: not marks.waiting() and not marks._running)

    assert tried == [1]
