"""Cache directories that cannot be used, or only in part."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import warnings

import pytest

import ajit
from ajit._core import events
from tests.runtime.sources import ARCH, SAXPY, saxpy

pytestmark = pytest.mark.anyio


@pytest.fixture
def mount(tmp_path):
    """Mount a small file system, and mount it again with other options."""
    place = tmp_path / "mount"
    mounted = False

    def mount(options):
        nonlocal mounted
        if os.geteuid() != 0:
            pytest.skip("only root may mount a file system")
        place.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "ajit-test", str(place)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"cannot mount a file system here: {done.stderr.strip()}")
        mounted = True
        return place

    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill_up(place):
    """Use all space that a file system has."""
    with contextlib.suppress(OSError), (place / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(1024))


async def compile_two(options):
    """Compile two kernels in one runtime; return its statistics, events and warnings."""
    seen: list = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        async with ajit.open_runtime(subscribers=[seen.append], **options) as rt:
            for variant in (1, 2):
                artifact = await rt.compile(saxpy(variant), arch=ARCH)
                assert artifact.size_bytes > 0
            statistics = rt.statistics()
    return statistics, seen, [str(item.message) for item in warned]


async def test_missing_directory_is_made_with_its_parents_for_the_owner_only(options, tmp_path):
    """Other users can neither read nor write in it, whatever the umask is."""
    path = tmp_path / "not" / "there" / "yet"

    async with ajit.open_runtime(**{**options, "cache_dir": str(path)}) as rt:
        await rt.compile(SAXPY, arch=ARCH)

    made = [path, path.parent, *path.glob("*"), *path.glob("*/*")]
    assert {stat.S_IMODE(place.stat().st_mode) for place in made if place.is_dir()} == {0o700}
    assert len(list(path.glob("entries/*/*.ajit"))) == 1


async def test_file_in_place_of_the_directory_is_an_error(options, cache_dir, compiler):
    """The file is not touched, nothing is started, and the way out is named."""
    cache_dir.write_text("precious")

    with pytest.raises(ajit.CacheError, match="AJIT_CACHE_DIR") as caught:
        async with ajit.open_runtime(**options):
            pytest.fail("opened")

    assert caught.value.path == str(cache_dir)
    assert cache_dir.read_text() == "precious"
    assert compiler.started == 0


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
async def test_directory_that_others_may_write_to_is_refused(options, cache_dir, mode):
    """Another user could put code there, so nothing is read from it; a setting permits it."""
    cache_dir.mkdir()
    cache_dir.chmod(mode)

    with pytest.raises(ajit.UnsafeCacheDirectory, match="AJIT_ALLOW_UNSAFE_CACHE"):
        async with ajit.open_runtime(**options):
            pytest.fail("opened")
    async with ajit.open_runtime(**{**options, "allow_unsafe_cache": True}) as rt:
        artifact = await rt.compile(SAXPY, arch=ARCH)

    assert artifact.name == "saxpy"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
async def test_directory_of_another_user_is_refused(options, cache_dir):
    """Its owner could put code there at any time, whatever its mode is."""
    cache_dir.mkdir(mode=0o700)
    os.chown(cache_dir, 65534, 65534)

    with pytest.raises(ajit.UnsafeCacheDirectory, match="65534"):
        async with ajit.open_runtime(**options):
            pytest.fail("opened")


async def test_a_planted_directory_of_entries_is_not_used_and_told_once(options, cache_dir):
    """What another user, or a link, has in it is not run; the kernel is compiled each time."""
    async with ajit.open_runtime(**options) as rt:
        good = await rt.compile(SAXPY, arch=ARCH)
    shard = cache_dir / "entries" / good.key[:2]
    shard.rename(cache_dir.parent / "elsewhere")
    shard.symlink_to(cache_dir.parent / "elsewhere")
    before = {file: file.stat().st_mtime_ns for file in shard.resolve().iterdir()}

    for _ in range(2):
        seen: list = []
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            async with ajit.open_runtime(subscribers=[seen.append], **options) as rt:
                again = await rt.resolve(SAXPY, arch=ARCH)

        told = [event.reason for event in seen if isinstance(event, events.CacheUnwritable)]
        assert again.tier == "compiled"
        assert [str(item.message).count(f"entries/{good.key[:2]}") for item in warned] == [1]
        assert "remove it" in told[0]
    assert {file: file.stat().st_mtime_ns for file in shard.resolve().iterdir()} == before


async def test_a_home_directory_is_refused_and_not_touched(options, tmp_path, compiler):
    """`AJIT_CACHE_DIR=$HOME`: a directory of something else, whose ``tmp`` would be swept."""
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    home.chmod(0o700)
    (home / ".bashrc").write_text("mine")
    (home / "tmp" / "thesis").write_text("precious")
    os.utime(home / "tmp" / "thesis", (1, 1))

    with pytest.raises(ajit.CacheError, match="AJIT_CACHE_DIR to a directory of its own"):
        async with ajit.open_runtime(**{**options, "cache_dir": str(home)}):
            pytest.fail("opened")

    assert sorted(file.name for file in home.rglob("*")) == [".bashrc", "thesis", "tmp"]
    assert compiler.started == 0


async def test_read_only_cache_still_serves_and_warns_once(options, mount):
    """Entries that are there are used; what is compiled is returned, with one warning for all."""
    place = mount("size=4m,mode=0700")
    options = {**options, "cache_dir": str(place / "cache")}
    async with ajit.open_runtime(**options) as rt:
        await rt.compile(SAXPY, arch=ARCH)
    mount("remount,ro")

    statistics, seen, warned = await compile_two(options)
    async with ajit.open_runtime(**options) as rt:
        from_disk = await rt.resolve(SAXPY, arch=ARCH)

    assert statistics.compiled == 2
    assert len(warned) == 1
    assert "not kept" in warned[0]
    assert str(place) in warned[0]
    assert sum(isinstance(event, events.CacheUnwritable) for event in seen) == 2
    assert from_disk.tier == "disk"


async def test_full_disk_still_serves_warns_once_and_leaves_nothing(options, mount):
    """The entry does not fit: the kernel is returned, and no part of a file stays behind."""
    place = mount("size=48k,mode=0700")
    options = {**options, "cache_dir": str(place / "cache")}
    async with ajit.open_runtime(**options):
        pass
    fill_up(place)

    statistics, _, warned = await compile_two(options)

    assert statistics.compiled == 2
    assert statistics.disk.failed == 2
    assert len(warned) == 1
    assert "No space left" in warned[0]
    assert list((place / "cache" / "tmp").iterdir()) == []
    assert list((place / "cache").glob("entries/*/*")) == []


async def test_cache_that_cannot_even_be_made_still_serves(options, mount):
    """Without any directory, every request compiles, with one warning."""
    place = mount("size=64k,mode=0700")
    mount("remount,ro")

    statistics, _, warned = await compile_two({**options, "cache_dir": str(place / "cache")})

    assert statistics.compiled == 2
    assert len(warned) == 1


async def test_cache_removed_under_a_running_runtime_is_made_again(options, cache_dir):
    """The cache is removed with ``rm -rf``: the next kernel is compiled and kept again."""
    async with ajit.open_runtime(**options) as rt:
        await rt.compile(saxpy(1), arch=ARCH)
        subprocess.run(["rm", "-rf", str(cache_dir)], check=True)
        resolution = await rt.resolve(saxpy(1), arch=ARCH)

    assert resolution.tier == "compiled"
    assert len(list(cache_dir.glob("entries/*/*.ajit"))) == 1
