"""Digests are kept exactly as long as they are sure to be true."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ajit._compile.recorder.digests import MAX_FILE_BYTES, FileCache, FileStamp, sha256_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as settled."""
    monkeypatch.setattr(FileStamp, "settled", lambda _self: True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file."""
    path = tmp_path / "file"
    path.write_bytes(b"one")
    return path


@pytest.mark.usefixtures("long_ago")
def test_a_settled_file_is_read_once(file: Path) -> None:
    """The second answer comes from the cache, under any name of the same file."""
    cache = FileCache(sha256_file)
    first = cache.get(str(file))
    renamed = file.rename(file.with_name("renamed"))
    os.link(renamed, file)  # changes the change time: one more read, then none
    cache.get(str(file))
    reads = cache.reads

    assert cache.get(str(renamed)) == first
    assert cache.reads == reads


@pytest.mark.usefixtures("long_ago")
@pytest.mark.parametrize("content", [b"two", b"longer"])
def test_a_changed_file_is_read_again(file: Path, content: bytes) -> None:
    """Whatever changes it: a write in place, or another file under its name."""
    cache = FileCache(sha256_file)
    first = cache.get(str(file))
    other = file.with_name("other")
    other.write_bytes(content)
    other.replace(file)

    assert cache.get(str(file)) != first


def test_a_file_written_just_now_is_never_trusted(file: Path) -> None:
    """A second write in the same tick of the file system's clock would go unseen."""
    cache = FileCache(sha256_file)
    cache.get(str(file))
    cache.get(str(file))

    assert cache.reads == 2


@pytest.mark.parametrize("path", ["/nonexistent/file", "/dev/zero", "/", "nul\0byte"])
def test_only_a_file_has_a_digest(path: str) -> None:
    """None, and nothing is read."""
    cache = FileCache(sha256_file)

    assert cache.get(path) is None
    assert cache.reads == 0


def test_a_file_that_takes_long_to_read_has_no_digest(file: Path) -> None:
    """A forged list may name one of any size, which takes no room on a disk."""
    cache = FileCache(sha256_file)
    os.truncate(file, MAX_FILE_BYTES + 1)

    assert cache.get(str(file)) is None
    assert cache.reads == 0
