"""ajit without an event loop of one's own: `ajit.run` and `ajit.open_blocking_runtime`."""

from __future__ import annotations

import threading

import anyio
import numpy as np
import pytest

import ajit

ADD = ajit.Spec(
    """
    extern "C" __global__ void add(const float* x, const float* y, float* z, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) z[i] = x[i] + y[i];
    }
    """,
    "add",
)


@pytest.fixture
def settings(cache_dir):
    """Settings of a runtime on the CPU driver."""
    return {"device": "cpu", "cache_dir": cache_dir}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_run_opens_a_runtime_for_an_async_function(settings, backend):
    """The function gets the runtime and the arguments; its result is returned."""

    async def main(rt, n):
        x = np.arange(n, dtype=np.float32)
        add = await rt.kernel(ADD)
        device = await rt.device.upload(x)
        await add[ajit.cover(n, 256), 256](device, device, device, n)
        return await rt.device.download(device)

    result = ajit.run(main, 1000, backend=backend, **settings)

    assert (np.asarray(result) == 2 * np.arange(1000)).all()


def test_run_raises_what_the_function_raises(settings):
    """As it is, not wrapped into a group."""

    async def main(_):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        ajit.run(main, **settings)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("n", [0, 1, 257])
def test_a_blocking_runtime_adds_vectors(settings, backend, n):
    """The same objects as in a server; the calls block."""
    x = np.arange(n, dtype=np.float32)
    with ajit.open_blocking_runtime(backend=backend, **settings) as rt:
        add = rt.kernel(ADD)
        device, z = rt.upload(x), rt.alloc(x.shape, x.dtype)
        rt.wait(add[ajit.cover(n, 256), 256](device, device, z, n))
        result = rt.download(z)
        report = rt.warmup([ADD])

        assert isinstance(add, ajit.Kernel)
        assert report.from_memory == 1
        assert rt.statistics().compiled == 1
    assert (np.asarray(result) == 2 * x).all()


def test_a_blocking_runtime_serves_several_threads(settings):
    """Each thread submits and waits for itself."""
    results = []
    with ajit.open_blocking_runtime(**settings) as rt:

        def work(value):
            x = rt.upload(np.full(8, value, np.float32))
            rt.wait(rt.kernel(ADD)[1, 8](x, x, x, 8))
            results.append((value, rt.download(x).tolist()))

        threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sorted(results) == [(value, [2.0 * value] * 8) for value in range(4)]


def test_a_blocking_runtime_is_closed_with_its_block(settings):
    """An error of the block comes out as it is, and later calls are refused."""
    with (
        pytest.raises(KeyboardInterrupt),
        ajit.open_blocking_runtime(**settings) as rt,
    ):
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError):
        rt.kernel(ADD)


def test_a_bad_setting_is_an_error_before_anything_starts(settings):
    """The same error as of `open_runtime`."""
    with (
        pytest.raises(ajit.SettingsError, match="device"),
        ajit.open_blocking_runtime(**{**settings, "device": "gpu"}),
    ):
        pytest.fail("not reached")


def test_run_inside_a_running_loop_is_refused(settings):
    """There one awaits `open_runtime`."""

    async def inner():
        async def main(rt):
            pytest.fail("not reached")

        ajit.run(main, **settings)

    with pytest.raises(RuntimeError):
        anyio.run(inner)
