"""ajit without an event loop of one's own: `ajit.run` and `ajit.open_blocking_runtime`."""

from __future__ import annotations

import threading
from functools import partial

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


def test_a_bad_setting_is_an_error_before_anything_starts(settings):
    """The same error as of `open_runtime`."""
    with (
        pytest.raises(ajit.SettingsError, match="device"),
        ajit.open_blocking_runtime(**{**settings, "device": "gpu"}),
    ):
        pytest.fail("not reached")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_run_inside_a_running_loop_is_refused(settings, backend):
    """The error says what to use there."""

    async def inner():
        async def main(_):
            pytest.fail("not reached")

        ajit.run(main, **settings)

    with pytest.raises(ajit.UsageError, match=r"ajit\.open_runtime there"):
        anyio.run(inner, backend=backend)


@pytest.mark.parametrize("call", [partial(ajit.run, print), ajit.open_blocking_runtime])
def test_unknown_backend_is_refused_with_the_names_of_the_known_ones(call):
    """Before a runtime is opened or a thread started."""
    before = set(threading.enumerate())

    with pytest.raises(ajit.UsageError, match="'curio', must be 'asyncio' or 'trio'"):
        call(backend="curio")

    assert set(threading.enumerate()) <= before


def _broken(block, x):
    """Return what a block collects in which an exception is raised; it comes out as it is."""
    made = []

    def break_off():
        with block as operations:
            operations.add_fill(x, 0)
            made.append(operations)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    return made[0]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_batch_is_submitted_at_the_end_of_its_block(settings, backend):
    """As with `Device.batch`; a block that raises submits nothing."""
    with ajit.open_blocking_runtime(backend=backend, **settings) as rt:
        add, x = rt.kernel(ADD), rt.upload(np.ones(8, np.float32))
        with rt.batch(steps=True) as batch:
            for _ in range(3):
                batch.add_launch(add[1, 8], x, x, x, 8)
        rt.wait(batch.ticket.at(1))
        rt.wait(batch.ticket)
        broken = _broken(rt.batch(), x)
        result = rt.download(x).tolist()

    assert broken.ticket is None
    assert result == [8.0] * 8


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_graph_is_captured_at_the_end_of_its_block(settings, backend):
    """In the block, launching and asking for a kernel that is not loaded are refused."""
    other = ADD.with_(defines={"OTHER": 1})
    with ajit.open_blocking_runtime(backend=backend, **settings) as rt:
        add, x = rt.kernel(ADD), rt.upload(np.ones(8, np.float32))
        with rt.capture() as graph:
            graph.add_launch(add[1, 8], x, x, x, 8)
            with pytest.raises(ajit.UsageError, match="not be recorded"):
                add[1, 8](x, x, x, 8)
            with pytest.raises(ajit.CaptureMiss):
                rt.kernel(other)
        for _ in range(2):
            rt.wait(graph.launch())
        broken = _broken(rt.capture(), x)
        rt.wait(add[1, 8](x, x, x, 8))  # nothing captures any more
        result = rt.download(x).tolist()

    assert not broken.captured
    assert result == [8.0] * 8


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_wait_that_times_out_leaves_the_work_alone(settings, backend):
    """The ticket can be waited for again."""
    busy, let_go = threading.Event(), threading.Event()

    def hold():
        busy.set()
        let_go.wait()

    with ajit.open_blocking_runtime(backend=backend, **settings) as rt:
        add, x = rt.kernel(ADD), rt.upload(np.ones(8, np.float32))
        # The CUDA thread is kept busy: what is submitted behind it cannot be done.
        thread = threading.Thread(target=rt.call, args=(rt.device.run, hold))
        thread.start()
        busy.wait()
        ticket = add[1, 8](x, x, x, 8)
        with pytest.raises(TimeoutError, match="the work goes on"):
            rt.wait(ticket, timeout=0.01)
        let_go.set()
        rt.wait(ticket, timeout=60.0)
        thread.join()
        result = rt.download(x).tolist()

    assert result == [2.0] * 8


def test_only_tickets_are_waited_for(settings):
    """A number is a TypeError, a coroutine is one that names `call`."""
    with ajit.open_blocking_runtime(**settings) as rt:
        coroutine = rt.device.synchronize()
        for wrong in (5, None, coroutine):
            with pytest.raises(TypeError, match=r"expected a ticket.*rt\.call"):
                rt.wait(wrong)
        with pytest.raises(ajit.UsageError, match="timeout is 'soon'"):
            rt.wait(rt.device.mark(), timeout="soon")
        coroutine.close()


def test_a_download_fills_an_array_in_a_stream(settings):
    """The arguments of the device's own methods are taken."""
    out = np.zeros(8, np.float32)
    with ajit.open_blocking_runtime(**settings) as rt:
        stream = rt.call(rt.device.create_stream, priority=0)
        x = rt.upload(np.ones(8, np.float32), stream=stream)
        returned = rt.download(x, out, stream=stream)

    assert returned is out
    assert out.tolist() == [1.0] * 8


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ZeroDivisionError])
def test_what_a_called_function_raises_comes_out_and_the_runtime_stays_open(settings, error):
    """An exit or a Ctrl-C in a coroutine does not end the event loop."""

    async def fail():
        raise error("mine")

    with ajit.open_blocking_runtime(**settings) as rt:
        with pytest.raises(error, match="mine"):
            rt.call(fail)
        assert rt.statistics().failed == 0
