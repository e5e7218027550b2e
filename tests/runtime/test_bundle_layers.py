"""Bundles of layers: found, made a view of, and copied only if that is asked for."""

from __future__ import annotations

import shutil

import pytest

import ajit
from ajit._core.bundle import MAGIC
from tests.runtime.builds import ScriptedBuild
from tests.runtime.test_layers import tree

pytestmark = pytest.mark.anyio

SCRIPT = "mkdir sub; echo one > sub/a.txt; cat header > b.txt"


@pytest.fixture
def scripted(tmp_path):
    """A build that is counted."""
    return ScriptedBuild(tmp_path / "scripted")


@pytest.fixture
def options(options, tmp_path):
    """The same, with the views in the test's own folder."""
    return {**options, "views_dir": str(tmp_path / "views")}


@pytest.fixture
async def layer(options, scripted, tmp_path):
    """A layer that has the build's bundle, of which there is no view."""
    path = tmp_path / "layer"
    (tmp_path / "header").write_text("two\n")
    async with ajit.open_runtime(**{**options, "cache_dir": str(path)}) as rt:
        await rt.build(build_of(scripted, tmp_path))
    assert scripted.started == 1
    return path


def build_of(scripted, folder):
    """A build that reads a file of the machine, so that a list leads to its entry."""
    script = SCRIPT.replace("header", str(folder / "header"))
    return scripted.build(script, ["**/*.txt"])


async def test_a_layer_serves_a_bundle_and_its_files(options, layer, scripted, cache_dir, tmp_path):
    """Nothing is built, copied or changed, and its reads are counted."""
    before = tree(layer)
    async with ajit.open_runtime(**options, cache_layers=[layer], mode="frozen") as rt:
        bundle = await rt.build(build_of(scripted, tmp_path))
        folder = await bundle.materialize()
        (counted,) = rt.statistics().layers

    assert bundle.tier == "disk"
    assert (folder / "sub" / "a.txt").read_text() == "one\n"
    assert (folder / "b.txt").read_text() == "two\n"
    assert scripted.started == 1
    assert tree(layer) == before
    assert not list(cache_dir.glob("entries/*/*"))
    assert counted.disk.found == 1


async def test_what_was_read_decides_in_a_layer_too(options, layer, scripted, tmp_path):
    """An edited file is another key, and is built into the cache."""
    (tmp_path / "header").write_text("three\n")
    async with ajit.open_runtime(**options, cache_layers=[layer]) as rt:
        folder = await (await rt.build(build_of(scripted, tmp_path))).materialize()

    assert (folder / "b.txt").read_text() == "three\n"
    assert scripted.started == 2


async def test_a_bundle_is_copied_if_asked_for(options, layer, scripted, tmp_path):
    """With the list that leads to it: without the layer it is found from then on."""
    copying = {**options, "cache_layers": [layer], "cache_layers_copy": True}
    async with ajit.open_runtime(**copying) as rt:
        await (await rt.build(build_of(scripted, tmp_path))).materialize()
    shutil.rmtree(layer)
    shutil.rmtree(options["views_dir"])
    async with ajit.open_runtime(**options) as rt:
        folder = await (await rt.build(build_of(scripted, tmp_path))).materialize()

    assert (folder / "b.txt").read_text() == "two\n"
    assert scripted.started == 1


async def test_a_damaged_bundle_of_a_layer_is_built_again(options, layer, scripted, tmp_path):
    """It shows when its files are copied; a good one is in the cache from then on."""
    (entry,) = layer.glob("entries/*/*")
    data = bytearray(entry.read_bytes())
    assert data.startswith(MAGIC)
    data[data.rindex(b"two")] ^= 0xFF
    entry.write_bytes(data)
    before = tree(layer)
    options["cache_layers"] = [layer]

    async with ajit.open_runtime(**options) as rt:
        folder = await (await rt.build(build_of(scripted, tmp_path))).materialize()
    shutil.rmtree(options["views_dir"])
    async with ajit.open_runtime(**options) as rt:
        again = await (await rt.build(build_of(scripted, tmp_path))).materialize()

    assert [(path / "b.txt").read_text() for path in (again,)] == ["two\n"]
    assert folder.name == again.name
    assert scripted.started == 2
    assert tree(layer) == before


async def test_a_bundle_that_left_its_layer_is_built_again(options, layer, scripted, tmp_path):
    """The image was unmounted between look and copy."""
    async with ajit.open_runtime(**options, cache_layers=[layer]) as rt:
        bundle = await rt.build(build_of(scripted, tmp_path))
        shutil.rmtree(layer)
        folder = await bundle.materialize()

    assert (folder / "b.txt").read_text() == "two\n"
    assert scripted.started == 2


async def test_a_layer_serves_bundles_without_their_seal_to_nobody_who_asks_for_one(
    options, layer, scripted, tmp_path
):
    """Who can write to it, and has no key, could have put them there."""
    options |= {"cache_layers": [layer], "hmac_key": "a secret that only these servers know"}
    async with ajit.open_runtime(**options) as rt:
        assert (await rt.build(build_of(scripted, tmp_path))).tier == "compiled"
