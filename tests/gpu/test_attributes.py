"""Launch attributes: clusters, programmatic dependent launch, priorities."""

from __future__ import annotations

import numpy as np
import pytest

from ajit._core.spec import EntryPoint
from ajit.errors import ArgumentError, LaunchError
from tests.gpu.support import compiled, cpu_device, kernels

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

INVALID_CLUSTER_SIZE = 912

DEPENDENT = """
extern "C" __global__ void dependent(int* x) {
    cudaGridDependencySynchronize();
    atomicAdd(x, 1);
    cudaTriggerProgrammaticLaunchCompletion();
}
"""
ENTRIES = (EntryPoint("dependent", ("int*",)),)


async def counter(device):
    """A kernel that counts its blocks, and where."""
    module = await device.load(compiled(DEPENDENT, ENTRIES), ENTRIES)
    return module.kernel(), await device.upload(bytes(4))


async def test_a_launch_with_attributes_runs_alone_in_batches_and_in_graphs():
    """Clusters, dependent launches and priorities change how a kernel runs, not what it does."""
    async with cpu_device() as device:
        plain, count = await counter(device)
        kernel = plain.with_attributes(cluster=(2, 2), programmatic=True, priority=-1)
        await kernel.launch((4, 2), 1, count)
        async with device.batch() as batch:
            batch.add_launch(kernel, (4, 2), 1, count)
            batch.add_bound(kernel.bind((4, 2), 1, count))
        async with device.capture() as graph:
            graph.add_launch(kernel, (4, 2), 1, count)
        await graph.launch()
        await plain.launch(1, 1, count)
        actual = np.asarray(await device.download(count)).view(np.int32)

        assert actual.tolist() == [8 * 4 + 1]
        assert kernel.attributes.cluster == (2, 2, 1)
        assert plain.attributes.cluster is None


async def test_only_launches_with_attributes_take_the_longer_call(faults):
    """A plain launch goes the way it always went, also beside one with attributes."""
    async with cpu_device() as device:
        plain, count = await counter(device)
        faults.inject("cuLaunchKernelEx", 1)
        await plain.launch(1, 1, count)
        await plain.with_attributes().launch(1, 1, count)
        with pytest.raises(LaunchError, match="INVALID_VALUE"):
            await plain.with_attributes(programmatic=True).launch(1, 1, count)
        faults.inject("cuLaunchKernel", 1)
        await plain.with_attributes(priority=0).launch(1, 1, count)


async def test_large_clusters_are_allowed_for_the_function_that_wants_them(faults):
    """More than 8 blocks are asked for once; what the device cannot do fails the ticket."""
    async with cpu_device() as device:
        plain, count = await counter(device)
        faults.inject("cuFuncSetAttribute", 1)
        await plain.with_attributes(cluster=8).launch(16, 1, count)
        kernel = plain.with_attributes(cluster=16)
        with pytest.raises(LaunchError, match="INVALID_VALUE"):
            await kernel.launch(16, 1, count)
        await kernel.launch(16, 1, count)
        faults.inject("cuFuncSetAttribute", 1)
        await kernel.launch(16, 1, count)
        with pytest.raises(LaunchError, match="INVALID_CLUSTER_SIZE") as caught:
            await plain.with_attributes(cluster=32).launch(32, 1, count)

        assert caught.value.code == INVALID_CLUSTER_SIZE


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"cluster": 0}, "cluster is 0"),
        ({"cluster": (1, -1)}, "cluster is"),
        ({"cluster": 1.5}, "one to three whole numbers"),
        ({"cluster": (1, 1, 1, 1)}, "one to three whole numbers"),
        ({"programmatic": 1}, "programmatic is 1, must be a bool"),
        ({"priority": "high"}, "priority is 'high', must be a whole number"),
        ({"priority": 1 << 15}, "no device has priority 32768"),
    ],
)
async def test_attributes_that_cannot_be_are_refused(attributes, reason):
    """Wrong values and types are told when they are given, not by the driver."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        with pytest.raises(LaunchError, match=reason):
            kernel.with_attributes(**attributes)


async def test_a_grid_must_be_whole_clusters():
    """A grid that its clusters do not divide is refused; the driver sees nothing."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing").with_attributes(cluster=(1, 2))
        with pytest.raises(LaunchError, match=r"grid.y is 3, no multiple of the cluster's 2"):
            kernel.launch((4, 3), 1)

        assert device.statistics().launches == 0


async def test_a_device_without_clusters_says_so(monkeypatch):
    """The message names what a GPU needs for them; everything else still works."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        assert device.has_clusters
        monkeypatch.setattr(device._thread.info, "clusters", 0)
        with pytest.raises(LaunchError, match=r"no clusters; they need compute capability 9\.0"):
            kernel.with_attributes(cluster=2)
        await kernel.with_attributes(programmatic=True).launch(1, 1)


class Odd:
    """A stream whose protocol tells something that is no handle."""

    def __init__(self, answer):
        self.answer = answer

    def __cuda_stream__(self):
        return self.answer


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"shared_bytes": 1.5}, LaunchError, "shared_bytes is 1.5, must be a whole number"),
        ({"shared_bytes": "4"}, LaunchError, "shared_bytes is '4', must be a whole number"),
        ({"shared_bytes": None}, LaunchError, "shared_bytes is None, must be a whole number"),
        ({"shared_bytes": [4]}, LaunchError, "shared_bytes is"),
        ({"stream": -1}, ArgumentError, "-1 is no stream's handle"),
        ({"stream": 1 << 64}, ArgumentError, "no stream's handle"),
        ({"stream": True}, ArgumentError, "True is no stream's handle"),
        ({"stream": "s"}, ArgumentError, "expected a stream, got str"),
        ({"stream": Odd(None)}, ArgumentError, "tells no handle"),
        ({"stream": Odd((0,))}, ArgumentError, "tells no handle"),
        ({"stream": Odd((0, "x"))}, ArgumentError, "tells no handle"),
        ({"stream": Odd((0, -2))}, ArgumentError, "no stream's handle"),
        ({"timeout": "1"}, ArgumentError, "a timeout of '1' s"),
        ({"timeout": float("nan")}, ArgumentError, "a timeout of nan s"),
        ({"timeout": float("inf")}, ArgumentError, "a timeout of inf s"),
        ({"timeout": 1e30}, ArgumentError, "a timeout of 1e"),
    ],
)
async def test_options_of_odd_types_are_typed_errors(options, error, reason):
    """Whatever is given as an option, the error is one of ajit's and nothing is submitted."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        with pytest.raises(error, match=reason):
            kernel.launch(1, 1, **options)

        assert device.statistics().launches == 0
        await kernel.launch(1, 1)


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (lambda device, _: device.alloc("8"), "shape is '8', must be a whole number"),
        (lambda device, _: device.alloc_pinned(1.5), "shape is 1.5"),
        (lambda device, _: device.alloc(-1), "-1: a size is below 0"),
        (lambda device, _: device.alloc(1 << 64), "bytes"),
        (lambda device, _: device.create_stream(priority="low"), "priority is 'low'"),
        (lambda device, buffer: device.fill(buffer, "x"), "value is 'x', must be a whole number"),
        (lambda device, buffer: device.fill(buffer, 256), "256 is not a byte"),
    ],
)
async def test_numbers_of_odd_types_are_typed_errors(use, reason):
    """Sizes, priorities and bytes that are none are refused before anything is submitted."""
    async with cpu_device() as device:
        buffer = await device.alloc(4)
        with pytest.raises(ArgumentError, match=reason):
            await use(device, buffer)
