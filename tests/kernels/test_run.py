"""Every kernel of the corpus runs, on the CPU driver and on a GPU, and gives what NumPy gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import ajit
from tests.kernels.corpus import CASES, SOURCES, Array, Case, by_name

if TYPE_CHECKING:
    from pathlib import Path


async def _launched(runtime: ajit.Runtime, kernel: ajit.Kernel, case: Case) -> dict[int, Array]:
    """Launch a case's kernel once; return every array argument as it is afterwards."""
    device, arguments = runtime.device, case.arguments()
    arrays = {i: it for i, it in enumerate(arguments) if isinstance(it, np.ndarray)}
    buffers = {i: await device.upload(array) for i, array in arrays.items()}
    passed = [buffers.get(i, argument) for i, argument in enumerate(arguments)]
    shape = case.launch

    await kernel.launch(shape.grid, shape.block, *passed, shared_bytes=shape.shared_bytes)

    for i, buffer in buffers.items():
        arrays[i] = await device.download(buffer, np.empty_like(arrays[i]))
        buffer.free()
    return arrays


@pytest.mark.anyio
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_kernel_agrees_with_numpy(case: Case, device: str, corpus_cache: Path) -> None:
    """Compile, load, launch, await, download, compare; inputs are as they were."""
    if device == "cpu" and not case.cpu:
        pytest.skip("needs inline PTX")
    async with ajit.open_runtime(device=device, cache_dir=corpus_cache) as runtime:
        kernel = await runtime.kernel(case.spec())
        actual = await _launched(runtime, kernel, case)

    case.check(actual)
    written = case.expected(*case.arguments())
    for position, argument in enumerate(case.arguments()):
        if isinstance(argument, np.ndarray) and position not in written:
            np.testing.assert_array_equal(argument, actual[position])


@pytest.mark.anyio
async def test_two_entry_points_of_one_module(device: str, corpus_cache: Path) -> None:
    """Scatter and gather come from one source: one compile, one module, two kernels."""
    scatter, gather = by_name("kv_scatter"), by_name("kv_gather")
    spec = ajit.Spec(
        (SOURCES / scatter.file).read_text(),
        [*scatter.spec().entries, *gather.spec().entries],
        defines=scatter.defines,
    )

    async with ajit.open_runtime(device=device, cache_dir=corpus_cache) as runtime:
        module = await runtime.module(spec)
        for case in (scatter, gather):
            case.check(await _launched(runtime, module.kernel(case.entry), case))
        assert runtime.statistics().loaded_modules == 1


@pytest.mark.anyio
async def test_two_instances_of_a_template_in_one_module(device: str, corpus_cache: Path) -> None:
    """Name expressions pick instances, which do not get in each other's way."""
    cases = [by_name("scale_float_4"), by_name("scale_half_8")]
    spec = ajit.Spec(
        (SOURCES / "scale.cu").read_text(),
        [entry for case in cases for entry in case.spec().entries],
        include_dirs=[SOURCES],
    )

    async with ajit.open_runtime(device=device, cache_dir=corpus_cache) as runtime:
        module = await runtime.module(spec)
        for case in cases:
            case.check(await _launched(runtime, module.kernel(case.entry), case))


@pytest.mark.anyio
async def test_cub_is_refused_on_the_cpu_with_a_reason(corpus_cache: Path) -> None:
    """A feature that the CPU driver does not have is a compile error that says so."""
    async with ajit.open_runtime(device="cpu", cache_dir=corpus_cache) as runtime:
        with pytest.raises(ajit.CompileError, match="CPU driver"):
            await runtime.kernel(by_name("cub_block_sum").spec())
