"""With seals, one who may write to a cache and has no key keeps no server from starting."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import ajit
from ajit._cache.entries.disk import DiskStore, Missing, PublishFailed
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.files.marker import MARKER
from ajit._cache.leases.table import LeaseTable, Unavailable
from ajit.errors import CacheError
from tests.cache.artifacts import a_key, an_artifact
from tests.cache.helpers import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = a_key()


def link(place: Path) -> None:
    """A link out of the cache."""
    place.symlink_to("/tmp")  # never written to


SPOILERS: list[tuple[str, Callable[[Path], None]]] = [
    (name, how)
    for name in ("entries", "reads", "tmp", "digests", "locks", "failures")
    for how in (link, os.mkfifo, lambda place: place.touch())
]


def spoilt(path: Path, name: str, how: Callable[[Path], None]) -> Path:
    """A cache with something else in the place of one of its directories."""
    open_cache_directory(path)
    path.chmod(0o777)
    (path / name).rename(path / f".{name}")
    how(path / name)
    return path


def stray(path: Path) -> Path:
    """A cache without its marker, and with a strange file."""
    open_cache_directory(path)
    path.chmod(0o777)
    (path / MARKER).unlink()
    (path / "stray").touch()
    return path


@pytest.mark.parametrize(("name", "how"), SPOILERS)
def test_a_spoilt_cache_is_not_used_and_no_error(path: Path, name: str, how):
    """It says what to remove, keeps nothing, and touches nothing."""
    spoilt(path, name, how)
    before = sorted(path.rglob("*"))

    directory = open_cache_directory(path, authenticated=True)

    assert directory.access == "none"
    assert f"{name} in it is not a directory" in directory.problem
    assert "remove it" in directory.problem
    store = DiskStore(directory)
    assert isinstance(store.publish(an_artifact(KEY)), PublishFailed)
    assert store.read(KEY) == Missing()
    assert isinstance(LeaseTable(directory).try_acquire(KEY, "nvrtc"), Unavailable)
    assert sorted(path.rglob("*")) == before


def test_a_cache_that_lost_its_marker_to_others_is_not_used_and_no_error(path: Path):
    """A strange file without a marker looks like a directory of something else."""
    directory = open_cache_directory(stray(path), authenticated=True)

    assert directory.access == "none"
    assert "it has stray" in directory.problem


@pytest.mark.parametrize("authenticated", [True, False])
def test_what_no_other_can_have_done_is_an_error(path: Path, authenticated):
    """A setting names a wrong directory, or the user has moved something: that is told at once."""
    stray(path).chmod(0o700)

    with pytest.raises(CacheError, match="it has stray"):
        open_cache_directory(path, authenticated=authenticated)


@pytest.mark.anyio
async def test_a_server_with_seals_starts_where_its_cache_is_spoilt(path: Path, caplog):
    """And compiles."""
    await in_thread(lambda: spoilt(path, "entries", link))
    source = 'extern "C" __global__ void k(float* x) { x[0] = 1; }'

    async with ajit.open_runtime(
        device="none", cache_dir=path, trust="hmac", hmac_key="k" * 32
    ) as rt:
        found = await rt.resolve(ajit.Spec(source, "k", name="k"), arch=os.uname().machine)

    assert found.tier == "compiled"
    assert "entries in it is not a directory" in caplog.text
