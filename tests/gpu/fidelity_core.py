"""A program for NVIDIA's driver by cuda.core, without ajit. Usage: program IMAGE."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from cuda.core import (
    Device,
    DeviceMemoryResource,
    DeviceMemoryResourceOptions,
    EventOptions,
    LaunchConfig,
    LegacyPinnedMemoryResource,
    ObjectCode,
    PinnedMemoryResource,
    StreamOptions,
    launch,
)

COUNT = 100


def main(image: bytes) -> None:
    """Fail with a traceback, or print what was done."""
    device = Device()
    device.set_current()
    query_device(device)
    stream = device.create_stream(options=StreamOptions(nonblocking=True, priority=-1))
    for step in (streams_and_events, memory_resources, copies_and_fills, kernels):
        step(device, stream, image)
        print(step.__name__)  # noqa: T201  # the test reads it


def query_device(device) -> None:
    """Name, number, capability and limits."""
    properties, capability = device.properties, device.compute_capability
    assert (device.device_id, properties.warp_size) == (0, 32)
    assert (capability.major, capability.minor) == (
        properties.compute_capability_major, properties.compute_capability_minor,
    )  # fmt: skip
    assert device.name
    assert properties.max_threads_per_block >= 1024
    assert properties.max_grid_dim_x > properties.max_block_dim_z


def streams_and_events(device, stream, image) -> None:
    """Flags, order between streams, elapsed time."""
    timed = EventOptions(timing_enabled=True)
    start = stream.record(options=timed)
    other = device.create_stream()
    other.wait(start)
    end = other.record(options=timed)
    end.sync()
    assert (stream.is_nonblocking, stream.priority, end.is_done) == (True, -1, True)
    assert end - start >= 0


def memory_resources(device, stream, image) -> None:
    """The device's pool, a pool with a limit, a host pool, and pinned memory."""
    bounded = DeviceMemoryResource(device, options=DeviceMemoryResourceOptions(max_size=1 << 20))
    for resource in (DeviceMemoryResource(device), bounded, PinnedMemoryResource()):
        buffer = resource.allocate(4096, stream=stream)
        assert (buffer.size, resource.attributes.used_mem_current) == (4096, 4096)
        buffer.close(stream)
        stream.sync()
        assert resource.attributes.used_mem_current == 0
    pinned = LegacyPinnedMemoryResource().allocate(64)
    assert pinned.is_host_accessible


def copies_and_fills(device, stream, image) -> None:
    """To the device and back, through numpy's view of pinned memory."""
    resource, memory = LegacyPinnedMemoryResource(), device.allocate(64, stream=stream)
    source, target = resource.allocate(64), resource.allocate(64)
    np.from_dlpack(source).view(np.uint8)[:] = 7
    source.copy_to(memory, stream=stream)
    target.copy_from(memory, stream=stream)
    stream.sync()
    assert np.from_dlpack(target).view(np.uint8).tolist() == [7] * 64
    memory.fill(9, stream=stream)
    target.copy_from(memory, stream=stream)
    stream.sync()
    assert np.from_dlpack(target).view(np.uint8).tolist() == [9] * 64


def kernels(device, stream, image) -> None:
    """Load, look at, and launch one by its name and one by its name expression."""
    code = ObjectCode.from_cubin(image, symbol_mapping={"scale<float>": b"scale<float>"})
    saxpy, scale = code.get_kernel("saxpy"), code.get_kernel("scale<float>")
    assert [info.size for info in saxpy.arguments_info] == [4, 8, 8, 8]
    assert saxpy.attributes.max_threads_per_block == 1024
    resource = LegacyPinnedMemoryResource()
    buffers = resource.allocate(4 * COUNT), resource.allocate(4 * COUNT)
    x, y = (np.from_dlpack(buffer).view(np.float32) for buffer in buffers)
    x[:], y[:] = 2, 1
    config = LaunchConfig(grid=2, block=64)
    launch(stream, config, saxpy, np.float32(3), *buffers, np.uint64(COUNT))
    launch(stream, config, scale, buffers[1], np.float32(0.5), np.uint64(COUNT))
    stream.sync()
    assert y.tolist() == [3.5] * COUNT


if __name__ == "__main__":
    main(Path(sys.argv[1]).read_bytes())
