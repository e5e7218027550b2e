"""Objects made by hand are ready to use: settings, and kernels that are not declared."""

from __future__ import annotations

from functools import partial

import anyio
import numpy as np
import pytest

import ajit
from tests.runtime.sources import ARCH, SAXPY_SOURCE

pytestmark = pytest.mark.anyio


async def test_settings_made_by_hand_open_a_runtime_that_compiles(with_device):
    """`ajit.Settings(...)` is as good as the same arguments given to `open_runtime`."""
    del with_device["compile_slots"]
    settings = ajit.Settings(**with_device)

    async with ajit.open_runtime(settings) as rt:
        with anyio.fail_after(60):
            kernel = await rt.kernel(ajit.Spec(SAXPY_SOURCE, "saxpy"))

    assert kernel.params == ("float", "const float*", "float*", "int")


async def test_two_kernels_of_one_source_are_picked_by_name(with_device):
    """Their parameters are read from the source: both can be launched with nothing declared."""
    spec = ajit.Spec(SAXPY_SOURCE, ["saxpy", "scale"])

    async with ajit.open_runtime(**with_device) as rt:
        saxpy = await rt.kernel(spec, entry="saxpy")
        scale = await rt.kernel(spec, entry="scale")
        x = await rt.device.upload(np.ones(4, np.float32))
        await saxpy.launch(1, 4, 2.0, x, x, 4)
        await scale.launch(1, 4, 10.0, x, 4)
        actual = np.asarray(await rt.device.download(x))

    np.testing.assert_array_equal(np.full(4, 30.0, np.float32), actual)


async def test_kernel_of_a_file_finds_the_header_beside_it(options, tmp_path):
    """`Spec.from_file` compiles what a compiler would compile, called with that file."""
    (tmp_path / "factor.cuh").write_text("#define FACTOR 2.0f\n")
    (tmp_path / "twice.cu").write_text(
        '#include "factor.cuh"\nextern "C" __global__ void twice(float* x) { x[0] *= FACTOR; }\n'
    )
    read = partial(ajit.Spec.from_file, tmp_path / "twice.cu", "twice")
    spec = await anyio.to_thread.run_sync(read)  # it blocks, as its docstring says

    async with ajit.open_runtime(**options) as rt:
        artifact = await rt.compile(spec, arch=ARCH)

    assert artifact.entries == ("twice",)
