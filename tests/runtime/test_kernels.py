"""A kernel's whole way on the CPU driver, the hot path, and launches that are refused."""

from __future__ import annotations

import sys
from functools import partial

import anyio
import numpy as np
import pytest

import ajit
from ajit.errors import CaptureMiss
from tests.runtime.sources import ARCH, SAXPY, SAXPY_SOURCE, saxpy

pytestmark = pytest.mark.anyio

SHARED_BYTES = 300 * 1024
"""More than any block may have, on the CPU driver as on GPUs of today."""


async def test_source_text_in_verified_result_out(with_device):
    """Compile, upload, launch, await, download: the numbers are NumPy's."""
    n = 1000
    rng = np.random.default_rng(1)
    x, y = rng.random(n, np.float32), rng.random(n, np.float32)
    expected = np.float32(2.5) * x + y

    async with ajit.open_runtime(**with_device) as rt:
        saxpy = await rt.kernel(SAXPY)
        device_x, device_y = await rt.device.upload(x), await rt.device.upload(y)
        await saxpy.launch((n + 127) // 128, 128, 2.5, device_x, device_y, n)
        actual = np.empty(n, np.float32)
        await rt.device.download(device_y, actual)

    np.testing.assert_allclose(actual, expected, rtol=1e-6)


async def test_kernel_that_is_not_loaded_is_refused_in_a_capture(with_device, compiler):
    """Before anything is compiled; a fallback is not recorded in its stead; afterwards it loads."""
    wanted, loaded = saxpy(1), saxpy(2)
    compiles = []
    async with ajit.open_runtime(**with_device) as rt:
        ready = await rt.kernel(loaded)
        x = await rt.device.upload(np.ones(8, np.float32))
        compiles.append(compiler.started)
        async with rt.device.capture() as graph:
            for ask in (
                partial(rt.kernel, wanted),
                partial(rt.kernel, wanted, fallback=loaded),
                partial(rt.kernel, loaded, recache=True),
                partial(rt.module, wanted),
            ):
                with pytest.raises(CaptureMiss, match="not loaded"):
                    await ask()
            report = await rt.warmup([wanted, loaded])
            graph.add_launch(await rt.kernel(loaded), 1, 8, 1.0, x, x, 8)
        compiles.append(compiler.started)
        in_progress = rt.statistics().in_progress
        late = await rt.kernel(wanted)

    assert compiles == [1, 1]
    assert in_progress == 0
    assert [type(failure.error) for failure in report.failures] == [CaptureMiss]
    assert report.from_memory == 1
    assert (ready.name, late.name) == ("saxpy", "saxpy")


async def test_module_gives_every_entry_point(with_device):
    """One compile and one load serve all kernels of a source."""
    spec = ajit.Spec(
        SAXPY_SOURCE,
        [
            ajit.EntryPoint("saxpy", ("float", "const float*", "float*", "int")),
            ajit.EntryPoint("scale", ("float", "float*", "int")),
        ],
        name="two",
    )

    async with ajit.open_runtime(**with_device) as rt:
        module = await rt.module(spec)
        x = await rt.device.upload(np.ones(8, np.float32))
        module.kernel("saxpy").launch(1, 8, 2.0, x, x, 8)
        await module.kernel("scale").launch(1, 8, 10.0, x, 8)
        actual = np.asarray(await rt.device.download(x))
        with pytest.raises(ajit.SpecError, match="name one of saxpy, scale"):
            await rt.kernel(spec)
        scale = await rt.kernel(spec, entry="scale")
        statistics = rt.statistics()

    np.testing.assert_array_equal(actual, np.full(8, 30.0, np.float32))
    assert scale.name == "scale"
    assert (statistics.compiled, statistics.loaded_modules) == (1, 1)


async def test_loaded_kernel_is_returned_without_a_task_switch(with_device):
    """Driven by hand, the coroutine ends at its first step: no await in it suspends."""
    async with ajit.open_runtime(**with_device) as rt:
        kernel = await rt.kernel(SAXPY)
        with pytest.raises(StopIteration) as returned:
            rt.kernel(SAXPY).send(None)

    assert returned.value.value is kernel


async def test_loaded_kernel_is_returned_without_io_or_locks(with_device):
    """On the hot path, the only C functions called are a look-up and the thread's number."""
    called: list[str] = []

    def profile(_frame, kind, argument):
        if kind == "c_call":
            called.append(argument.__qualname__)

    async with ajit.open_runtime(**with_device) as rt:
        await rt.kernel(SAXPY)
        coroutine = rt.kernel(SAXPY)
        sys.setprofile(profile)
        try:
            coroutine.send(None)
        except StopIteration:
            pass
        finally:
            sys.setprofile(None)

    assert set(called) <= {"coroutine.send", "dict.get", "get_ident", "setprofile"}


async def test_equal_specs_made_twice_are_one_kernel(with_device):
    """A spec is a value: one that is made again finds what is loaded."""
    again = ajit.Spec(
        SAXPY_SOURCE, "saxpy", params="float a, const float* x, float* y, int n", name="saxpy"
    )

    async with ajit.open_runtime(**with_device) as rt:
        first = await rt.kernel(SAXPY)
        second = await rt.kernel(again)

    assert first is second


async def test_device_is_needed_to_load(options):
    """A runtime without a device says so, and names its setting."""
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.NoDevice, match="device='none'"):
            await rt.kernel(SAXPY)
        with pytest.raises(ajit.NoDevice, match="device='none'"):
            _ = rt.device


async def test_spec_of_another_arch_is_not_loaded(with_device, compiler):
    """A kernel for a GPU is refused on the CPU driver before anything is compiled."""
    async with ajit.open_runtime(**with_device) as rt:
        with pytest.raises(ajit.SpecError, match=f"sm_90a.*{ARCH}"):
            await rt.kernel(SAXPY.with_(arch="sm_90a"))

    assert compiler.started == 0


WRONG_ARGUMENTS = {
    "too-few": (lambda x: (1.0, x, x), None),
    "too-many": (lambda x: (1.0, x, x, 4, 4), None),
    "text-for-a-float": (lambda x: ("1.0", x, x, 4), 0),
    "float-for-a-pointer": (lambda x: (1.0, 2.0, x, 4), 1),
    "array-for-a-pointer": (lambda x: (1.0, np.ones(4, np.float32), x, 4), 1),
    "float-for-an-int": (lambda x: (1.0, x, x, 4.5), 3),
    "int-out-of-range": (lambda x: (1.0, x, x, 2**31), 3),
}


@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
async def test_wrong_arguments_are_refused_before_the_driver_sees_them(with_device, case):
    """Number, type and range are checked at the call; the position is in the error."""
    make, index = WRONG_ARGUMENTS[case]

    async with ajit.open_runtime(**with_device) as rt:
        kernel = await rt.kernel(SAXPY)
        x = await rt.device.upload(np.ones(4, np.float32))
        before = rt.statistics().device
        with pytest.raises(ajit.ArgumentError) as caught:
            kernel.launch(1, 4, *make(x))
        afterwards = rt.statistics().device
        untouched = np.asarray(await rt.device.download(x))

    assert caught.value.index == index
    assert "saxpy" in str(caught.value)
    assert (afterwards.dispatched, afterwards.launches) == (before.dispatched, before.launches)
    np.testing.assert_array_equal(untouched, np.ones(4, np.float32))


async def test_declared_types_of_another_size_than_the_kernels_are_refused(with_device):
    """A spec that declares double where a macro hides float fails, and does not corrupt."""
    lying = ajit.Spec(
        "#define PARAMS float a, const float* x, float* y, int n\n"
        'extern "C" __global__ void saxpy(PARAMS) { y[0] = a * x[0] + n; }',
        "saxpy",
        params="double a, const float* x, float* y, int n",
    )

    async with ajit.open_runtime(**with_device) as rt:
        x = await rt.device.upload(np.ones(4, np.float32))
        with pytest.raises(ajit.DeviceError, match="double"):
            (await rt.kernel(lying)).launch(1, 4, 1.0, x, x, 4)


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes", "message"),
    [
        (1, 1025, 0, "1025"),
        (1, (32, 33, 1), 0, "1056"),
        (1, 0, 0, "0"),
        (0, 32, 0, "0"),
        (1, (1, 1, 65), 0, "65"),
        (1, 32, SHARED_BYTES, str(SHARED_BYTES)),
    ],
    ids=["1025-threads", "1056-threads", "no-thread", "no-block", "deep-block", "shared-memory"],
)
async def test_impossible_launch_shape_is_refused(with_device, grid, block, shared_bytes, message):
    """Too many threads or too much shared memory: refused at the call, and the device is well."""
    async with ajit.open_runtime(**with_device) as rt:
        kernel = await rt.kernel(SAXPY)
        x = await rt.device.upload(np.ones(4, np.float32))
        with pytest.raises(ajit.LaunchError, match=message):
            kernel.launch(grid, block, 1.0, x, x, 4, shared_bytes=shared_bytes)
        await kernel.launch(1, 4, 1.0, x, x, 4)
        actual = np.asarray(await rt.device.download(x))

    np.testing.assert_array_equal(actual, np.full(4, 2.0, np.float32))


async def test_undeclared_parameters_cannot_be_launched(with_device):
    """Where a macro hides the types, nothing could be checked, so the error asks for them."""
    undeclared = ajit.Spec(
        "#define FACTOR(name) float name\n"
        'extern "C" __global__ void scale(FACTOR(a), float* x) { x[0] *= a; }',
        "scale",
    )

    async with ajit.open_runtime(**with_device) as rt:
        kernel = await rt.kernel(undeclared)
        with pytest.raises(ajit.ArgumentError, match="declare"):
            kernel.launch(1, 1, 1.0, None)


async def test_launches_from_many_tasks_all_complete(with_device):
    """Every ticket wakes its own task, however many are in flight."""
    done = []

    async def work(rt, kernel):
        x = await rt.device.upload(np.ones(16, np.float32))
        for _ in range(10):
            await kernel.launch(1, 16, 1.0, x, x, 16)
        done.append(np.asarray(await rt.device.download(x))[0])

    async with ajit.open_runtime(**with_device) as rt:
        kernel = await rt.kernel(SAXPY)
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(work, rt, kernel)

    assert done == [1024.0] * 20
