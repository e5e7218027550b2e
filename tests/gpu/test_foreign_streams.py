"""Streams of other libraries: their default stream, and those that they capture."""

from __future__ import annotations

import ctypes

import pytest

from ajit._gpu.driver import CPU_LIBRARY
from ajit._gpu.wire import NATIVE
from ajit.errors import LaunchError
from tests.gpu.support import cpu_device, kernels

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

DRIVER = ctypes.CDLL(str(NATIVE / CPU_LIBRARY))
CAPTURE_UNSUPPORTED, RELAXED = 900, 2


class DefaultStream:
    """As a library tells that it uses the driver's default stream."""

    def __cuda_stream__(self):
        return 0, 0


class Foreign:
    """A stream that another library made and captures. To be used on the CUDA thread."""

    def __init__(self) -> None:
        self.stream, self.graph = ctypes.c_void_p(), ctypes.c_void_p()
        assert DRIVER.cuStreamCreate(ctypes.byref(self.stream), 1) == 0

    def __cuda_stream__(self):
        return 0, self.stream.value

    def begin(self):
        """Begin to capture it."""
        assert DRIVER.cuStreamBeginCapture_v2(self.stream, RELAXED) == 0

    def end(self):
        """End that; returns the driver's code."""
        return DRIVER.cuStreamEndCapture(self.stream, ctypes.byref(self.graph))

    def nodes(self):
        """How many operations were captured."""
        count = ctypes.c_size_t()
        assert DRIVER.cuGraphGetNodes(self.graph, None, ctypes.byref(count)) == 0
        return count.value

    def destroy(self):
        """Give the stream back."""
        assert DRIVER.cuStreamDestroy_v2(self.stream) == 0


@pytest.mark.parametrize("stream", [DefaultStream(), 0], ids=["protocol", "handle"])
async def test_handle_zero_is_the_drivers_default_stream(faults, stream):
    """Work that another library has enqueued there comes first."""
    async with cpu_device() as device:
        source, target = await device.upload(bytes(8)), await device.upload(bytes(8))
        host = (ctypes.c_ubyte * 8)(*[1] * 8)

        def write_slowly(address):
            faults.inject("device:copy", delay=0.3)
            arguments = ctypes.c_uint64(address), host, ctypes.c_size_t(8), None
            return DRIVER.cuMemcpyHtoDAsync_v2(*arguments)

        assert await device.run(write_slowly, source.pointer) == 0
        await device.copy(target, source, stream=stream)

        assert bytes(await device.download(target)) == b"\1" * 8


async def test_many_copies_go_to_the_default_stream_as_well():
    """The driver takes no batch of copies there."""
    async with cpu_device() as device:
        source, target = await device.upload(b"abcdefgh"), await device.upload(bytes(8))
        async with device.batch(stream=DefaultStream()) as batch:
            batch.add_copies([(target[0:4], source[4:8]), (target[4:8], source[0:4])])
        await batch.ticket

        assert bytes(await device.download(target)) == b"efghabcd"


async def test_a_stream_that_another_library_captures_takes_no_work():
    """The end of the ticket would become part of their graph. Their capture is unharmed."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        foreign = await device.run(Foreign)
        await device.run(foreign.begin)

        with pytest.raises(LaunchError) as caught:
            await kernel.launch(1, 1, stream=foreign)
        assert caught.value.code == CAPTURE_UNSUPPORTED
        assert await device.run(foreign.end) == 0
        assert await device.run(foreign.nodes) == 0
        await kernel.launch(1, 1, stream=foreign)
        await device.run(foreign.destroy)


async def test_a_capture_that_begins_behind_a_ticket_is_not_disturbed(faults):
    """Overdue tickets are looked after without a query that would break the capture."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        foreign = await device.run(Foreign)
        faults.inject("device:launch", delay=0.3)  # longer than the thread goes without a look
        ticket = kernel.launch(1, 1, stream=foreign)
        await device.run(foreign.begin)
        await ticket

        assert await device.run(foreign.end) == 0
        await device.run(foreign.destroy)
