"""What is a cache directory, and what is a directory of something else."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from ajit._cache.entries.disk import DiskStore, Found, Published
from ajit._cache.files.directory import SUBDIRECTORIES, open_cache_directory
from ajit._cache.files.marker import MARKER
from ajit.errors import CacheError
from tests.cache.artifacts import a_key, an_artifact

SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55"
KEY = a_key()


def filled(path: Path) -> Path:
    """A cache with one entry."""
    assert isinstance(DiskStore(open_cache_directory(path)).publish(an_artifact(KEY)), Published)
    return path


def finds(path: Path) -> bool:
    """Whether a cache that is opened now has the entry."""
    return isinstance(DiskStore(open_cache_directory(path)).read(KEY), Found)


@pytest.mark.parametrize("made", [False, True], ids=["missing", "empty"])
def test_a_new_cache_is_marked(path: Path, made: bool):  # noqa: FBT001 - a parameter
    """With the line by which programs know caches, and a line by which ajit knows its own."""
    if made:
        path.mkdir(mode=0o700)

    open_cache_directory(path)

    first, second, *_ = (path / MARKER).read_text().splitlines()
    assert first == SIGNATURE
    assert "ajit" in second
    assert stat.S_IMODE((path / MARKER).stat().st_mode) == 0o644


def test_a_home_directory_is_refused_and_not_touched(path: Path):
    """`AJIT_CACHE_DIR=$HOME`: nothing is made, marked or swept in it; the way out is told."""
    for folder in ("tmp", "failures/ab", "Documents"):
        (path / folder).mkdir(parents=True)
    (path / ".bashrc").write_text("# mine")
    path.chmod(0o700)
    for file in ("tmp/thesis.tex", "failures/ab/report.json"):
        (path / file).write_text("precious")
        os.utime(path / file, (1, 1))
    before = sorted(path.rglob("*"))

    with pytest.raises(CacheError, match="not empty and no cache of ajit") as caught:
        open_cache_directory(path)

    assert sorted(path.rglob("*")) == before
    assert "it has .bashrc, Documents" in str(caught.value)
    assert f"set AJIT_CACHE_DIR to a directory of its own, such as {path}/ajit" in str(caught.value)


def test_what_was_advised_works(path: Path):
    """A directory below the one that was refused."""
    path.mkdir(mode=0o700)
    (path / "mine").touch()

    assert open_cache_directory(path / "ajit").access == "writable"


def test_another_programs_cache_is_refused(path: Path):
    """Its marker has the same first line, and says whose it is."""
    path.mkdir(mode=0o700)
    (path / MARKER).write_text(f"{SIGNATURE}\n# This file is a cache directory tag of cargo.\n")

    with pytest.raises(CacheError, match=MARKER):
        open_cache_directory(path)


@pytest.mark.parametrize("names", [SUBDIRECTORIES, ("entries",), ("entries", "locks", "tmp")])
def test_a_cache_of_an_earlier_version_gets_its_marker(path: Path, names: tuple[str, ...]):
    """It has none, and nothing but what a cache has; perhaps not all of it, as of a copy."""
    filled(path)
    (path / MARKER).unlink()
    for name in set(SUBDIRECTORIES) - set(names):
        shutil.rmtree(path / name)

    assert finds(path)
    assert (path / MARKER).read_text().startswith(SIGNATURE)


def test_a_marked_cache_may_hold_more(path: Path):
    """What was put into it later does not make it something else, and stays."""
    filled(path)
    (path / "README").write_text("the cache of the build machines")

    assert finds(path)
    assert (path / "README").exists()


def test_the_root_of_a_new_volume_is_empty(path: Path):
    """What a file system has made in it is no one's."""
    path.mkdir(mode=0o700)
    (path / "lost+found").mkdir()

    assert open_cache_directory(path).access == "writable"
    assert (path / MARKER).exists()


def test_a_marker_that_was_cut_short_is_written_anew(path: Path):
    """Its writer was killed, or is just writing it."""
    path.mkdir(mode=0o700)
    (path / MARKER).touch()

    open_cache_directory(path)

    assert (path / MARKER).read_text().startswith(SIGNATURE)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_marker_that_cannot_be_read_is_in_no_ones_way(path: Path, monkeypatch, code: int):
    """Trouble with the file system costs no cache that has nothing but what a cache has."""
    filled(path)
    real = os.open

    def failing(name, *args, **kwargs):
        if name == MARKER:
            raise OSError(code, os.strerror(code))
        return real(name, *args, **kwargs)

    monkeypatch.setattr(os, "open", failing)

    assert finds(path)


def test_a_marker_is_not_written_through_a_link(path: Path, tmp_path: Path):
    """Neither a symbolic nor a hard one."""
    path.mkdir(mode=0o700)
    (tmp_path / "precious").write_text("")
    (path / MARKER).hardlink_to(tmp_path / "precious")

    open_cache_directory(path)

    assert (tmp_path / "precious").read_text() == ""


def test_a_removed_cache_is_marked_when_it_is_made_again(path: Path):
    """A running server makes it, and the next one must know it."""
    directory = open_cache_directory(path)
    shutil.rmtree(path)

    DiskStore(directory).publish(an_artifact(KEY))

    assert (path / MARKER).exists()


def test_a_directory_that_took_a_caches_place_is_not_used(path: Path):
    """The cache was removed under a server, and its name given to something else."""
    directory = open_cache_directory(path)
    shutil.rmtree(path)
    path.mkdir(mode=0o700)
    (path / "mine").write_text("precious")

    published = DiskStore(directory).publish(an_artifact(KEY))

    assert "no cache of ajit" in published.reason
    assert [file.name for file in path.iterdir()] == ["mine"]


@pytest.mark.parametrize("how", ["cp", "tar", "entries only"])
def test_a_copy_of_a_cache_is_a_cache(path: Path, tmp_path: Path, how: str):
    """As `COPY` makes it in an image, with or without its empty directories and its marker."""
    filled(path)
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o700)
    if how == "cp":
        subprocess.run(["cp", "-r", f"{path}/.", str(copy)], check=True)
    elif how == "tar":
        packed = tmp_path / "cache.tar"
        subprocess.run(["tar", "-cf", packed, "--exclude-caches", "-C", path, "."], check=True)
        subprocess.run(["tar", "-xf", packed, "-C", copy], check=True)
    else:
        shutil.copytree(path / "entries", copy / "entries")

    # A program that is told to leave caches out leaves nothing but the marker.
    assert finds(copy) == (how != "tar")


def test_a_read_only_cache_without_a_marker_is_read(read_only_mount):
    """It cannot be marked; that is no reason not to read it."""
    path = read_only_mount.place / "cache"
    filled(path)
    (path / MARKER).unlink()
    read_only_mount()

    assert finds(path)
    assert open_cache_directory(path).access == "read-only"


def test_a_read_only_directory_of_something_else_is_refused(read_only_mount):
    """As any other is."""
    path = read_only_mount.place / "home"
    path.mkdir(mode=0o700)
    (path / "mine").touch()
    read_only_mount()

    with pytest.raises(CacheError, match="no cache of ajit"):
        open_cache_directory(path)
