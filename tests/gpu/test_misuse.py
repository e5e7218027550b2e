"""What would go wrong without a word is refused: found by an attack on the public face."""

from __future__ import annotations

import copy
import pickle

import anyio
import numpy as np
import pytest

from ajit.errors import ArgumentError, LaunchError, UsageError, WrongLoop
from tests.gpu.support import ENTRIES, cpu_device, image_for, kernels

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

INT = np.arange(8, dtype=np.int32)


class Interface:
    """An object of another library, with the ``__array_interface__`` that a test gives it."""

    def __init__(self, **interface: object) -> None:
        self.__array_interface__ = {"version": 3, **interface}


# ---- element types of a launch ----


@pytest.mark.parametrize(
    "array", [INT.astype(np.float32), INT.astype(np.int64), INT.astype(np.float64)], ids=str
)
async def test_buffer_of_another_element_type_than_the_parameter_is_refused(array):
    """float32 memory given for an int pointer would be computed with as if it were ints."""
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        x = await device.upload(array)

        with pytest.raises(
            ArgumentError, match=rf"{array.dtype}.*int32 elements.*view\('uint8'\)"
        ) as caught:
            add_one[1, 8](x, 8)
        with pytest.raises(ArgumentError, match=str(array.dtype)):
            add_one[1, 8](x[0:4], 8)
        assert caught.value.index == 0


async def test_a_float_pointer_asks_for_floats():
    """Not for the complex numbers that it takes as well."""
    async with cpu_device() as device:
        saxpy = (await kernels(device))("saxpy")
        x = await device.upload(INT.astype(np.float64))

        with pytest.raises(ArgumentError, match=r"float64.*Upload float32 elements"):
            saxpy[1, 8](1.0, x, x, 8)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "uint8"])
async def test_buffer_of_the_parameters_type_or_of_bytes_is_taken(dtype):
    """Signed or not is one; bytes may be anything."""
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        x = await device.upload(INT.view(dtype))
        await add_one[1, 8](x, 8)

        assert np.asarray(await device.download(x)).view(np.int32).tolist() == list(range(1, 9))


# ---- blocks ----


async def test_launch_copy_and_fill_in_a_block_that_captures_are_refused():
    """They would run at once and not be recorded; other tasks go on as ever."""
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        x, y = await device.upload(INT), await device.upload(INT)
        batch = device.batch()
        batch.add_fill(y, 0)
        inside, outside = anyio.Event(), anyio.Event()

        async def other_task():
            await inside.wait()
            await add_one[1, 8](y, 8)
            outside.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other_task)
            async with device.capture() as graph:
                for submit in (
                    lambda: add_one[1, 8](x, 8),
                    lambda: add_one.launch(1, 8, x, 8, timeout=5.0),
                    lambda: device.copy(x, y),
                    lambda: device.fill(x, 0),
                    batch.submit,
                ):
                    with pytest.raises(UsageError, match=r"not be recorded.*graph\.add_launch"):
                        submit()
                graph.add_launch(add_one[1, 8], x, 8)
                inside.set()
                await outside.wait()
        await graph.launch()
        await graph.launch()

        assert (await device.download(x)).tolist() == list(range(2, 10))
        assert (await device.download(y)).tolist() == list(range(1, 9))


async def test_nothing_is_added_once_the_block_has_ended():
    """It would gather in a batch that no call submits, or be missing in the graph."""
    async with cpu_device() as device:
        x = await device.upload(INT)
        async with device.batch() as batch:
            batch.add_fill(x, 0)
        async with device.capture() as graph:
            graph.add_fill(x, 0)
        for recording in (batch, graph):
            with pytest.raises(UsageError, match="its block has ended"):
                recording.add_fill(x, 0)
        await batch.ticket

        assert len(graph) == 1


async def test_block_that_captures_ends_in_another_task():
    """As a test framework does it; the task that began it is free again."""
    async with cpu_device() as device:
        x = await device.upload(INT)
        block = device.capture()
        graph = await block.__aenter__()
        graph.add_fill(x, 0)

        async def end():
            await block.__aexit__(None, None, None)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end)
        await device.fill(x, 0)

        assert graph.captured


# ---- recordings outlive what they use ----


async def test_batch_with_a_buffer_of_a_closed_runtime_is_refused(anyio_backend):
    """The memory is freed when that runtime closes, in whatever batch it was recorded."""
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        async with cpu_device() as other:
            buffer, pinned = await other.upload(INT), await other.alloc_pinned(8, "int32")
            batch, of_pinned = device.batch(), device.batch()
            batch.add_launch(add_one, 1, 8, buffer, 8)
            of_pinned.add_copy(await device.alloc(8, "int32"), pinned)
            bound = device.batch()
            bound.add_bound(add_one.bind(1, 8, buffer, 8))
        for recording in (batch, of_pinned, bound):
            with pytest.raises(ArgumentError, match="operation 0 was freed"):
                recording.submit()


@pytest.mark.parametrize("seen_as_array", [False, True])
async def test_recording_with_pinned_memory_that_was_freed_is_refused(seen_as_array):
    """The driver would read memory that is not there any more."""
    async with cpu_device() as device:
        target, pinned = await device.alloc(32), await device.alloc_pinned(32)
        source = pinned.view() if seen_as_array else pinned
        batch = device.batch()
        batch.add_copy(target, source)
        async with device.capture() as graph:
            graph.add_copy(target, source)
        pinned.free()

        with pytest.raises(ArgumentError, match="operation 0 was freed"):
            batch.submit()
        with pytest.raises(ArgumentError, match="launch a graph"):
            graph.launch()


async def test_objects_of_a_runtime_cannot_be_copied():
    """A copy would be a second owner, and free what the first one uses."""
    async with cpu_device() as device:
        module = await device.load(await image_for(device), ENTRIES)
        things = [
            module, module.kernel("add_one"), await device.alloc(8), await device.alloc_pinned(8),
            await device.create_stream(), await device.create_event(), device, device.mark(),
        ]  # fmt: skip
        await device.synchronize()
        for thing in things:
            for copied in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="cannot be copied or pickled"):
                    copied(thing)


# ---- memory of other objects ----


@pytest.mark.parametrize(
    "out",
    [np.zeros(8, object), np.zeros(8, ">i4"), np.zeros(4, "M8[s]"), np.zeros(8, "V4")],
    ids=lambda out: str(out.dtype),
)
async def test_download_into_elements_of_another_type_is_refused(out):
    """Bytes of ints are neither Python objects, nor big-endian numbers, nor times."""
    before = out.copy()
    async with cpu_device() as device:
        x = await device.upload(INT)
        with pytest.raises(ArgumentError):
            await device.download(x, out=out)
        with pytest.raises(ArgumentError):
            device.copy(out, x)
        with pytest.raises(ArgumentError):
            device.copy(x, out)

    assert (out == before).all()


@pytest.mark.parametrize(
    "interface",
    [
        {"shape": (200,), "typestr": "<f4", "data": b"abcd"},
        {"shape": (1,), "typestr": "<f4", "data": b"abcd", "offset": 1000},
        {"shape": (1,), "typestr": "<f4", "data": b"abcd", "offset": -4},
        {"shape": (1,), "typestr": "<f4"},
        {"shape": (1,), "typestr": "<f4", "data": None},
        {"typestr": "<f4", "data": (64, False)},
        {"shape": (-1,), "typestr": "<f4", "data": (64, False)},
        {"shape": (1 << 62,), "typestr": "<f4", "data": (64, False)},
        {"shape": (1,), "typestr": "f", "data": (64, False)},
        {"shape": (1,), "typestr": "|O8", "data": (64, False)},
        {"shape": (1, 2), "typestr": "<f4", "data": (64, False), "strides": (4,)},
    ],
    ids=str,
)
async def test_malformed_array_interface_is_refused(interface):
    """Nothing is read that the object does not say it has."""
    async with cpu_device() as device:
        with pytest.raises(ArgumentError, match="Interface"):
            await device.upload(Interface(**interface))


async def test_masked_array_is_refused():
    """Its mask would be lost without a word."""
    async with cpu_device() as device:
        with pytest.raises(ArgumentError, match="filled"):
            await device.upload(np.ma.masked_array(INT, INT > 3))


class Reluctant:
    """A tensor whose library does not give it away, as one that needs gradients."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **_: object) -> object:
        raise BufferError("it needs gradients")


class Lost(Reluctant):
    """A tensor that does not know where it is."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return None  # type: ignore[return-value]


@pytest.mark.parametrize("tensor", [Reluctant(), Lost()], ids=["reluctant", "lost"])
async def test_tensor_that_is_not_given_away_is_an_argument_error(tensor):
    """In uploads, copies and launches alike, with what its library says."""
    async with cpu_device() as device:
        add_one, x = (await kernels(device))("add_one"), await device.upload(INT)
        with pytest.raises(ArgumentError, match=r"gradients|where it is"):
            await device.upload(tensor)
        with pytest.raises(ArgumentError, match=r"gradients|where it is"):
            device.copy(x, tensor)
        with pytest.raises(ArgumentError, match=r"gradients|where it is"):
            add_one[1, 8](tensor, 8)


# ---- small things ----


async def test_wrong_calls_say_what_is_right():
    """Typed errors that name the way out, and none of the inside."""
    async with cpu_device() as device:
        add_one, x = (await kernels(device))("add_one"), await device.upload(INT)
        batch = device.batch(steps=True)
        with pytest.raises(TypeError, match=r"add_one\[grid, block\]"):
            add_one(x, 8)
        with pytest.raises(ArgumentError, match=r"8 is no address.*another order") as swapped:
            add_one[1, 8](8, x)
        assert swapped.value.index == 0
        with pytest.raises(TypeError, match="expected a kernel, got NoneType"):
            batch.add_launch(None, 1, 1)
        with pytest.raises(TypeError, match="takes a kernel, grid, block"):
            batch.add_launch(add_one)
        with pytest.raises(TypeError, match="bind"):
            batch.add_bound(None)
        with pytest.raises(LaunchError, match="one to three"):
            add_one[(), 1](x, 8)
        with pytest.raises(UsageError, match="coroutine"):
            await device.submit(device.alloc, 4)
        with pytest.raises(ArgumentError, match="too many"):
            await device.alloc((0, 1 << 70))
        flags = await device.alloc(4, "bool")
        with pytest.raises(ArgumentError, match="neither true nor false"):
            device.fill(flags, 7)
        batch.add_fill(x, 0)
        ticket = batch.submit()
        with pytest.raises(IndexError, match="no step 5; its steps: 1"):
            ticket.at(5)
        with pytest.raises(TypeError):
            ticket.at(0.5)
        await ticket


async def test_shape_and_type_of_memory_cannot_be_set():
    """As numpy has it, ``x.shape = ...``: here it would be believed, and memory overrun."""
    async with cpu_device() as device:
        x, pinned = await device.upload(INT), await device.alloc_pinned(8)
        for memory in (x, x[0:4], pinned, pinned.view()):
            for name, value in (("shape", (1000,)), ("dtype", "int8"), ("nbytes", 4000)):
                with pytest.raises(AttributeError):
                    setattr(memory, name, value)


@pytest.mark.parametrize("shape", [(0,), (0, 0), (0, 1, 0), (0, 0, 3), (2, 0), (2, 3)], ids=str)
async def test_lists_of_empty_arrays_are_those_of_numpy(shape):
    """Axes without elements included."""
    array = np.zeros(shape, np.int32)
    async with cpu_device() as device:
        actual = await device.download(await device.upload(array))

    assert actual.tolist() == array.tolist()


async def test_ticket_that_ran_out_of_time_tells_no_time(faults):
    """The device may be at work for longer; `seconds` would be a lie. It is a TimeoutError."""
    async with cpu_device() as device:
        x = await device.upload(INT)
        with faults.held():
            late = device.fill(x, 0, timeout=0.05)
            with pytest.raises(TimeoutError, match="still running"):
                await late

            assert late.done
            assert late.seconds is None


async def test_device_of_another_loop_is_refused_before_anything_is_submitted():
    """Awaited calls say so themselves, not by a ticket that the caller never saw."""
    async with cpu_device() as device:
        before = device.statistics().dispatched

        async def elsewhere():
            with pytest.raises(WrongLoop, match="opened in another event loop"):
                await device.upload(INT)
            with pytest.raises(WrongLoop):
                await device.synchronize()

        await anyio.to_thread.run_sync(anyio.run, elsewhere)

        assert device.statistics().dispatched == before


async def test_download_waits_for_the_stream_it_is_given(faults):
    """Without it, the copy would overtake the work of that stream."""
    async with cpu_device() as device:
        x, stream = await device.upload(INT), await device.create_stream()
        device.fill(x, 0, stream=stream)
        actual = await device.download(x, stream=stream)
        y = await device.upload(INT, stream=stream)
        y.free()
        z = await device.upload(INT)

        assert actual.tolist() == [0] * 8
        assert (await device.download(z)).tolist() == INT.tolist()
