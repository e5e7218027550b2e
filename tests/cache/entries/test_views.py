"""Views by themselves: a content that is not what it should be, and others that hold the lock."""

from __future__ import annotations

import fcntl
import hashlib
import time
from pathlib import Path

import pytest

from ajit._cache.entries.bundles import Damaged
from ajit._cache.entries.views import Views
from ajit._core.bundle import BundleArtifact, BundleFile
from ajit.errors import CacheError

KEY = "ab" * 32
TEXT = b"text of a file"


class Content:
    """Bytes, and errors where the test says so."""

    def __init__(self, data, fails_at=None):
        self._data, self._fails_at = data, fails_at

    def read(self, offset, count):
        """As `ajit._core.bundle.Content.read`."""
        if self._fails_at is not None and offset >= self._fails_at:
            raise OSError(5, "Input/output error")
        return self._data[offset : offset + count]


def a_bundle():
    """A bundle of two files."""
    digest = hashlib.sha256(TEXT).hexdigest()
    files = tuple(BundleFile(path, len(TEXT), digest) for path in ("a/b", "c"))
    texts = dict.fromkeys(
        ("arch", "compiler", "compiler_version", "name", "log", "host", "ajit_version"), ""
    )
    fields = {"key": KEY, "base": KEY, "key_fields": (), "kind": "bundle", "entries": ()}
    more = {"lowered": {}, "command": (), "created": 1.0, "seconds": 1.0}
    return BundleArtifact(files=files, **fields, **texts, **more)


@pytest.fixture
def views(tmp_path):
    """Views in the test's folder, with little patience."""
    return Views(str(tmp_path), 0, 0.2)


@pytest.mark.parametrize(
    "content",
    [
        Content(TEXT + b"text of a FILE"),
        Content(TEXT + TEXT[:-1]),
        Content(b""),
        Content(2 * TEXT, fails_at=len(TEXT)),
    ],
    ids=["other bytes", "too few", "none", "unreadable"],
)
def test_content_that_is_not_the_bundles_makes_no_view(views, tmp_path, content):
    """What had been copied is not seen, and nothing of it stays."""
    with pytest.raises(Damaged):
        views.make(a_bundle(), content)

    assert views.find(a_bundle()) is None
    assert [path for path in tmp_path.rglob("*") if path.is_dir() and path.name == KEY] == []
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]


def test_holder_of_the_lock_that_hangs_stops_no_other(views):
    """It saves work and no more: past the patience the view is made beside it."""
    first = views.make(a_bundle(), Content(2 * TEXT))
    (lock,) = Path(first).parents[1].glob("*.lock")
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        begun = time.monotonic()
        second = views.make(a_bundle(), Content(2 * TEXT))
        waited = time.monotonic() - begun

    assert first == second
    assert 0.2 <= waited < 60


def test_place_that_cannot_be_written_is_an_error_that_says_where(tmp_path):
    """With the setting that helps."""
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="views_dir"):
        Views(str(tmp_path / "file"), 0, 1.0).make(a_bundle(), Content(2 * TEXT))
