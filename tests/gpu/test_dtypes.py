"""The table of element types: what they are called, and what their bits mean."""

from __future__ import annotations

import array
import ctypes
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from ajit._gpu.dlpack import foreign_host_array
from ajit._gpu.dtype import DTYPES, dtype_named, name_of_format, name_of_typestr
from ajit._gpu.elements import nested, unpacked
from ajit.errors import ArgumentError

OF_NUMPY = [name for name, dtype in DTYPES.items() if dtype.in_numpy]
OF_ML_DTYPES = [name for name, dtype in DTYPES.items() if not dtype.in_numpy]


class TorchDtype:
    """A dtype of torch, as code sees it that does not import torch."""

    def __repr__(self):
        return "torch.bfloat16"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("float32", "float32"),
        (np.float32, "float32"),
        (np.dtype("float32"), "float32"),
        (np.bool_, "bool"),
        (bool, "bool"),
        (np.intc, "int32"),
        (ml_dtypes.bfloat16, "bfloat16"),
        (np.dtype(ml_dtypes.float8_e5m2), "float8_e5m2"),
        (TorchDtype(), "bfloat16"),
        ("torch.float16", "float16"),
        (np.zeros(1, np.int8), "int8"),
    ],
    ids=repr,
)
def test_a_type_is_named_as_any_library_has_it(given, expected):
    """Names, numpy's, torch's and ml_dtypes' types all stand for a type of the table."""
    actual = dtype_named(given, "alloc").name

    assert actual == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("floot32", "did you mean float32"),
        ("bf16", "did you mean bfloat16"),
        ("fp8", "float8_e4m3fn or float8_e5m2"),
        (float, "float32 or float64"),
        (int, "int32 or int64"),
        (">f4", "known are bool, int8"),
        (None, "known are"),
        ("x" * 1000, "'xxx"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_unknown_type_is_refused_with_the_nearest(given, expected):
    """The error says what was meant; what numpy and torch understand differently is not guessed."""
    with pytest.raises(ArgumentError, match=expected) as caught:
        dtype_named(given, "alloc")

    assert len(str(caught.value)) < 320


@pytest.mark.parametrize("name", OF_NUMPY)
def test_the_table_is_that_of_numpy(name):
    """Size, type string, buffer format and DLPack code are what numpy itself has."""
    zeros = np.zeros(3, name)
    view = memoryview(zeros)
    expected = (zeros.itemsize, zeros.__array_interface__["typestr"])
    actual = (DTYPES[name].itemsize, DTYPES[name].typestr)

    assert actual == expected
    assert name_of_format(view.format, view.itemsize) == name
    assert name_of_typestr(DTYPES[name].typestr) == name
    assert foreign_host_array(zeros).dtype == name


def test_every_type_stands_in_the_memory_page():
    """A type that is added has to be added to docs/memory.md."""
    text = (Path(__file__).parents[2] / "docs" / "memory.md").read_text()
    missing = [name for name in DTYPES if f"`{name}`" not in text]

    assert missing == []


@pytest.mark.parametrize("name", OF_ML_DTYPES)
def test_every_pattern_of_a_narrow_float_has_its_value(name):
    """All bit patterns are read as ml_dtypes reads them."""
    bits = np.arange(256 ** DTYPES[name].itemsize, dtype=f"uint{8 * DTYPES[name].itemsize}")
    with np.errstate(invalid="ignore"):  # patterns that are NaN and signal it
        expected = bits.view(getattr(ml_dtypes, name)).astype(np.float64)
    actual = np.array(unpacked(name, memoryview(bits.tobytes())))

    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", OF_NUMPY)
def test_elements_are_numbers_of_python(name):
    """Integers, floats, truth and complex numbers come out as Python has them."""
    values = np.array([0, 1, 1, 0, 1, 1], name).reshape(2, 3)
    expected = values.tolist()
    actual = nested(unpacked(name, memoryview(values.tobytes())), (2, 3))

    assert actual == expected
    assert type(actual[0][0]) is type(expected[0][0])


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (2, 0), (2, 0, 3), (2, 3, 0), (2, 1, 3), (6,)])
def test_lists_have_the_shape_of_the_memory(shape):
    """Axes without elements are kept, as numpy keeps them."""
    values = np.arange(np.prod(shape, dtype=int), dtype=np.int32).reshape(shape)
    expected = values.tolist()
    actual = nested(values.ravel().tolist(), shape)

    assert actual == expected


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (b"1", "uint8"),
        (array.array("f", [1]), "float32"),
        (array.array("l", [1]), "int64"),
        ((ctypes.c_float * 2 * 3)(), "float32"),
        ((ctypes.c_long * 2)(), "int64"),
        ((ctypes.c_char * 2)(), "uint8"),
        (np.zeros(2, "S3"), None),
        (np.zeros(2, "i4,f4"), None),
        (np.zeros(2, ">i4"), None),
        (np.zeros(2, np.longdouble), None),
    ],
)
def test_formats_of_buffers_are_types(obj, expected):
    """The letters of any object with a buffer are understood; structures and others are none."""
    view = memoryview(obj)
    actual = name_of_format(view.format, view.itemsize)

    assert actual == expected
