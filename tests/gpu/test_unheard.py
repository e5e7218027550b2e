"""Failures of tickets that no task awaits: they are warned of, once, and never lost."""

from __future__ import annotations

import ast
import gc
import subprocess
import sys
import warnings
from collections.abc import Callable

import anyio
import pytest

from ajit.errors import AjitWarning, LaunchError
from tests.gpu.support import cpu_device, kernels

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

INVALID_VALUE = 1


@pytest.fixture
def warned(recwarn) -> Callable[[], list[str]]:
    """What was warned of since the test began, once garbage is collected."""
    warnings.simplefilter("always")

    def texts() -> list[str]:
        gc.collect()
        return [str(one.message) for one in recwarn if one.category is AjitWarning]

    return texts


async def test_failure_of_a_dropped_ticket_is_warned_of(faults, warned):
    """With the operation and the driver's error; the program goes on."""
    async with cpu_device() as device:
        nothing = (await kernels(device))("nothing")
        faults.inject("cuLaunchKernel", INVALID_VALUE)
        nothing.launch(1, 1)
        await device.synchronize()
        actual = warned()

    assert len(actual) == 1
    assert "launch nothing" in actual[0]
    assert "CUDA_ERROR_INVALID_VALUE" in actual[0]
    assert "never awaited" in actual[0]


async def test_failure_of_a_batch_whose_ticket_is_not_awaited_is_warned_of(faults, warned):
    """The block of a batch submits and does not wait, so its error would vanish."""
    async with cpu_device() as device:
        nothing = (await kernels(device))("nothing")
        faults.inject("cuLaunchKernel", INVALID_VALUE)
        async with device.batch() as batch:
            batch.add_launch(nothing, 1, 1)
        del batch
        await device.synchronize()
        actual = warned()

    assert ["operation 0 of the batch" in line for line in actual] == [True]


async def test_failure_that_was_raised_is_not_warned_of(faults, warned):
    """A task that awaited the ticket, or a step of it, was told."""
    async with cpu_device() as device:
        nothing = (await kernels(device))("nothing")
        faults.inject("cuLaunchKernel", INVALID_VALUE)
        with pytest.raises(LaunchError):
            await nothing.launch(1, 1)
        faults.inject("cuLaunchKernel", INVALID_VALUE)
        async with device.batch(steps=True) as batch:
            batch.add_launch(nothing, 1, 1)
        with pytest.raises(LaunchError):
            await batch.ticket.at(0)
        del batch
        await device.synchronize()
        actual = warned()

    assert actual == []


async def test_success_is_not_warned_of(warned):
    """A ticket need not be awaited."""
    async with cpu_device() as device:
        nothing = (await kernels(device))("nothing")
        nothing.launch(1, 1)
        await device.synchronize()
        actual = warned()

    assert actual == []


async def test_lost_device_is_warned_of_once():
    """A server that drops its tickets learns of it, and not once for each ticket."""
    program = """
import gc, warnings
import anyio, ajit
async def main():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with ajit.open_runtime(device="cpu") as rt:
            trap = await rt.kernel(ajit.Spec("__global__ void trap() { __trap(); }", "trap"))
            for _ in range(5):
                trap[1, 1]()
            try:
                await rt.device.synchronize()
            except ajit.DeviceLost:
                pass
            gc.collect()
    print([str(one.message) for one in caught if one.category is ajit.AjitWarning])
anyio.run(main)
"""
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
        )
    )

    said = ast.literal_eval(done.stdout)
    assert len(said) == 1, done.stderr
    assert "launch trap" in said[0]
    assert "never awaited" in said[0]
