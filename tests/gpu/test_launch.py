"""Launches: arguments packed by their declared types, and refused before the driver sees them."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ajit._core.params import bfloat16_bits, parse_ctype
from ajit._core.spec import EntryPoint
from ajit._gpu.kernel import BoundLaunch, Kernel
from ajit.errors import ArgumentError, LaunchError, LoadError, RuntimeClosed
from tests.gpu.support import ENTRIES, artifact, cpu_device, image_for, kernels

INVALID_VALUE = 1
INVALID_IMAGE = 200
NOT_FOUND = 500


@pytest.mark.parametrize(
    ("declared", "kind", "size"),
    [
        ("bool", "bool", 1),
        ("char", "int", 1),
        ("unsigned char", "int", 1),
        ("long unsigned int", "int", 8),
        ("unsigned", "int", 4),
        ("long long", "int", 8),
        ("const int", "int", 4),
        ("std::int16_t", "int", 2),
        ("size_t", "int", 8),
        ("float", "float", 4),
        ("double", "float", 8),
        ("__half", "half", 2),
        ("nv_bfloat16", "bfloat16", 2),
        ("const float* __restrict__", "pointer", 8),
        ("float *", "pointer", 8),
        ("const int (&)[4]", "pointer", 8),
        ("MyParams", "struct", 0),
        ("float4", "struct", 0),
    ],
)
def test_parameter_types_are_known_by_their_spelling(declared, kind, size):
    """Every usual spelling of a C type is understood; anything else is a struct."""
    actual = parse_ctype(declared)

    assert (actual.kind, actual.size_bytes) == (kind, size)


@given(st.floats(width=32))
def test_bfloat16_is_rounded_like_everywhere_else(value):
    """Bits equal those of ml_dtypes, ties to even included; NaN stays NaN."""
    expected = np.array([value], np.float32).astype(ml_dtypes.bfloat16)
    actual = np.array([bfloat16_bits(value)], np.uint16).view(ml_dtypes.bfloat16)

    np.testing.assert_array_equal(actual.astype(np.float32), expected.astype(np.float32))


@pytest.mark.anyio
async def test_a_kernel_computes_what_its_source_says():
    """Floats, pointers and ints arrive, and the result is NumPy's."""
    x, y = np.arange(1000, dtype=np.float32), np.ones(1000, np.float32)
    async with cpu_device() as device:
        saxpy = (await kernels(device))("saxpy")
        dx, dy = await device.upload(x), await device.upload(y)
        await saxpy.launch((4,), (256, 1), 2.0, dx, dy, 1000)
        await saxpy.launch([4], 256, np.float32(0.5), dx, dy.pointer, np.int64(1000))

        actual = np.asarray(await device.download(dy))
    np.testing.assert_array_equal(actual, 2.5 * x + y)


@pytest.mark.anyio
async def test_every_scalar_type_arrives():
    """Each parameter lands at its offset, structs by value included."""
    async with cpu_device() as device:
        get = await kernels(device)
        out = await device.alloc(8, "float32")
        triple = struct.pack("<ihxx", -7, 12)
        arguments = (True, -3, 65535, -100000, 1 << 40, 0.25, triple, out)
        await get("scalars").launch(1, 1, *arguments)
        actual = np.asarray(await device.download(out))

        assert actual.tolist() == [1, -3, 65535, -100000, float(1 << 40), 0.25, -7, 12]


@pytest.mark.anyio
async def test_halves_are_packed_from_floats():
    """Python floats become 16-bit floats, rounded to nearest even."""
    async with cpu_device() as device:
        out = await device.alloc(4)
        await (await kernels(device))("bits").launch(1, 1, 1.0009765625, 1.00390625, out)
        expected = struct.pack("<e", 1.0009765625) + struct.pack("<H", bfloat16_bits(1.00390625))

        assert bytes(await device.download(out)) == expected


@pytest.mark.anyio
async def test_dynamic_shared_memory_has_the_size_of_the_launch():
    """Dynamic shared memory is there; more than the device has is refused."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("dynamic_shared")
        out = await device.alloc(64, "int32")
        await kernel.launch(1, 64, out, shared_bytes=64 * 4)

        assert np.asarray(await device.download(out)).tolist() == list(range(63, -1, -1))
        with pytest.raises(LaunchError, match="dynamic shared memory"):
            kernel.launch(1, 64, out, shared_bytes=kernel.max_dynamic_shared_bytes + 1)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("arguments", "index", "reason"),
    [
        ((1.0, None, None), None, "takes 4 arguments .*3 were given"),
        (("two", None, None, 1), 0, "float"),
        ((1e300, None, None, 1), 0, "float"),
        ((1.0, "x", None, 1), 1, "not a DeviceBuffer"),
        ((1.0, -1, None, 1), 1, "const float"),
        ((1.0, np.zeros(4, np.float32), None, 1), 1, "it is host memory; copy it first"),
        ((1.0, None, None, 1.5), 3, "int"),
        ((1.0, None, None, 1 << 31), 3, "int"),
        ((1.0, None, True, 1), 2, "not a DeviceBuffer"),
    ],
)
async def test_arguments_that_do_not_fit(arguments, index, reason):
    """Number, type and range are checked before the driver sees anything."""
    async with cpu_device() as device:
        saxpy = (await kernels(device))("saxpy")
        launches = device.statistics().launches
        with pytest.raises(ArgumentError, match=reason) as caught:
            saxpy.launch(1, 1, *arguments)

        assert caught.value.index == index
        assert device.statistics().launches == launches


@pytest.mark.anyio
async def test_structs_and_bools_are_checked():
    """A struct of another size, and a number that is no truth value, are refused."""
    async with cpu_device() as device:
        scalars = (await kernels(device))("scalars")
        yes, no_bool = True, 2
        with pytest.raises(ArgumentError, match="7 bytes; the struct has 8"):
            scalars.launch(1, 1, yes, 1, 1, 1, 1, 1.0, bytes(7), None)
        with pytest.raises(ArgumentError, match="given as its 8 bytes"):
            scalars.launch(1, 1, yes, 1, 1, 1, 1, 1.0, 8, None)
        with pytest.raises(ArgumentError, match="true nor false"):
            scalars.launch(1, 1, no_bool, 1, 1, 1, 1, 1.0, bytes(8), None)


SCALARS = (True, 1, 2, 3, 4, 5.0, struct.pack("ihxx", 6, 7))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, np.bool_(1)),
        (0, np.ones((), bool)),
        (0, np.int64(1)),
        (3, np.array(3)),
        (3, np.int8(3)),
        (4, np.array(4, np.uint8)),
        (5, np.array(5.0)),
        (5, np.float16(5)),
        (6, np.frombuffer(SCALARS[-1], "i4,i2,i2")[0]),
        (6, np.frombuffer(SCALARS[-1], np.uint64)),
        (6, np.frombuffer(SCALARS[-1], np.uint64)[0]),
    ],
    ids=repr,
)
async def test_scalars_of_numpy_are_taken_as_scalars(index, value):
    """Its bool, and arrays without axes; a struct has the bytes of what is given, never zeros."""
    async with cpu_device() as device:
        scalars, out = (await kernels(device))("scalars"), await device.alloc(8, np.float32)
        arguments = [value if i == index else plain for i, plain in enumerate(SCALARS)]
        await scalars.launch(1, 1, *arguments, out)
        actual = (await device.download(out)).tolist()

    assert actual == [1, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, np.float32(1)),
        (0, np.array(1.0)),
        (0, np.array(2)),
        (0, np.array([True])),
        (3, np.float32(3)),
        (3, np.array(3.0)),
        (3, np.array([3, 4])),
        (3, np.datetime64(3, "s")),
        (4, np.array(4, "M8[s]")),
        (5, np.array([5.0, 6.0])),
        (5, np.array("five")),
        (5, np.array(None)),
        (6, np.array(6, np.int32)),
        (6, np.array(6, "M8[s]")),
    ],
    ids=repr,
)
async def test_other_values_of_numpy_are_refused_as_arguments(index, value):
    """Always the same error, with the argument's number."""
    async with cpu_device() as device:
        scalars = (await kernels(device))("scalars")
        arguments = [value if i == index else plain for i, plain in enumerate(SCALARS)]
        with pytest.raises(ArgumentError, match=f"argument {index} ") as caught:
            scalars.launch(1, 1, *arguments, None)

    assert caught.value.index == index


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("grid", "block", "reason"),
    [
        (1, 1025, "block.x is 1025"),
        (1, (32, 33), "1056 threads"),
        (0, 1, "grid.x is 0"),
        (1, (1, 0), "block.y is 0"),
        (-1, 1, "grid.x is -1"),
        (1 << 31, 1, "grid.x"),
        ((1, 1, 65536), 1, "grid.z"),
        ((1, 1, 1, 1), 1, "one to three whole numbers"),
        (1.5, 1, "one to three whole numbers"),
        ("ab", 1, "one to three whole numbers"),
    ],
)
async def test_shapes_that_no_device_runs(grid, block, reason):
    """Blocks of 1025 threads, empty and endless grids are refused before the driver sees them."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        with pytest.raises(LaunchError, match=reason):
            kernel.launch(grid, block)

        assert device.statistics().launches == 0


@pytest.mark.anyio
async def test_undeclared_and_misdeclared_parameters():
    """A kernel without declared types, or with others than it has, is told so at its launch."""
    entries = [
        EntryPoint("nothing"),
        EntryPoint("saxpy", ("float", "float*", "float*")),
        EntryPoint("add_one", ("int*", "long")),
    ]
    async with cpu_device() as device:
        module = await device.load(await image_for(device), entries)
        with pytest.raises(ArgumentError, match=r"not declared.*params="):
            module.kernel("nothing").launch(1, 1)
        with pytest.raises(ArgumentError, match="3 parameters, but the compiled kernel has 4"):
            module.kernel("saxpy").launch(1, 1, 1.0, None, None)
        with pytest.raises(ArgumentError, match="long, of 8 bytes, but has 4 bytes"):
            module.kernel("add_one").launch(1, 1, None, 1)


@pytest.mark.anyio
async def test_buffers_that_are_gone_or_elsewhere():
    """A freed buffer is no argument."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("add_one")
        buffer = await device.alloc(4)
        buffer.free()
        with pytest.raises(ArgumentError, match="freed") as caught:
            kernel.launch(1, 1, buffer, 1)

        assert caught.value.index == 0


@pytest.mark.anyio
async def test_the_drivers_refusal_is_a_launch_error(faults):
    """An error that only the driver can know comes with its code when the ticket is awaited."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        faults.inject("cuLaunchKernel", INVALID_VALUE)
        with pytest.raises(LaunchError, match="launch nothing: CUDA_ERROR_INVALID_VALUE") as caught:
            await kernel.launch(1, 1)
        await kernel.launch(1, 1)

        assert caught.value.code == INVALID_VALUE


@pytest.mark.anyio
@pytest.mark.parametrize("length", [0, 4, 63, 64, 1000])
@pytest.mark.parametrize("start", [b"", b"not an image"])
async def test_bytes_that_are_no_image_are_a_load_error(start, length):
    """Bytes that are no module, or the beginning of one, are refused, and nothing stays behind."""
    async with cpu_device() as device:
        data = start or (await image_for(device)).data[:length]
        with pytest.raises(LoadError):
            await device.load(artifact(data))

        assert device.statistics().live_resources == 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    "function",
    ["cuModuleLoadData", "cuModuleGetFunction", "cuFuncLoad", "cuFuncGetAttribute"],
)
async def test_a_load_that_fails_at_any_step_leaves_nothing(faults, function):
    """Whatever step of a load fails, the module is unloaded again."""
    async with cpu_device() as device:
        faults.inject(function, INVALID_IMAGE)
        with pytest.raises(LoadError, match="INVALID_IMAGE"):
            await kernels(device)

        assert device.statistics().live_resources == 0
        await kernels(device)


@pytest.mark.anyio
async def test_an_entry_point_that_the_image_lacks_is_named():
    """The message says which entry point the driver did not find."""
    async with cpu_device() as device:
        image = await image_for(device)
        with pytest.raises(LoadError, match="no_such_kernel") as caught:
            await device.load(image, [*ENTRIES, EntryPoint("no_such_kernel")])

        assert caught.value.code == NOT_FOUND


@pytest.mark.anyio
async def test_modules_are_unloaded_after_their_last_reference():
    """A kernel keeps its module; unloading refuses later launches and lets earlier ones run."""
    async with cpu_device() as device:
        module = await device.load(await image_for(device), ENTRIES)
        kernel = module.kernel("nothing")
        del module
        await kernel.launch(1, 1)
        with pytest.raises(LoadError, match="it has nothing, saxpy"):
            kernel.module.kernel("other")
        ticket = kernel.launch(1, 1)
        kernel.module.unload()
        with pytest.raises(RuntimeClosed, match="unloaded"):
            kernel.launch(1, 1)
        await ticket

        assert "unloaded" in repr(kernel)


def test_representation_of_a_kernel_with_long_names_is_one_short_line():
    """Name expressions of templates have kilobytes."""
    module = SimpleNamespace(unloaded=True)
    kernel = SimpleNamespace(name="k" * 3000, params=("Vec<float>",) * 300, module=module)

    assert len(Kernel.__repr__(kernel)) < 200
    assert len(BoundLaunch.__repr__(SimpleNamespace(kernel=kernel))) < 200
