"""A cache in trouble: on a real file system in that trouble, and on the fake one."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import anyio
import pytest

import ajit
from ajit.testing import FakeFileSystem
from tests.runtime.sources import ARCH, saxpy

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("default::ajit.AjitWarning"),
]

TROUBLES = {
    "full": ("fill", "No space left on device"),
    "read-only": ("make_read_only", "Read-only file system"),
}


@pytest.fixture
def options(fake_compiler):
    """A runtime without a device."""
    return {"device": "none", "host_compiler": str(fake_compiler.path)}


@pytest.fixture(params=TROUBLES)
def trouble(request):
    """How it begins, and the system's words."""
    return TROUBLES[request.param]


async def test_kernel_is_returned_though_it_cannot_be_kept(small_disk, options, trouble):
    """One event says why, nothing is left behind, and what was there is still found."""
    begin, words = trouble
    cache, seen = Path(small_disk.path, "cache"), []
    async with ajit.open_runtime(cache_dir=cache, subscribers=[seen.append], **options) as rt:
        kept = await rt.compile(saxpy(1), arch=ARCH)
        getattr(small_disk, begin)()
        made = await rt.compile(saxpy(2), arch=ARCH)
    async with ajit.open_runtime(cache_dir=cache, **options) as rt:
        found = await rt.resolve(saxpy(1), arch=ARCH)
    small_disk.mend()
    (event,) = [one for one in seen if isinstance(one, ajit.events.CacheUnwritable)]

    assert (event.key, made.name) == (made.base, "saxpy")
    assert words in event.reason
    assert (found.tier, found.artifact.key) == ("disk", kept.key)
    assert list((cache / "tmp").iterdir()) == []


async def test_mended_cache_keeps_kernels_again(small_disk, options, trouble):
    """The next compile is published."""
    cache = Path(small_disk.path, "cache")
    async with ajit.open_runtime(cache_dir=cache, **options) as rt:
        await rt.compile(saxpy(1), arch=ARCH)
        getattr(small_disk, trouble[0])()
        await rt.compile(saxpy(2), arch=ARCH)
        small_disk.mend()
        await rt.compile(saxpy(3), arch=ARCH)
    async with ajit.open_runtime(cache_dir=cache, **options) as rt:
        found = [await rt.resolve(saxpy(variant), arch=ARCH) for variant in (1, 2, 3)]

    assert [one.tier for one in found] == ["disk", "compiled", "disk"]


async def test_cache_that_does_not_answer_is_left_alone(hanging_disk, options):
    """The kernel is compiled and returned; once the cache answers, it is used again."""
    cache, seen = Path(hanging_disk.path, "cache"), []
    options |= {"cache_dir": cache, "patience_seconds": 1.0}
    async with ajit.open_runtime(subscribers=[seen.append], **options) as rt:
        kept = await rt.compile(saxpy(1), arch=ARCH)
        hanging_disk.hang()
        with anyio.fail_after(120):
            made = await rt.compile(saxpy(2), arch=ARCH)
        hanging_disk.mend()
    async with ajit.open_runtime(**options) as rt:
        found = await rt.resolve(saxpy(1), arch=ARCH)

    assert made.name == "saxpy"
    assert [one for one in seen if isinstance(one, ajit.events.CacheUnresponsive)]
    assert (found.tier, found.artifact.key) == ("disk", kept.key)


def test_call_fails_as_told(tmp_path):
    """With the error that was named, below the path alone, for ajit's modules alone."""
    from ajit._cache.files import fs

    with FakeFileSystem(tmp_path / "in") as system:
        system.fail("mkdir", errno.EDQUOT)
        with pytest.raises(OSError, match="quota"):
            fs.os.mkdir(tmp_path / "in")
        fs.os.mkdir(tmp_path / "out")
        (tmp_path / "in").mkdir()
        assert "failing" in repr(system)
        with pytest.raises(ValueError, match="getpid"):
            system.fail("getpid")

    assert fs.os is os


def test_paths_relative_to_a_descriptor_are_seen(tmp_path):
    """As ajit names its files: through the descriptor of their directory."""
    from ajit._cache.files import fs

    fd = os.open(tmp_path, os.O_RDONLY)
    with FakeFileSystem(tmp_path) as system:
        system.make_read_only()
        with pytest.raises(OSError, match="Read-only"):
            fs.os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        with pytest.raises(OSError, match="Read-only"):
            fs.os.fchmod(fd, 0o700)
        assert fs.os.listdir(fd) == []
    os.close(fd)


def test_what_hangs_at_the_end_of_the_block_goes_on(tmp_path):
    """No thread stays behind."""
    from ajit._cache.files import fs

    asked = threading.Event()

    def ask() -> None:
        asked.set()
        fs.os.stat(tmp_path)

    with FakeFileSystem(tmp_path) as system:
        system.hang()
        thread = threading.Thread(target=ask)
        thread.start()
        asked.wait(60)
        assert thread.is_alive()
    thread.join(60)

    assert not thread.is_alive()


def test_second_stand_in_is_refused(tmp_path):
    """And leaves the first one as it is."""
    from ajit._cache.files import fs

    with FakeFileSystem(tmp_path) as system:
        there = fs.os
        with pytest.raises(RuntimeError, match="'os'"), FakeFileSystem(tmp_path):
            pass
        assert fs.os is there
        assert "sound" in repr(system)

    assert fs.os is os
