"""Entries that do not verify: compiled again, replaced, counted, and never loaded."""

from __future__ import annotations

import os

import pytest

import ajit
from ajit._core import events
from tests.runtime.sources import ARCH, saxpy

pytestmark = pytest.mark.anyio


def truncate(entry, _other):
    """Cut in the middle, as a crash or a full disk would."""
    entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])


def flip_a_bit(entry, _other):
    """Change one bit of the code."""
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 0x10
    entry.write_bytes(data)


def empty(entry, _other):
    """A name without content."""
    entry.write_bytes(b"")


def foreign(entry, _other):
    """A file of something else."""
    entry.write_bytes(b"\x7fELF" + bytes(5000))


def swap(entry, other):
    """Two entries with each other's names: each whole, each the wrong kernel."""
    mine, its = entry.read_bytes(), other.read_bytes()
    entry.write_bytes(its)
    other.write_bytes(mine)


def append(entry, _other):
    """Something after the end."""
    entry.write_bytes(entry.read_bytes() + b"\0")


def link(entry, other):
    """A symbolic link, to a good entry of another place."""
    entry.unlink()
    entry.symlink_to(other)


def fifo(entry, _other):
    """A reader would wait for a writer."""
    entry.unlink()
    os.mkfifo(entry)


def directory(entry, _other):
    """Not even empty directories are in the way."""
    entry.unlink()
    entry.mkdir()


def another_users(entry, _other):
    """A file that is not this user's, who could change it."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(entry, 65534, 65534)


def open_to_all(entry, _other):
    """A file that all may write to."""
    entry.chmod(0o666)


@pytest.mark.parametrize(
    "damage",
    [
        *(truncate, flip_a_bit, empty, foreign, swap, append),
        *(link, fifo, directory, another_users, open_to_all),
    ],
    ids=lambda damage: damage.__name__,
)
async def test_damaged_entry_is_compiled_again_replaced_and_counted(
    options, cache_dir, compiler, damage
):
    """The request is served from a fresh compile, and the next runtime from the new entry."""
    async with ajit.open_runtime(**options) as rt:
        good = await rt.compile(saxpy(1), arch=ARCH)
        other = await rt.compile(saxpy(2), arch=ARCH)
    entry, another = (
        cache_dir / "entries" / artifact.key[:2] / f"{artifact.key}.ajit"
        for artifact in (good, other)
    )
    before = entry.stat()
    damage(entry, another)
    seen: list = []

    async with ajit.open_runtime(subscribers=[seen.append], **options) as rt:
        mended = await rt.resolve(saxpy(1), arch=ARCH)
        statistics = rt.statistics()
    async with ajit.open_runtime(**options) as rt:
        later = await rt.resolve(saxpy(1), arch=ARCH)

    rejected = [event for event in seen if isinstance(event, events.EntryRejected)]
    assert (mended.tier, later.tier) == ("compiled", "disk")
    assert mended.artifact.data == good.data
    assert later.artifact == mended.artifact
    assert entry.is_file()
    assert not entry.is_symlink()
    after = entry.stat()
    assert (after.st_ino, after.st_mtime_ns) != (before.st_ino, before.st_mtime_ns)
    assert rejected
    assert all(event.key == good.base and event.reason for event in rejected)
    assert statistics.disk.rejected >= 1
    assert statistics.disk.published == 1
    assert compiler.started == 3


async def test_symbolic_link_in_place_of_an_entry_is_not_followed(options, cache_dir, tmp_path):
    """A link is no entry, even to bytes that would verify: they may change behind it."""
    async with ajit.open_runtime(**options) as rt:
        good = await rt.compile(saxpy(1), arch=ARCH)
    entry = cache_dir / "entries" / good.key[:2] / f"{good.key}.ajit"
    elsewhere = tmp_path / "elsewhere"
    entry.rename(elsewhere)
    entry.symlink_to(elsewhere)

    async with ajit.open_runtime(**options) as rt:
        resolution = await rt.resolve(saxpy(1), arch=ARCH)

    assert resolution.tier == "compiled"


async def test_entry_of_an_older_toolchain_is_not_used(options, compiler):
    """The compiler changes under the same path: its fingerprint, and so the key, is another."""
    async with ajit.open_runtime(**options) as rt:
        before = await rt.compile(saxpy(1), arch=ARCH)
    compiler.path.write_text(compiler.path.read_text() + "# upgraded\n")

    async with ajit.open_runtime(**options) as rt:
        after = await rt.resolve(saxpy(1), arch=ARCH)

    assert after.tier == "compiled"
    assert after.artifact.key != before.key


async def test_include_directory_that_moves_keeps_the_key(options, tmp_path, compiler):
    """Header contents are in the key and paths are not: a new install path costs nothing."""
    resolutions = []
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "values.cuh").write_text("#define VALUE 1\n")
        spec = saxpy(1, include_dirs=(str(tmp_path / folder),))
        spec = spec.with_(source='#include "values.cuh"\n' + spec.source)
        async with ajit.open_runtime(**options) as rt:
            resolutions.append(await rt.resolve(spec, arch=ARCH))
    (tmp_path / "new" / "values.cuh").write_text("#define VALUE 2\n")
    async with ajit.open_runtime(**options) as rt:
        changed = await rt.resolve(spec, arch=ARCH)

    first, moved = resolutions
    assert (first.tier, moved.tier, changed.tier) == ("compiled", "disk", "compiled")
    assert str(tmp_path).encode() not in first.artifact.data
    assert not any(str(tmp_path / "old") in part for part in first.artifact.command)
