"""Failure records: shared by all who wait, short-lived, and never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from ajit._cache.entries import failures as failure
from ajit._cache.entries.failures import FailureStore
from ajit._cache.files.directory import CacheDirectory, open_cache_directory
from ajit.errors import CompileError, UnknownEntryPoint
from tests.cache.artifacts import a_key

KEY = a_key()
ERROR = CompileError(name="saxpy", key=KEY, compiler="nvrtc 13.0", log='k.cu(3): error: "x" é')


@pytest.fixture
def failures(directory: CacheDirectory) -> FailureStore:
    """The failure records of the cache."""
    return FailureStore(directory)


@pytest.mark.parametrize(
    "error",
    [
        ERROR,
        UnknownEntryPoint(
            entry="f<int>", kernels=["g"], name="saxpy", key=KEY, compiler="nvcc", log="log"
        ),
    ],
)
def test_a_failure_is_recalled_as_it_was(failures, path: Path, error: CompileError):
    """Another store on the same cache raises an equal error, with its log and a note."""
    assert failures.record(error)

    recalled = FailureStore(open_cache_directory(path)).recall(KEY)

    assert type(recalled) is type(error)
    assert str(recalled) == str(error)
    assert (recalled.log, recalled.key) == (error.log, KEY)
    assert "not tried again" in recalled.__notes__[0]


def test_no_failure_is_recalled_for_another_key(failures: FailureStore):
    """A changed source has another key, and no record."""
    failures.record(ERROR)

    assert failures.recall(a_key("another")) is None


@pytest.mark.parametrize("age", [failure.BELIEVED_SECONDS, 1e6, -1.0])
def test_a_failure_is_soon_forgotten(failures: FailureStore, monkeypatch, age: float):
    """Too old, or written by a clock that is ahead: it is compiled again."""
    failures.record(ERROR)
    now = failure.time.time()
    monkeypatch.setattr(failure.time, "time", lambda: now + age)

    assert failures.recall(KEY) is None


def test_the_latest_failure_counts(failures: FailureStore):
    """A second failure replaces the first."""
    failures.record(ERROR)
    failures.record(CompileError(name="saxpy", key=KEY, compiler="nvrtc 13.0", log="second"))

    assert failures.recall(KEY).log == "second"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"kind": "Other"}'])
def test_a_broken_record_counts_for_nothing(failures, path: Path, content: bytes):
    """Whatever lies there, it is compiled."""
    failures.record(ERROR)
    (path / "failures" / KEY[:2] / f"{KEY}.json").write_bytes(content)

    assert failures.recall(KEY) is None


def test_where_nothing_can_be_written_nothing_is_recorded(read_only_mount):
    """A cache that cannot be written costs repeated failures, nothing else."""
    failures = FailureStore(open_cache_directory(read_only_mount() / "cache"))

    assert not failures.record(ERROR)
    assert failures.recall(KEY) is None
