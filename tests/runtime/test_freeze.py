"""A warm runtime is frozen: what still compiles is told, or refused, with why and by whom."""

from __future__ import annotations

import logging

import anyio
import pytest

import ajit
from ajit._resolve.late import check_late
from ajit.events import CompiledLate, CompileStarted
from tests.runtime.sources import ARCH, SAXPY, saxpy

pytestmark = pytest.mark.anyio


async def until(seen, count=1):
    """Wait until so many late compiles were told."""
    with anyio.fail_after(60):
        while sum(isinstance(event, CompiledLate) for event in seen) < count:  # noqa: ASYNC110  # a
            await anyio.sleep(0.005)  # task of the runtime tells
    return [event for event in seen if isinstance(event, CompiledLate)]


async def the_handler(rt, spec):
    """What a request does, to be found in the stack."""
    return await rt.compile(spec, arch=ARCH)


async def test_a_late_compile_is_told_with_what_differs_and_who_asked(options, compiler, caplog):
    """And the kernel is served all the same."""
    seen = []
    caplog.set_level(logging.WARNING, "ajit")
    async with ajit.open_runtime(**options, subscribers=[seen.append]) as rt:
        warm = await rt.compile(saxpy(1), arch=ARCH)
        rt.freeze()
        assert (await rt.compile(saxpy(1), arch=ARCH)).key == warm.key
        late = await the_handler(rt, saxpy(2))
        (event,) = await until(seen)

    assert late.key != warm.key
    assert (event.name, event.peer, event.key) == ("saxpy", "", late.base)
    assert event.nearest == warm.key
    assert event.differences == (("define VARIANT", "=1", "=2"),)
    assert "the_handler" in event.stack[-1]
    assert __file__ in event.stack[-1]
    (line,) = [record.message for record in caplog.records if "late" in record.message]
    assert "define VARIANT: '=1' there, '=2' here" in line
    assert compiler.started == 2


async def test_a_late_compile_is_refused_with_the_same(options, compiler):
    """Nothing is compiled; what is warm is served."""
    async with ajit.open_runtime(**options) as rt:
        warm = await rt.compile(saxpy(1), arch=ARCH)
        rt.freeze("error")
        await rt.compile(saxpy(1), arch=ARCH)
        with pytest.raises(ajit.CompileForbidden) as caught:
            await the_handler(rt, saxpy(2))

    error = caught.value
    assert (error.name, error.peer, error.nearest) == ("saxpy", "", warm.key)
    assert error.differences == (("define VARIANT", "=1", "=2"),)
    assert "the_handler" in error.stack[-1]
    assert "asked for at" in str(error)
    assert compiler.started == 1


async def test_a_frozen_block_thaws_at_its_end(options):
    """And so does `thaw`; with the setting it stays frozen, and `thaw` says so."""
    async with ajit.open_runtime(**options) as rt:
        with rt.freeze("error"), pytest.raises(ajit.CompileForbidden):
            await rt.compile(SAXPY, arch=ARCH)
        await rt.compile(SAXPY, arch=ARCH)
        rt.freeze("error")
        rt.thaw()
        await rt.compile(saxpy(1), arch=ARCH)
        with pytest.raises(ajit.UsageError, match="'panic'"):
            rt.freeze("panic")
    async with ajit.open_runtime(**options, mode="frozen") as rt:
        with rt.freeze("warn"):
            pass
        with pytest.raises(ajit.UsageError, match="mode=frozen"):
            rt.thaw()
        with pytest.raises(ajit.CompileForbidden):
            await rt.compile(saxpy(2), arch=ARCH)


async def test_a_fallback_serves_a_frozen_runtime_and_the_miss_is_told(with_device):
    """The request does not wait, and the warm-up is known to have a hole."""
    seen = []
    async with ajit.open_runtime(**with_device, subscribers=[seen.append]) as rt:
        await rt.kernel(SAXPY)
        rt.freeze("warn")
        kernel = await rt.kernel(saxpy(1), fallback=SAXPY)
        (event,) = await until(seen)

    assert kernel.stands_in_for == saxpy(1)
    assert "test_a_fallback_serves" in event.stack[-1]


@pytest.mark.parametrize("mode", ["warn", "error"])
async def test_the_log_says_why_a_fallback_serves_a_frozen_runtime(with_device, caplog, mode):
    """In one sentence: that it is frozen, what is cached instead, and where it was asked for."""
    caplog.set_level(logging.WARNING, "ajit")
    seen = []
    async with ajit.open_runtime(**with_device, subscribers=[seen.append]) as rt:
        await rt.kernel(SAXPY)
        rt.freeze(mode)
        await rt.kernel(saxpy(1), fallback=SAXPY)
        if mode == "warn":
            await until(seen)
        with anyio.fail_after(60):
            while rt.statistics().in_progress:  # noqa: ASYNC110  # a task of the runtime loads
                await anyio.sleep(0.005)

    (line,) = [record.message for record in caplog.records if "frozen" in record.message]
    begins = {
        "warn": "compiled late: the runtime is frozen; ",
        "error": "the fallback 'saxpy' serves in its place: not compiled, because the runtime is "
        "frozen; ",
    }[mode]
    assert begins in line
    assert "the nearest cached kernel, " in line
    assert "differs in define VARIANT: nothing there, '=1' here; it was asked for at " in line
    assert "test_the_log_says_why" in line.rpartition("; ")[2]


@pytest.mark.parametrize("mode", ["warn", "error"])
async def test_the_nearest_kernel_may_lie_in_a_layer(options, tmp_path, mode):
    """A server whose kernels were baked into its image has nothing in the cache itself."""
    layer, seen = tmp_path / "layer", []
    async with ajit.open_runtime(**{**options, "cache_dir": str(layer)}) as rt:
        baked = await rt.compile(saxpy(1), arch=ARCH)
    async with ajit.open_runtime(
        **options, cache_layers=[layer], subscribers=[seen.append], explain=True
    ) as rt:
        rt.freeze(mode)
        if mode == "warn":
            await rt.compile(saxpy(2), arch=ARCH)
            (told,) = await until(seen)
            (started,) = [event for event in seen if isinstance(event, CompileStarted)]
        else:
            with pytest.raises(ajit.CompileForbidden) as caught:
                await rt.compile(saxpy(2), arch=ARCH)
            told = started = caught.value

    assert (told.nearest, started.nearest) == (baked.key, baked.key)
    assert told.differences == started.differences == (("define VARIANT", "=1", "=2"),)


async def test_adapters_tell_and_refuse_in_the_same_way(options):
    """From any thread, before they compile; nothing where nothing is frozen, or no more."""
    seen = []
    cached = [("k1", {"block": "64", "dtype": "f32"}), ("k2", {"block": "128", "dtype": "f16"})]
    parts = {"block": "128", "dtype": "f32", "warps": "4"}

    def ask():
        check_late("triton", "softmax", parts, key="k", cached=cached)

    ask()
    async with ajit.open_runtime(**options, subscribers=[seen.append]) as rt:
        await anyio.to_thread.run_sync(ask)
        rt.freeze("warn")
        await anyio.to_thread.run_sync(ask)
        (event,) = await until(seen)
        rt.freeze("error")
        with pytest.raises(ajit.CompileForbidden) as caught:
            await anyio.to_thread.run_sync(ask)
    ask()

    differences = (("block", "64", "128"), ("warps", None, "4"))
    assert (event.peer, event.name, event.nearest) == ("triton", "softmax", "k1")
    assert event.differences == differences
    assert "in ask" in " ".join(event.stack) or "ask" in event.stack[-1]
    assert (caught.value.peer, caught.value.differences) == ("triton", differences)
    assert str(caught.value).startswith("triton: not cached")


async def test_a_compile_says_why_if_it_is_asked_for(options, tmp_path):
    """The event has the nearest cached kernel and what differs, a changed header among it."""
    header = tmp_path / "tile.cuh"
    await anyio.Path(header).write_text("#define TILE 1\n")
    spec = saxpy(include_dirs=[tmp_path]).with_(
        source='#include "tile.cuh"\n__global__ void saxpy(float* x) { x[0] = TILE; }\n',
        entries="saxpy",
    )
    started = []

    def note(event):
        if isinstance(event, CompileStarted):
            started.append(event)

    async with ajit.open_runtime(**options, explain=True, subscribers=[note]) as rt:
        first = await rt.compile(spec, arch=ARCH)
        await anyio.Path(header).write_text("#define TILE 22\n")
        await rt.compile(spec, arch=ARCH)
        await rt.compile(spec, arch=ARCH, recache=True)
    async with ajit.open_runtime(**options, subscribers=[note]) as rt:
        await rt.compile(saxpy(5), arch=ARCH)

    assert (started[0].nearest, started[0].differences) == ("", ())
    assert started[1].nearest == first.key
    assert [part for part, _, _ in started[1].differences] == ["file i0/tile.cuh"]
    assert started[2].nearest == first.key, "not the one that it replaces"
    assert (started[3].nearest, started[3].differences) == ("", ()), "it was not asked for"
