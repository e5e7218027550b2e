"""Host arrays: what a download returns."""

from __future__ import annotations

import ctypes
import gc
import struct
import sys

import ml_dtypes
import numpy as np
import pytest

from ajit.errors import ArgumentError
from tests.gpu.support import cpu_device, kernels

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

HOLDS_BEFORE_BYTES = 64
"""Where the number of holds stands, see ``native/executor/tensor.c``."""


async def downloaded(values):
    """The values, once to a device and back."""
    async with cpu_device() as device:
        return await device.download(await device.upload(values))


def holds(pointer):
    """How many hold the memory at an address: Python, and tensors."""
    return ctypes.c_int64.from_address(pointer - HOLDS_BEFORE_BYTES).value


async def test_numpy_shares_the_memory():
    """``np.asarray`` copies nothing, may write, and keeps the memory."""
    host = await downloaded(np.arange(6, dtype=np.float32).reshape(2, 3))
    array = np.asarray(host)
    array[0, 1] = 7
    pointer = host.pointer

    assert host.tolist() == [[0, 7, 2], [3, 4, 5]]
    assert array.ctypes.data == pointer
    assert pointer % 64 == 0
    del host
    gc.collect()
    assert holds(pointer) == 1
    assert array.tolist() == [[0, 7, 2], [3, 4, 5]]


async def test_numpy_has_narrow_floats_of_ml_dtypes():
    """bfloat16 and 8-bit floats become arrays of ml_dtypes, of the same memory."""
    for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
        source = np.arange(6, dtype=dtype).reshape(2, 3)
        host = await downloaded(source)
        array = np.asarray(host)

        assert array.dtype == dtype
        assert array.ctypes.data == host.pointer
        np.testing.assert_array_equal(array, source)
        np.testing.assert_array_equal(np.asarray(host, np.float32), source.astype(np.float32))
        np.testing.assert_array_equal(np.array(host, copy=True), source)


async def test_numpy_without_ml_dtypes_is_told_what_to_import(monkeypatch):
    """A type that numpy does not have is never shown as bytes without a meaning."""
    host = await downloaded(np.arange(3, dtype=ml_dtypes.bfloat16))
    monkeypatch.delitem(sys.modules, "ml_dtypes")

    with pytest.raises(TypeError, match=r"import ml_dtypes.*view\('uint16'\)"):
        np.asarray(host)
    assert np.asarray(host.view("uint16")).tolist() == [0, 0x3F80, 0x4000]


async def test_a_tensor_keeps_the_memory():
    """DLPack's tensor shares the memory and outlives the host array."""
    host = await downloaded(np.arange(6, dtype=np.int64).reshape(2, 3))
    pointer, capsule = host.pointer, host.__dlpack__()
    assert holds(pointer) == 2
    del capsule  # never taken
    assert holds(pointer) == 1
    array = np.from_dlpack(host)

    assert host.__dlpack_device__() == (1, 0)
    assert array.ctypes.data == pointer
    assert holds(pointer) == 2
    del host
    gc.collect()
    assert holds(pointer) == 1
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


async def test_a_library_that_refuses_a_tensor_leaves_its_own_error():
    """A capsule that is dropped during an exception frees its tensor, and hides nothing."""
    host = await downloaded(np.arange(3, dtype=ml_dtypes.bfloat16))
    with pytest.raises(RuntimeError, match="dtype"):
        np.from_dlpack(host)

    assert holds(host.pointer) == 1


async def test_a_tensor_is_refused_where_it_would_be_a_copy():
    """A DLPack request that cannot be met is a BufferError."""
    host = await downloaded(np.arange(3))
    for asked in ({"copy": True}, {"dl_device": (2, 0)}):
        with pytest.raises(BufferError):
            host.__dlpack__(**asked)

    host.__dlpack__(copy=False, dl_device=(1, 0), max_version=(1, 1), stream=None)
    assert holds(host.pointer) == 1


async def test_elements_and_rows_without_an_array_library():
    """Indices and slices of the first axis, lists, length and iteration."""
    values = np.arange(6, dtype=np.float16).reshape(3, 2)
    host, scalar = await downloaded(values), await downloaded(np.array(2.5))

    assert host.tolist() == values.tolist()
    assert host[1].tolist() == [2, 3]
    assert host[-1][0] == 4.0
    assert host[1:].tolist() == [[2, 3], [4, 5]]
    assert [row.tolist() for row in host] == values.tolist()
    assert len(host) == 3
    assert scalar.tolist() == 2.5
    for index in (3, -4):
        with pytest.raises(IndexError, match="outside of the 3 elements"):
            host[index]
    with pytest.raises(TypeError, match="slices"):
        host["x"]
    with pytest.raises(TypeError, match="no length"):
        len(scalar)


async def test_bytes_of_a_host_array():
    """Files, sockets and struct take its bytes, shared or as a copy."""
    values = np.arange(3, dtype=np.float32)
    host = await downloaded(values)
    view = host.data
    view[:4] = struct.pack("f", 5)

    assert bytes(host) == host.tobytes() == np.array([5, 1, 2], np.float32).tobytes()
    assert struct.unpack("3f", view) == (5, 1, 2)
    assert host.view("uint8").tolist() == list(bytes(host))
    assert (await downloaded(b"")).tobytes() == b""
    pointer = host.pointer
    del host
    gc.collect()
    assert holds(pointer) == 1
    assert struct.unpack("3f", view) == (5, 1, 2)


async def test_a_view_has_all_of_the_bytes():
    """Another type or shape of the same bytes, or an error."""
    host = await downloaded(np.arange(6, dtype=np.int32))

    assert host.view(shape=(2, -1)).shape == (2, 3)
    with pytest.raises(ArgumentError, match="not 24"):
        host.view("int8", (5,))


async def test_a_host_array_is_host_memory():
    """It can be uploaded, copied from and filled; a kernel does not take it, as on a GPU."""
    values = np.arange(4, dtype=np.int32)
    async with cpu_device() as device:
        buffer = await device.upload(values)
        host = await device.download(buffer)
        again = await device.upload(host)
        np.asarray(host)[:] = 9
        await device.copy(buffer, host)
        returned = await device.download(again, out=host)

        assert (again.shape, again.dtype) == ((4,), "int32")
        assert (await device.download(buffer)).tolist() == [9] * 4
        assert returned is host
        assert host.tolist() == values.tolist()
        add_one = (await kernels(device))("add_one")
        for argument in (host, host.view("bfloat16")):  # numpy does not have the second
            with pytest.raises(ArgumentError, match="it is host memory; copy it first"):
                add_one.launch(1, 4, argument, 4)
        assert "HostArray int32 (4,)" in repr(host)
