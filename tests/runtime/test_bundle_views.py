"""Views of bundles: whole or not there, replaced if they are not what was verified, private."""

from __future__ import annotations

import os
import shutil
import stat

import anyio
import pytest

import ajit
from ajit._cache.entries import views as views_module
from tests.runtime.builds import ScriptedBuild

pytestmark = pytest.mark.anyio

SCRIPT = "mkdir sub; echo one > sub/a.txt; echo two > b.txt"
OUTPUTS = ["**/*.txt"]


@pytest.fixture
def scripted(tmp_path):
    """A build that is counted."""
    return ScriptedBuild(tmp_path / "scripted")


@pytest.fixture
def options(options, tmp_path):
    """The same, with the views in the test's own folder."""
    return {**options, "views_dir": str(tmp_path / "views")}


def texts(folder):
    """What is in a view."""
    return {str(p.relative_to(folder)): p.read_text().strip() for p in folder.rglob("*.txt")}


WHOLE = {"b.txt": "two", "sub/a.txt": "one"}


def edit(folder):
    """Write to a file of a view, and set its time back."""
    path = folder / "b.txt"
    before = path.stat()
    path.chmod(0o600)
    path.write_text("TWO\n")
    path.chmod(stat.S_IMODE(before.st_mode))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def link(folder):
    """Put a link in the place of a file."""
    (folder / "b.txt").unlink()
    (folder / "b.txt").symlink_to(folder / "sub" / "a.txt")


SPOILT = {
    "edited": edit,
    "link": link,
    "file removed": lambda folder: (folder / "sub" / "a.txt").unlink(),
    "half": lambda folder: (folder.parent / "stamps").unlink(),
    "stamps cut": lambda folder: (folder.parent / "stamps").write_bytes(b"\x92"),
    "gone": lambda folder: shutil.rmtree(folder.parent),
    "a file in its place": lambda folder: (shutil.rmtree(folder.parent), folder.parent.touch()),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
async def test_view_that_is_not_what_was_verified_is_made_anew(options, scripted, spoil):
    """From the cache; nothing is built again, and nothing else lies beside it."""
    async with ajit.open_runtime(**options) as runtime:
        bundle = await runtime.build(scripted.build(SCRIPT, OUTPUTS))
        folder = await bundle.materialize()
        spoil(folder)
        again = await bundle.materialize()

    assert again == folder
    assert texts(again) == WHOLE
    assert {path.suffix for path in folder.parent.parent.iterdir() if path.is_file()} == {".lock"}
    assert len([path for path in folder.parent.parent.iterdir() if path.is_dir()]) == 1
    assert scripted.started == 1


async def test_view_that_is_whole_is_not_made_again(options, scripted, monkeypatch):
    """A second call copies nothing, and does not even open the entry."""
    async with ajit.open_runtime(**options) as runtime:
        bundle = await runtime.build(scripted.build(SCRIPT, OUTPUTS))
        folder = await bundle.materialize()
        monkeypatch.setattr(views_module, "_fill", None)
        shutil.rmtree(options["cache_dir"])

        assert await bundle.materialize() == folder


@pytest.mark.parametrize("offset", [8, 100, -200, -1], ids=["version", "head", "file", "digest"])
async def test_damaged_entry_is_built_again(options, scripted, cache_dir, offset):
    """Wherever the damage is, no view of it is ever seen; the entry is replaced."""
    script = "head -c 5000 /dev/zero | tr '\\0' x > out.txt"
    async with ajit.open_runtime(**options) as runtime:
        await runtime.build(scripted.build(script))
    (entry,) = cache_dir.glob("entries/*/*.ajit")
    data = bytearray(entry.read_bytes())
    data[offset] ^= 0xFF
    entry.write_bytes(data)

    async with ajit.open_runtime(**options) as runtime:
        folder = await (await runtime.build(scripted.build(script))).materialize()
        text = (folder / "out.txt").read_text()
    async with ajit.open_runtime(**options) as runtime:
        third = await runtime.build(scripted.build(script))

    assert text == "x" * 5000
    assert third.tier == "disk"
    assert scripted.started == 2


async def test_entry_that_was_evicted_is_built_again(options, scripted, cache_dir):
    """A bundle object outlives its entry."""
    async with ajit.open_runtime(**options) as runtime:
        bundle = await runtime.build(scripted.build(SCRIPT, OUTPUTS))
        shutil.rmtree(cache_dir / "entries")
        folder = await bundle.materialize()

    assert texts(folder) == WHOLE
    assert scripted.started == 2


async def test_directory_that_others_can_write_is_refused(options, scripted, tmp_path):
    """Another user could put code there: nothing is read from it."""
    (tmp_path / "views").mkdir()
    (tmp_path / "views").chmod(0o777)
    async with ajit.open_runtime(**options) as runtime:
        bundle = await runtime.build(scripted.build(SCRIPT, OUTPUTS))
        with pytest.raises(ajit.UnsafeCacheDirectory, match="views_dir"):
            await bundle.materialize()


async def test_views_of_another_user_are_refused(options, scripted, tmp_path):
    """One that was there before us and is not private, as in /tmp."""
    own = tmp_path / "views" / f"ajit-views-{os.geteuid()}"
    async with ajit.open_runtime(**options) as runtime:
        bundle = await runtime.build(scripted.build(SCRIPT, OUTPUTS))
        folder = await bundle.materialize()
        own.chmod(0o755)
        with pytest.raises(ajit.UnsafeCacheDirectory, match="not a private directory"):
            await bundle.materialize()
        own.chmod(0o700)

        assert await bundle.materialize() == folder


async def test_runtime_directory_is_the_default(options, scripted, tmp_path, monkeypatch):
    """Of the session, which is gone with the next boot; nothing else is asked for."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)
    async with ajit.open_runtime(**{**options, "views_dir": ""}) as runtime:
        folder = await (await runtime.build(scripted.build())).materialize()

    assert folder.is_relative_to(tmp_path / "run")


async def test_views_above_the_limit_go_but_those_in_use(options, scripted, monkeypatch):
    """The one that was used longest ago goes first; one that was just used stays."""
    monkeypatch.setattr(views_module, "SPARE_SECONDS", 0.0)
    builds = [scripted.build(f"head -c {1000 + n} /dev/zero > out.txt") for n in range(3)]
    folders = []
    async with ajit.open_runtime(**options, views_limit_bytes=2500) as runtime:
        for age, build in zip((30, 20, 10), builds, strict=True):
            folders.append(await (await runtime.build(build)).materialize())
            old = (folders[-1].parent / "stamps").stat().st_mtime - age
            os.utime(folders[-1].parent / "stamps", (old, old))
        left = [folder.exists() for folder in folders]

    assert left == [False, True, True]


@pytest.mark.parametrize("tasks", [8])
async def test_views_that_are_made_at_once_are_one(options, scripted, tasks):
    """Several runtimes of one process, each in its turn of the loop."""
    folders = []
    build = scripted.build(SCRIPT, OUTPUTS)

    async def ask():
        async with ajit.open_runtime(**options) as runtime:
            folders.append(await (await runtime.build(build)).materialize())

    async with anyio.create_task_group() as group:
        for _ in range(tasks):
            group.start_soon(ask)

    assert len(set(folders)) == 1
    assert texts(folders[0]) == WHOLE
    assert scripted.started == 1
