"""Tensors of torch in CPU memory: uploaded, downloaded into, and made of memory of ajit."""

from __future__ import annotations

import numpy as np
import pytest

from ajit.errors import ArgumentError
from tests.gpu.support import cpu_device

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

DTYPES = [
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "bool",
    "complex64",
    "float8_e4m3fn",
    "float8_e5m2",
]


@pytest.mark.parametrize("name", DTYPES)
async def test_a_tensor_goes_to_the_device_and_back(name):
    """Its type and shape are kept, also where numpy has no such type."""
    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, name))
    async with cpu_device() as device:
        buffer = await device.upload(tensor)
        host = await device.download(buffer)
        allocated = await device.alloc((2, 3), dtype=tensor.dtype)
        out = torch.zeros_like(tensor)
        returned = await device.download(buffer, out=out)

        assert (buffer.shape, buffer.dtype) == ((2, 3), name)
        assert allocated.dtype == name
        assert returned is out
        for actual in (
            torch.from_dlpack(host),
            torch.as_tensor(host),
            torch.from_dlpack(buffer),
            out,
        ):
            assert actual.dtype == tensor.dtype
            assert actual.tolist() == tensor.tolist()
        assert host.tolist() == tensor.tolist()


async def test_torch_shares_the_memory_of_a_download():
    """``from_dlpack`` and ``frombuffer`` copy nothing and may write."""
    async with cpu_device() as device:
        host = await device.download(await device.upload(np.arange(4, dtype=np.float32)))
    torch.from_dlpack(host)[0] = 7
    torch.frombuffer(host.data, dtype=torch.float32)[1] = 8

    assert host.tolist() == [7, 8, 2, 3]


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.zeros(3, 4).T, r"not C-contiguous.*x.contiguous\(\)"),
        (torch.zeros(3, requires_grad=True), "detach"),
        (torch.zeros(3, device="meta"), "Tensor"),
    ],
)
async def test_tensors_without_plain_memory_are_refused(tensor, reason):
    """The error says what to write."""
    async with cpu_device() as device:
        with pytest.raises(ArgumentError, match=reason):
            await device.upload(tensor)
