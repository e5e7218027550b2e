"""Layers: read-only caches that are looked at where the cache itself has nothing."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import ajit
from ajit import events
from tests.fuse.mounts import why_no_fuse
from tests.runtime.sources import ARCH, SAXPY, saxpy

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


async def fill(options: dict[str, Any], path: Path, *specs: ajit.Spec) -> None:
    """Compile into a cache, as an image is built."""
    async with ajit.open_runtime(**{**options, "cache_dir": str(path)}) as rt:
        for spec in specs:
            await rt.compile(spec, arch=ARCH)


def tree(path: Path) -> dict[str, int]:
    """Every file below a directory, and when it was changed."""
    return {
        str(file.relative_to(path)): file.stat().st_mtime_ns
        for file in path.rglob("*")
        if "digests" not in file.parts
    }


async def tier_of(options: dict[str, Any], spec: ajit.Spec = SAXPY) -> str:
    """From where a fresh runtime has a kernel."""
    async with ajit.open_runtime(**options) as rt:
        return (await rt.resolve(spec, arch=ARCH)).tier


async def test_a_layer_serves_what_the_cache_does_not_have(options, cache_dir, tmp_path, compiler):
    """It is not changed, nothing is copied, and its reads are counted."""
    layer = tmp_path / "layer"
    await fill(options, layer, SAXPY)
    before, compiled = tree(layer), compiler.started

    async with ajit.open_runtime(**options, cache_layers=[layer]) as rt:
        resolution = await rt.resolve(SAXPY, arch=ARCH)
        (counted,) = rt.statistics().layers
        shown = str(rt.statistics())

    assert resolution.tier == "disk"
    assert compiler.started == compiled
    assert tree(layer) == before
    assert not list(cache_dir.glob("entries/*/*"))
    assert (counted.path, counted.problem, counted.disk.found) == (str(layer), "", 1)
    assert f"layer {layer}" in shown


async def test_the_first_layer_that_has_a_kernel_serves_it(options, tmp_path):
    """In the order in which they are named; the cache itself comes before all of them."""
    first, second = tmp_path / "first", tmp_path / "second"
    await fill(options, second, SAXPY, saxpy(2))
    await fill(options, first, SAXPY)
    options["cache_layers"] = [first, tmp_path / "first", second]

    async with ajit.open_runtime(**options) as rt:
        await rt.compile(SAXPY, arch=ARCH)
        await rt.compile(saxpy(2), arch=ARCH)
        of_first, of_second = rt.statistics().layers
    await fill(options, options["cache_dir"], saxpy(3))
    async with ajit.open_runtime(**options) as rt:
        await rt.compile(saxpy(3), arch=ARCH)
        (above, _) = rt.statistics().layers

    assert (of_first.disk.found, of_second.disk.found) == (1, 1)
    assert (above.disk.found, above.disk.missing) == (0, 0)


async def test_what_no_layer_has_is_compiled_into_the_cache(options, cache_dir, tmp_path):
    """Only the cache is written."""
    layer = tmp_path / "layer"
    await fill(options, layer, saxpy(2))
    before = tree(layer)
    options["cache_layers"] = [layer]

    async with ajit.open_runtime(**options) as rt:
        assert (await rt.resolve(SAXPY, arch=ARCH)).tier == "compiled"
        (counted,) = rt.statistics().layers
    assert await tier_of(options) == "disk"
    assert counted.disk.missing == 1  # the look under the lease is for what others have published
    assert tree(layer) == before
    assert len(list(cache_dir.glob("entries/*/*"))) == 1


async def test_what_a_layer_has_is_copied_if_asked_for(options, cache_dir, tmp_path, monkeypatch):
    """Entry and reading list: without the layer it is found from then on."""
    header = tmp_path / "include" / "factor.h"
    header.parent.mkdir()
    header.write_text("#define FACTOR 2\n")
    spec = ajit.Spec(
        '#include "factor.h"\nextern "C" __global__ void k(int* x) { x[0] = FACTOR; }',
        "k",
        include_dirs=[header.parent],
    )
    layer = tmp_path / "layer"
    await fill(options, layer, spec)

    assert await tier_of({**options, "cache_layers": [layer]}, spec) == "disk"
    assert not list(cache_dir.glob("entries/*/*"))
    copying = {**options, "cache_layers": [layer], "cache_layers_copy": True}
    assert await tier_of(copying, spec) == "disk"
    assert await tier_of(options, spec) == "disk"


async def test_a_reading_list_of_a_layer_leads_to_an_entry_of_the_cache(
    options, cache_dir, tmp_path
):
    """As after the list of the cache was evicted; and the other way round between two layers."""
    layer = tmp_path / "layer"
    await fill(options, layer, SAXPY)
    await fill(options, cache_dir, SAXPY)
    for file in cache_dir.glob("reads/*/*/*"):
        file.unlink()
    for file in layer.glob("entries/*/*"):
        file.unlink()

    assert await tier_of({**options, "cache_layers": [layer]}) == "disk"

    for file in cache_dir.glob("entries/*/*"):
        target = tmp_path / "entries" / "entries" / file.parent.name
        target.mkdir(parents=True)
        (tmp_path / "entries").chmod(0o755)
        file.rename(target / file.name)
    assert await tier_of({**options, "cache_layers": [layer, tmp_path / "entries"]}) == "disk"


async def test_an_edited_header_is_not_served_from_a_layer(options, tmp_path):
    """A layer is looked at by what files hold today, as the cache is."""
    header = tmp_path / "factor.h"
    header.write_text("#define FACTOR 2\n")
    source = '#include "factor.h"\nextern "C" __global__ void k(int* x) { x[0] = FACTOR; }'
    spec = ajit.Spec(source, "k", include_dirs=[tmp_path])
    layer = tmp_path / "layer"
    await fill(options, layer, spec)
    options["cache_layers"] = [layer]
    header.write_text("#define FACTOR 3\n")

    assert await tier_of(options, spec) == "compiled"


async def test_a_bad_entry_of_a_layer_is_told_and_compiled_again(options, cache_dir, tmp_path):
    """It counts as a miss, and a good one is in the cache from then on."""
    layer, told = tmp_path / "layer", []
    await fill(options, layer, SAXPY)
    (entry,) = layer.glob("entries/*/*")
    entry.write_bytes(entry.read_bytes()[:-1])
    options["cache_layers"] = [layer]

    async with ajit.open_runtime(**options, subscribers=[told.append]) as rt:
        assert (await rt.resolve(SAXPY, arch=ARCH)).tier == "compiled"
    assert [event for event in told if isinstance(event, events.EntryRejected)]
    assert await tier_of(options) == "disk"


async def test_a_missing_layer_is_told_once_and_costs_nothing(options, tmp_path):
    """The server starts without it."""
    with pytest.warns(ajit.errors.AjitWarning, match="nowhere is not used: No such file"):  # noqa: PT031
        async with ajit.open_runtime(**options, cache_layers=[tmp_path / "nowhere"]) as rt:
            assert (await rt.resolve(SAXPY, arch=ARCH)).tier == "compiled"
            (counted,) = rt.statistics().layers

    assert counted.problem == "No such file or directory"


async def test_a_directory_of_something_else_is_no_layer_and_is_told(options, tmp_path):
    """One warning names it and says what to do; a mistyped path would be silent otherwise."""
    other = tmp_path / "other"
    other.mkdir(mode=0o755)
    (other / "passwd").write_text("root")

    with pytest.warns(ajit.errors.AjitWarning, match="no cache of ajit: it has passwd") as caught:
        async with ajit.open_runtime(**options, cache_layers=[other]) as rt:
            assert (await rt.resolve(SAXPY, arch=ARCH)).tier == "compiled"

    (told,) = [str(w.message) for w in caught if issubclass(w.category, ajit.AjitWarning)]
    assert str(other) in told
    assert "AJIT_CACHE_LAYERS" in told


@pytest.mark.filterwarnings("default::ajit.AjitWarning")
@pytest.mark.parametrize("mounted_on", ["nothing", "an empty directory"])
async def test_a_layer_that_appears_late_is_found(options, tmp_path, monkeypatch, mounted_on):
    """As a volume that is mounted after the server was started; the next miss finds it."""
    monkeypatch.setattr("ajit._resolve.layers.AGAIN_SECONDS", 0.0)
    layer = tmp_path / "layer"
    await fill(options, tmp_path / "volume", saxpy(2))
    if mounted_on == "an empty directory":
        layer.mkdir(mode=0o755)

    async with ajit.open_runtime(**options, cache_layers=[layer]) as rt:
        before = (await rt.resolve(SAXPY, arch=ARCH)).tier
        (missing,) = rt.statistics().layers
        (tmp_path / "volume").rename(layer)
        after = (await rt.resolve(saxpy(2), arch=ARCH)).tier
        (found,) = rt.statistics().layers

    assert (before, after) == ("compiled", "disk")
    assert missing.problem
    assert (found.problem, found.disk.found) == ("", 1)


@pytest.mark.filterwarnings("default::ajit.AjitWarning")
async def test_a_layer_that_is_missing_is_not_looked_for_by_every_request(
    options, tmp_path, monkeypatch
):
    """Only now and then: what is looked for in vain costs a call on its file system."""
    monkeypatch.setattr("ajit._resolve.layers.AGAIN_SECONDS", 1e9)
    layer = tmp_path / "layer"
    await fill(options, tmp_path / "volume", saxpy(2))

    async with ajit.open_runtime(**options, cache_layers=[layer]) as rt:
        (tmp_path / "volume").rename(layer)
        assert (await rt.resolve(saxpy(2), arch=ARCH)).tier == "compiled"


async def test_an_unsafe_layer_that_appears_late_is_told_and_not_used(
    options, tmp_path, monkeypatch
):
    """At the start it would be an error; a server that serves goes on."""
    monkeypatch.setattr("ajit._resolve.layers.AGAIN_SECONDS", 0.0)
    layer = tmp_path / "layer"
    await fill(options, tmp_path / "volume", saxpy(2))
    (tmp_path / "volume").chmod(0o777)

    with pytest.warns(ajit.errors.AjitWarning) as caught:  # noqa: PT031
        async with ajit.open_runtime(**options, cache_layers=[layer]) as rt:
            (tmp_path / "volume").rename(layer)
            tiers = [(await rt.resolve(saxpy(n), arch=ARCH)).tier for n in (2, 3)]

    assert tiers == ["compiled", "compiled"]
    assert sum("other users may write" in str(w.message) for w in caught) == 1


async def test_a_layer_that_others_may_write_to_is_refused(options, tmp_path):
    """Who could put code there could put it into this process."""
    layer = tmp_path / "layer"
    await fill(options, layer, SAXPY)
    layer.chmod(0o777)

    with pytest.raises(ajit.UnsafeCacheDirectory, match="other users may write") as caught:
        async with ajit.open_runtime(**options, cache_layers=[layer]):
            pass
    assert f"cache layer {layer}" in str(caught.value)
    assert "AJIT_CACHE_LAYERS" in str(caught.value)
    assert "AJIT_CACHE_DIR" not in str(caught.value)

    secret = {"hmac_key": "a secret that only these servers know", "cache_layers": [layer]}
    assert await tier_of({**options, **secret}) == "compiled"  # it has no seal of theirs


async def test_a_sealed_layer_is_used_by_those_who_know_the_secret(options, tmp_path):
    """Whoever owns it."""
    layer = tmp_path / "layer"
    options["hmac_key"] = "a secret that only these servers know"
    await fill(options, layer, SAXPY)
    layer.chmod(0o777)

    assert await tier_of({**options, "cache_layers": [layer]}) == "disk"


async def test_a_layer_is_used_by_a_frozen_runtime(options, tmp_path):
    """A warm image needs no compiler and no writable cache."""
    layer = tmp_path / "layer"
    await fill(options, layer, SAXPY)

    frozen = {**options, "cache_layers": [layer], "mode": "frozen"}
    assert await tier_of(frozen) == "disk"
    with pytest.raises(ajit.CompileForbidden):
        await tier_of(frozen, saxpy(7))


async def test_a_recache_of_what_a_layer_has_goes_into_the_cache(with_device, cache_dir, tmp_path):
    """And is what is found from then on."""
    layer = tmp_path / "layer"
    await fill(with_device, layer, SAXPY)
    async with ajit.open_runtime(**with_device, cache_layers=[layer]) as rt:
        await rt.kernel(SAXPY, recache=True)

    assert len(list(cache_dir.glob("entries/*/*"))) == 1


async def test_a_cache_below_itself_is_no_layer(options, cache_dir):
    """It would be looked at twice."""
    async with ajit.open_runtime(**options, cache_layers=[cache_dir]) as rt:
        assert rt.statistics().layers == ()


# --- a layer on a file system that hangs ---

PATIENCE_SECONDS = 1.0
COMPILE_SECONDS = 15.0
"""What a compile may take on a busy machine: a bound, and nothing expected."""

NO_FUSE = why_no_fuse()
on_fuse = pytest.mark.skipif(bool(NO_FUSE), reason=NO_FUSE)


async def answers_again(rt):
    """Ask for what no cache has until the layer answers: what the cache has is not looked for."""
    for other in itertools.count(10):
        await rt.resolve(saxpy(other), arch=ARCH)
        if not rt.statistics().layers[0].problem:
            return


@on_fuse
@pytest.mark.filterwarnings("default::ajit.AjitWarning")
async def test_a_layer_that_hangs_costs_the_patience_once(options, tmp_path, mount):
    """Then it is not asked, which is told, until it answers; the cache is used all the time."""
    layer, told = mount.path / "layer", []
    await fill(options, layer, saxpy(1), saxpy(9))
    options |= {"cache_layers": [layer], "patience_seconds": PATIENCE_SECONDS}

    async with ajit.open_runtime(**options, subscribers=[told.append]) as rt:
        mount.stop()
        begun = time.monotonic()
        with anyio.fail_after(60):
            first = await rt.resolve(saxpy(1), arch=ARCH)
            first_seconds = time.monotonic() - begun
            others = [await rt.resolve(saxpy(n), arch=ARCH) for n in (2, 3)]
        (counted,) = rt.statistics().layers
        cached = not rt._kernels.services.guard.is_open
        mount.go_on()
        with anyio.fail_after(60):
            await answers_again(rt)
            again = await rt.resolve(saxpy(9), arch=ARCH)

    assert [first.tier, *(other.tier for other in others), again.tier] == [
        "compiled",
        "compiled",
        "compiled",
        "disk",
    ]
    assert first_seconds < PATIENCE_SECONDS + COMPILE_SECONDS
    assert "does not answer" in counted.problem
    assert cached
    assert [event for event in told if isinstance(event, events.CacheUnresponsive)]


@on_fuse
@pytest.mark.filterwarnings("default::ajit.AjitWarning")
async def test_a_layer_that_hangs_when_a_runtime_opens_does_not_stop_it(options, mount):
    """It is used once it answers."""
    layer = mount.path / "layer"
    await fill(options, layer, saxpy(1))
    options |= {"cache_layers": [layer], "patience_seconds": PATIENCE_SECONDS}
    mount.stop()

    with anyio.fail_after(60):
        async with ajit.open_runtime(**options) as rt:
            (counted,) = rt.statistics().layers
            mount.go_on()
            await answers_again(rt)
            tier = (await rt.resolve(saxpy(1), arch=ARCH)).tier

    assert "does not answer" in counted.problem
    assert tier == "disk"


@on_fuse
@pytest.mark.filterwarnings("default::ajit.AjitWarning")
async def test_a_layer_serves_while_the_cache_itself_hangs(options, tmp_path, mount):
    """What lies in the image is there whatever the shared file system does."""
    layer = tmp_path / "layer"
    await fill(options, layer, saxpy(1), saxpy(2))
    options |= {
        "cache_dir": str(mount.path / "cache"),
        "cache_layers": [layer],
        "patience_seconds": PATIENCE_SECONDS,
    }

    async with ajit.open_runtime(**options) as rt:
        mount.stop()
        with anyio.fail_after(60):
            tiers = [(await rt.resolve(saxpy(n), arch=ARCH)).tier for n in (1, 2)]
        mount.go_on()

    assert tiers == ["disk", "disk"]
