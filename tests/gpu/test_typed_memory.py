"""Device memory with a shape and a type: uploads, slices, views, and what other libraries see."""

from __future__ import annotations

import array
import dataclasses

import ml_dtypes
import numpy as np
import pytest

import ajit
from ajit.errors import ArgumentError
from tests.gpu.support import cpu_device, kernels

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

BFLOAT16, E4M3, E5M2 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2


def read_only(values):
    """The same array, not to be written."""
    values.flags.writeable = False
    return values


class Image:
    """An array that shows its memory as bytes, as images of Pillow do."""

    __array_interface__ = {  # noqa: RUF012  # never changed
        "shape": (2, 3), "typestr": "<u2", "version": 3, "data": bytes(range(12)),
    }  # fmt: skip


class Strided:
    """An array that says its strides although it has no gaps."""

    def __init__(self, values):
        self.__array_interface__ = {**values.__array_interface__, "strides": values.strides}
        self.values = values


@pytest.mark.parametrize(
    ("obj", "shape", "dtype"),
    [
        (np.ones(10, np.float32), (10,), "float32"),
        (np.zeros((3, 4), np.float16), (3, 4), "float16"),
        (np.array(7, np.int64), (), "int64"),
        (np.zeros((0, 4), np.int16), (0, 4), "int16"),
        (np.array([[True], [False]]), (2, 1), "bool"),
        (np.zeros(3, np.complex64), (3,), "complex64"),
        (np.arange(6, dtype=BFLOAT16).reshape(2, 3), (2, 3), "bfloat16"),
        (np.arange(4, dtype=E4M3), (4,), "float8_e4m3fn"),
        (np.arange(4, dtype=E5M2), (4,), "float8_e5m2"),
        (read_only(np.ones(3, np.uint32)), (3,), "uint32"),
        (b"bytes", (5,), "uint8"),
        (bytearray(3), (3,), "uint8"),
        (array.array("d", [1, 2]), (2,), "float64"),
        (Image(), (2, 3), "uint16"),
        (Strided(np.ones((2, 3), np.float32)), (2, 3), "float32"),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
async def test_shape_and_type_go_to_the_device_and_back(obj, shape, dtype):
    """An upload comes back as an array of the same shape, type and values."""
    expected = obj if hasattr(obj, "dtype") else np.asarray(obj)
    async with cpu_device() as device:
        buffer = await device.upload(obj)
        host = await device.download(buffer)
        actual = np.asarray(host)

        assert (buffer.shape, buffer.dtype) == (shape, dtype)
        assert (host.shape, host.dtype, host.nbytes) == (shape, dtype, buffer.nbytes)
        assert (actual.shape, actual.dtype.name) == (shape, dtype)
        if not isinstance(obj, bytes):
            np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("asked", "shape", "dtype", "nbytes"),
    [
        ((4096,), (4096,), "uint8", 4096),
        (((3, 4), "float32"), (3, 4), "float32", 48),
        ((10, np.float64), (10,), "float64", 80),
        (([2, 3], BFLOAT16), (2, 3), "bfloat16", 12),
        ((np.zeros((5, 6)).shape, np.dtype("int8")), (5, 6), "int8", 30),
        (((), "complex128"), (), "complex128", 16),
        (((0, 3), "float32"), (0, 3), "float32", 0),
        ((np.int64(7),), (7,), "uint8", 7),
    ],
)
async def test_memory_is_allocated_by_shape_and_type(asked, shape, dtype, nbytes):
    """A number of elements or a shape, and a type; bytes where no type is said."""
    async with cpu_device() as device:
        for memory in (await device.alloc(*asked), await device.alloc_pinned(*asked)):
            assert (memory.shape, memory.dtype, memory.nbytes) == (shape, dtype, nbytes)
            assert repr(shape) in repr(memory)
            assert dtype in repr(memory)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ((3, "floot32"), "did you mean float32"),
        (("12",), "shape is '12'"),
        (((2, 1.5),), "a size of the shape is 1.5"),
        (((-2, -2),), "below 0"),
        (((1 << 40, 1 << 40),), "too many"),
    ],
)
async def test_shapes_that_no_memory_can_have_are_refused(asked, reason):
    """Nothing reaches the device."""
    async with cpu_device() as device:
        for alloc in (device.alloc, device.alloc_pinned):
            with pytest.raises(ArgumentError, match=reason):
                await alloc(*asked)

        assert device.statistics().dispatched == 0


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        (np.arange(10)[::2], "not C-contiguous.*np.ascontiguousarray"),
        (np.zeros((3, 4), order="F"), "not C-contiguous"),
        (np.arange(10, dtype=BFLOAT16)[::2], "not C-contiguous"),
        (np.zeros(3, ">f4"), "newbyteorder"),
        (np.zeros(3, "M8[us]"), "datetime64.*np.int64"),
        (np.zeros(3, "i4,f4"), "no type that ajit knows.*np.uint8"),
        (np.zeros(3, "U2"), "no type that ajit knows"),
        (np.zeros(3, np.longdouble), "no type that ajit knows"),
        (np.zeros(3, ml_dtypes.int4), "int4"),
        (Strided(np.zeros(3, BFLOAT16)), "V2"),
        (np.array([None]), "Python objects"),
        (np.zeros(3, "i4,O"), "Python objects"),
        (np.zeros(3, "M8[us],O"), "Python objects"),
        ("text", "no usable buffer"),
        (5, "no array.*np.asarray"),
        ([1.0, 2.0], "no array.*np.asarray"),
    ],
    ids=lambda value: str(getattr(value, "dtype", type(value).__name__)),
)
async def test_an_impossible_upload_is_refused(obj, reason):
    """Memory with gaps, elements without a type, and no memory: the error says what to do."""
    async with cpu_device() as device:
        with pytest.raises(ArgumentError, match=reason):
            await device.upload(obj)

        assert device.statistics().dispatched == 0


@pytest.mark.parametrize(
    ("dtype", "shape", "out"),
    [
        (BFLOAT16, (100,), np.zeros(100, BFLOAT16)),
        (np.float32, (3, 4), np.zeros((3, 4), np.float32)),
        (np.float32, (3, 4), bytearray(48)),
        (np.float32, (3, 4), np.zeros(48, np.uint8)),
        (np.uint8, (48,), np.zeros((3, 4), np.float32)),
        (np.uint8, (8,), np.zeros(1, "M8[us]")),
    ],
    ids=str,
)
async def test_downloads_fill_what_they_are_given(dtype, shape, out):
    """An array of the same type and shape, or bytes on either side, is filled and returned."""
    source = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    async with cpu_device() as device:
        returned = await device.download(await device.upload(source), out=out)

        assert returned is out
        assert bytes(memoryview(out if isinstance(out, bytearray) else out.view(np.uint8))) == (
            source.tobytes()
        )


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        (np.zeros((3, 4), np.int32), "float32, out is int32"),
        (np.zeros((4, 3), np.float32), r"shape \(3, 4\), out has \(4, 3\)"),
        (np.zeros(12, np.float32), r"out has \(12,\)"),
        (np.zeros((3, 5), np.float32), "48 bytes, out has 60"),
        (np.zeros((3, 4), np.float32, order="F"), "not C-contiguous"),
        (read_only(np.zeros((3, 4), np.float32)), "read-only"),
        (read_only(np.zeros(24, BFLOAT16)), "read-only"),
        (bytes(48), "read-only"),
        ("text", "no usable buffer"),
    ],
    ids=str,
)
async def test_downloads_refuse_what_does_not_fit(out, reason):
    """Another type, shape or size, gaps and read-only memory are refused; nothing is written."""
    async with cpu_device() as device:
        buffer = await device.upload(np.ones((3, 4), np.float32))
        with pytest.raises(ArgumentError, match=reason):
            await device.download(buffer, out)


@pytest.mark.parametrize(
    "part",
    [np.s_[1:3], np.s_[:2], np.s_[2:], np.s_[-2:], np.s_[:-1], np.s_[2:1], np.s_[:], np.s_[4:]],
)
async def test_slices_are_those_of_numpy(part):
    """A slice is one of the first axis, in elements, and has the type and the other axes."""
    source = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    async with cpu_device() as device:
        buffer = await device.upload(source)
        expected, piece = source[part], buffer[part]
        actual = await device.download(piece)

        assert (piece.shape, piece.dtype, piece.nbytes) == (
            expected.shape,
            "int16",
            expected.nbytes,
        )
        assert piece.pointer - buffer.pointer == piece.offset_bytes
        np.testing.assert_array_equal(np.asarray(actual), expected)
        np.testing.assert_array_equal(np.from_dlpack(piece), expected)


async def test_a_slice_of_a_slice_counts_from_the_slice():
    """Parts and views can be taken of parts and views."""
    source = np.arange(24, dtype=np.int32).reshape(6, 4)
    async with cpu_device() as device:
        buffer = await device.upload(source)
        inner = buffer[1:5][1:3].view("uint8")[1:]
        expected = source[3:4].tobytes()

        assert bytes(await device.download(inner)) == expected
        assert inner.buffer is buffer


@pytest.mark.parametrize(
    ("use", "error", "reason"),
    [
        (lambda buffer: buffer[3], TypeError, r"buffer\[2:5\].*download"),
        (lambda buffer: buffer[1, 2], TypeError, "slices of its first axis"),
        (lambda buffer: buffer["x"], TypeError, "slices of its first axis"),
        (lambda buffer: buffer[0:9], IndexError, "outside of the 4 elements"),
        (lambda buffer: buffer[-5:], IndexError, "outside of the 4 elements"),
        (lambda buffer: buffer[::2], IndexError, "step must be 1"),
        (lambda buffer: buffer.view(shape=())[0:1], IndexError, "no axis"),
        (list, TypeError, "not iterable"),
        (len, TypeError, "len"),
        (np.asarray, TypeError, r"await device.download\(buffer\)"),
        (lambda buffer: np.asarray(buffer[1:]), TypeError, r"await device.download\(buffer\)"),
    ],
)
async def test_a_buffer_is_no_sequence_of_elements(use, error, reason):
    """Reading elements is an error that says what to write instead."""
    async with cpu_device() as device:
        buffer = await device.alloc(4)
        with pytest.raises(error, match=reason):
            use(buffer.view("int32") if reason == "no axis" else buffer)


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        ("uint8", None, (2, 12)),
        ("float64", (3,), (3,)),
        (None, (-1, 2), (3, 2)),
        (None, 6, (6,)),
        ("float32", None, (2, 3)),
        (BFLOAT16, None, (2, 6)),
        ("uint8", (2, 3, 4), (2, 3, 4)),
    ],
)
async def test_a_view_is_the_same_memory_with_another_type(dtype, shape, expected):
    """Types and axes change, bytes do not."""
    source = np.arange(6, dtype=np.int32).reshape(2, 3)
    async with cpu_device() as device:
        buffer = await device.upload(source)
        view = buffer.view(dtype, shape)

        assert view.shape == expected
        assert view.pointer == buffer.pointer
        assert bytes(await device.download(view)) == source.tobytes()


@pytest.mark.parametrize(
    ("dtype", "shape", "reason"),
    [
        ("float64", None, "last axis is not a whole number of 8-byte elements"),
        ("int32", (7,), "28 bytes, not 24"),
        (None, (-1, 4), "not 24"),
        (None, (-1, -1), "not 24"),
        (None, (-1, 0), "not 24"),
        (None, (-2, -3), "not 24"),
        ("floot", None, "did you mean float"),
    ],
)
async def test_a_view_has_all_of_the_bytes(dtype, shape, reason):
    """More or less bytes than there are is an error."""
    async with cpu_device() as device:
        buffer = await device.alloc((2, 3), "int32")
        with pytest.raises(ArgumentError, match=reason):
            buffer.view(dtype, shape)


async def test_a_copy_converts_nothing():
    """Memory of another type is refused in a copy, unless one side is bytes; shapes may differ."""
    async with cpu_device() as device:
        floats = await device.upload(np.ones((2, 3), np.float32))
        integers = await device.alloc(6, "int32")
        for source in (floats, np.ones(6, np.float32), floats[:]):
            with pytest.raises(ArgumentError, match=r"target is int32, the source float32.*uint8"):
                device.copy(integers, source)
        with pytest.raises(ArgumentError, match="target is int32"):
            async with device.batch() as batch:
                batch.add_copies([(integers, floats)])
        await device.copy(integers, floats.view("uint8"))
        await device.copy(integers, np.ones(6, np.float32).tobytes())
        await device.copy(integers.view("uint8"), np.zeros(3, "M8[us]"))
        await device.copy(floats, np.arange(6, dtype=np.float32))

        assert (await device.download(floats)).tolist() == [[0, 1, 2], [3, 4, 5]]
        assert not np.asarray(await device.download(integers)).any()


async def test_a_fill_writes_bytes():
    """A byte other than 0 into larger elements is refused; it would not be their value."""
    async with cpu_device() as device:
        buffer = await device.upload(np.ones(4, np.int32))
        with pytest.raises(ArgumentError, match=r"the elements are int32; fill buffer\.view"):
            device.fill(buffer, 1)
        device.fill(buffer[:2], 0)
        device.fill(buffer[2:].view("uint8"), 1)

        assert (await device.download(buffer)).tolist() == [0, 0, 0x01010101, 0x01010101]


async def test_a_kernel_works_on_a_slice():
    """A part of a buffer is an argument like a whole one."""
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        buffer = await device.upload(np.zeros((3, 2), np.int32))
        await add_one.launch(1, 2, buffer[1:2], 2)

        assert (await device.download(buffer)).tolist() == [[0, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("source", "typestr"),
    [
        (np.zeros((3, 4), np.float32), "<f4"),
        (np.zeros(3, np.float16), "<f2"),
        (np.zeros((3, 1), bool), "|b1"),
        (np.zeros(3, BFLOAT16), "<V2"),
        (np.zeros(3, E4M3), "|V1"),
    ],
    ids=lambda value: str(getattr(value, "dtype", value)),
)
async def test_cuda_libraries_see_shape_and_type(source, typestr, monkeypatch):
    """``__cuda_array_interface__`` and DLPack's device are those of a GPU, slices included."""
    async with cpu_device() as device:
        buffer = await device.upload(source)
        choice = dataclasses.replace(device._thread.choice, kind="cuda", ordinal=5)
        with monkeypatch.context() as patch:
            patch.setattr(device._thread, "choice", choice)
            for part in (buffer, buffer[1:]):
                interface = part.__cuda_array_interface__

                assert interface["typestr"] == typestr
                assert interface["shape"] == part.shape
                assert interface["data"] == (part.pointer, False)
                assert interface.get("strides") is None
                assert part.__dlpack_device__() == (2, 5)


async def test_memory_of_the_cpu_driver_is_no_cuda_array():
    """Other CUDA libraries must not take an address of the CPU driver for one of a GPU."""
    async with cpu_device() as device:
        buffer = await device.alloc(4)

        assert not hasattr(buffer, "__cuda_array_interface__")
        assert not hasattr(buffer[:2], "__cuda_array_interface__")


async def test_dlpack_tells_shape_and_type():
    """On the CPU driver another library sees a typed array of the same memory."""
    source = np.arange(6, dtype=np.float16).reshape(2, 3)
    async with cpu_device() as device:
        buffer = await device.upload(source)
        actual, empty = np.from_dlpack(buffer), np.from_dlpack(await device.alloc((0, 3), "int32"))

        np.testing.assert_array_equal(actual, source)
        assert actual.dtype == np.float16
        assert actual.ctypes.data == buffer.pointer
        assert (empty.shape, empty.dtype) == ((0, 3), np.int32)
        for asked in ({"copy": True}, {"dl_device": (2, 0)}):
            with pytest.raises(BufferError):
                buffer.__dlpack__(**asked)


async def test_pinned_memory_is_a_typed_array():
    """An array of numpy writes into it what the device copies."""
    async with cpu_device() as device:
        pinned, buffer = (
            await device.alloc_pinned((2, 3), "float32"),
            await device.alloc(6, "float32"),
        )
        values = np.asarray(pinned.view())
        values[:] = [[1, 2, 3], [4, 5, 6]]
        await device.copy(buffer, pinned)
        expected = [1, 2, 3, 4, 5, 6]

        assert values.dtype == np.float32
        assert (await device.download(buffer)).tolist() == expected
        assert np.from_dlpack(pinned.view()).tolist() == values.tolist()
        assert pinned.view(shape=6).tolist() == expected
        assert pinned.view("uint8").shape == (2, 12)
        view = pinned.view()
        pinned.free()
        for use in (pinned.view, view.tobytes):
            with pytest.raises(ArgumentError, match="freed"):
                use()


@pytest.mark.parametrize(
    ("kind", "factory"),
    [
        (ajit.DeviceBuffer, r"device.alloc\(\) or device.upload\(\)"),
        (ajit.BufferSlice, r"buffer\[a:b\]"),
        (ajit.PinnedBuffer, r"device.alloc_pinned\(\)"),
        (ajit.HostArray, r"device.download\(buffer\)"),
    ],
)
def test_memory_is_made_by_a_device_only(kind, factory):
    """Calling the class says what to call instead."""
    with pytest.raises(TypeError, match=factory):
        kind(4)
