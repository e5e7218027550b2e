"""Streams and events: several orders on one device, and what binds them together."""

from __future__ import annotations

import ctypes
import gc

import numpy as np
import pytest

from ajit.errors import ArgumentError, DeviceError
from tests.gpu.support import GRACE_SECONDS, cpu_device, kernels, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]


class Foreign:
    """A stream as other libraries offer one."""

    def __init__(self, handle):
        self.handle = handle

    def __cuda_stream__(self):
        return 0, self.handle


async def test_everything_can_be_submitted_to_a_stream():
    """Launches, copies, fills and batches run in the stream that they are given, in order."""
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        first, second = await device.alloc(40), await device.alloc(40)
        for stream in (await device.create_stream(), await device.create_stream(priority=-1), None):
            device.fill(first, 0, stream=stream)
            add_one.launch(1, 10, first, 10, stream=stream)
            batch = device.batch(stream=stream)
            batch.add_launch(add_one, 1, 10, first, 10)
            batch.submit()
            await device.copy(second, first, stream=stream)

            assert bytes(await device.download(second)) == (2).to_bytes(4, "little") * 10


async def test_streams_of_other_libraries_are_taken(faults):
    """A handle, or an object with __cuda_stream__, is where the launch goes."""
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        buffer = await device.upload(bytes(4))
        stream = await device.create_stream()
        version, handle = stream.__cuda_stream__()
        with faults.held():
            tickets = [add_one.launch(1, 1, buffer, 1, stream=s) for s in (handle, Foreign(handle))]
            tickets.append(device.fill(buffer, 7, stream=stream))
        for ticket in tickets:
            await ticket

        assert version == 0
        assert bytes(await device.download(buffer)) == b"\7\7\7\7"
        with pytest.raises(ArgumentError, match="no __cuda_stream__"):
            device.fill(buffer, 1, stream=object())


@pytest.mark.parametrize("what", ["ticket", "event", "stream"])
async def test_a_stream_waits_for_another(faults, what):
    """Work submitted after the wait runs after the work it waits for."""
    async with cpu_device() as device:
        buffer, source = await device.alloc(4), await device.upload(b"slow")
        first, second = await device.create_stream(), await device.create_stream()
        event = await device.create_event(timing=False)
        faults.inject("device:copy", delay=0.1)
        ticket = device.copy(buffer, source, stream=first)
        event.record(first)
        second.wait({"ticket": ticket, "event": event, "stream": first}[what])
        await device.fill(buffer, ord("x"), stream=second)
        await ticket  # whichever came last is what stays

        assert bytes(await device.download(buffer)) == b"xxxx"


async def test_streams_do_not_wait_for_one_another(faults):
    """Without a wait, a slow stream delays no other."""
    async with cpu_device() as device:
        buffer, source = await device.alloc(4), await device.upload(b"slow")
        other = await device.create_stream()
        with faults.stopped("device:copy"):
            ticket = device.copy(buffer, source, stream=await device.create_stream())
            await device.synchronize()
            await other.synchronize()

            assert not ticket.done
        await ticket


async def test_a_slow_stream_does_not_delay_the_frees_of_others(faults):
    """A resource of a quick stream is destroyed while a slow stream still has older work."""
    async with cpu_device() as device:
        slow, quick = await device.create_stream(), await device.create_stream()
        buffer = await device.alloc(64)
        live = device.statistics().live_resources
        with faults.stopped("device:copy"):
            ticket = device.copy(buffer[0:32], buffer[32:64], stream=slow)
            await device.fill(buffer, 1, stream=quick)
            slow.free()
            await until(lambda: device.statistics().deferred_frees == 1)
            quick.free()
            await until(lambda: device.statistics().live_resources == live - 1)

            assert not ticket.done
        await ticket
        await until(lambda: device.statistics().live_resources == live - 2)


async def test_events_tell_how_long_the_device_took():
    """The time between two events is the device's own."""
    async with cpu_device() as device:
        buffer = await device.alloc(1 << 20)
        start, end, plain = (
            await device.create_event(),
            await device.create_event(),
            await device.create_event(timing=False),
        )  # fmt: skip
        start.record()
        device.fill(buffer, 1)
        await end.record()

        assert 0.0 <= await start.seconds_until(end) < GRACE_SECONDS
        with pytest.raises(ArgumentError, match="without timing"):
            await start.seconds_until(plain)
        with pytest.raises(DeviceError, match="both events have to be recorded"):
            await start.seconds_until(await device.create_event())


async def test_a_stream_is_destroyed_after_its_work(faults):
    """Freeing a stream with work in it lets the work end first."""
    async with cpu_device() as device:
        buffer = await device.alloc(4)
        live = device.statistics().live_resources
        with faults.held():
            stream = await device.create_stream()
            ticket = device.fill(buffer, 9, stream=stream)
            stream.free()
            with pytest.raises(ArgumentError, match="freed"):
                device.fill(buffer, 1, stream=stream)
        await ticket
        await until(lambda: device.statistics().live_resources == live)

        assert bytes(await device.download(buffer)) == b"\t\t\t\t"


async def test_copies_go_in_every_direction():
    """Host memory, pinned memory, buffers and parts of them are sides of a copy."""
    async with cpu_device() as device:
        buffer, pinned = await device.alloc(8), await device.alloc_pinned(8)
        pinned.view().data[:] = b"12345678"
        out = bytearray(4)
        await device.copy(buffer, pinned)
        await device.copy(buffer[0:2], buffer[6:8])
        await device.copy(buffer[2:4], b"ab")
        await device.copy(out, buffer[0:4])

        assert out == b"78ab"
        assert bytes(await device.download(buffer[2:5])) == b"ab5"
        with pytest.raises(ArgumentError, match="both sides are host"):
            device.copy(bytearray(8), pinned)
        with pytest.raises(ArgumentError, match="differ in size"):
            device.copy(buffer[0:1], buffer[0:2])
        with pytest.raises(IndexError, match="outside of the 8 elements"):
            buffer[4:9]
        with pytest.raises(ArgumentError, match="read-only"):
            device.copy(b"12", buffer[0:2])


class DLPack:
    """A tensor of another library, as DLPack shows it; the memory is a ctypes array."""

    def __init__(self, data):
        self.array = np.frombuffer(data, "int32")

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **_):
        return self.array.__dlpack__()


async def test_arrays_of_other_libraries_are_taken_by_dlpack():
    """On the CPU driver a tensor in CPU memory is an argument and a side of a copy."""
    memory = (ctypes.c_int32 * 4)(1, 2, 3, 4)
    tensor = DLPack(memory)
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        await add_one.launch(1, 4, tensor, 4)
        buffer = await device.alloc(16)
        await device.copy(buffer, tensor)
        copied = bytes(await device.download(buffer))

    assert list(memory) == [2, 3, 4, 5]
    assert copied == bytes(memory)


async def test_buffers_are_offered_by_dlpack():
    """Another library shares the memory, and keeps it when the buffer is freed."""
    async with cpu_device() as device:
        buffer = await device.upload(b"12345678")
        live = device.statistics().live_resources
        assert buffer.__dlpack_device__() == (1, 0)
        del_me = buffer.__dlpack__()  # never consumed
        array = np.from_dlpack(buffer)
        del del_me
        buffer.free()
        await device.synchronize()
        await device.synchronize()

        assert array.tobytes() == b"12345678"
        assert device.statistics().live_resources == live
        del array
        gc.collect()
        await until(lambda: device.statistics().live_resources == live - 1)
