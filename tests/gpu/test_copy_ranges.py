"""Copies that tables of offsets and sizes describe: one operation, and no loop in Python."""

from __future__ import annotations

import array

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ajit._gpu.columns import pack_copies, pack_ids
from ajit._gpu.wire import SIMPLE
from ajit.errors import ArgumentError
from tests.gpu.support import cpu_device

pytestmark = pytest.mark.usefixtures("no_device_left")

MEMORY = 0x1000, 256


def numbers_of(operation: bytes) -> list[tuple[int, int, int]]:
    """Targets, sources and sizes of packed copies."""
    count = SIMPLE.unpack_from(operation)[2]
    numbers = np.frombuffer(operation, np.uint64, 3 * count, SIMPLE.size).reshape(3, count)
    return [tuple(map(int, column)) for column in numbers.T]


@pytest.mark.anyio
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64])
async def test_ranges_are_copied_as_one_operation(dtype):
    """Whatever type of number the tables have; and the tables may change once it was added."""
    offsets = np.array([96, 0, 64], dtype)
    async with cpu_device() as device:
        source, target = bytes(range(128)), await device.upload(bytes(128))
        async with device.batch() as batch:
            batch.add_copy_ranges(
                target, source, target_offsets=offsets, source_offsets=[0, 32, 64], sizes=32
            )
            offsets[:] = 0
        await batch.ticket

        expected = source[32:64] + bytes(32) + source[64:96] + source[0:32]
        assert expected == bytes(await device.download(target))


def test_neighbours_on_both_sides_become_one_copy():
    """And those that have no bytes are left out."""
    operation = pack_copies(MEMORY, MEMORY, [0, 8, 16, 16, 40], [8, 16, 24, 0, 40], [8, 8, 8, 0, 8])

    expected = [(0x1000, 0x1008, 24), (0x1028, 0x1028, 8)]
    assert expected == numbers_of(operation)
    assert pack_copies(MEMORY, MEMORY, [1, 2], 0, 0) == b""


@given(
    st.permutations(range(16)),
    st.permutations(range(16)),
    st.lists(st.integers(0, 16), max_size=16),
)
def test_packed_copies_move_what_the_tables_say(targets, sources, sizes):
    """Against a model that copies range by range."""
    count = len(sizes)
    into, out_of = ([16 * place for place in side[:count]] for side in (targets, sources))
    expected, actual = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
    data = np.arange(256, dtype=np.uint8)
    for to, since, size in zip(into, out_of, sizes, strict=True):
        expected[to : to + size] = data[since : since + size]
    operation = pack_copies((0, 256), (0, 256), into, out_of, array.array("q", sizes))
    for to, since, size in numbers_of(operation) if operation else []:
        actual[to : to + size] = data[since : since + size]

    assert (expected == actual).all()


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (([0, 249], [0, 0], 8), "range 1 is outside of the target, which has 256 bytes"),
        (([0, 8], [0, -1], 8), "range 1 is outside of the source"),
        (([0], [0], [1 << 63]), "sizes: "),
        (([0, 4], [0, 0], 8), "range 1 overlaps"),
        (([4, 64, 0], [0, 0, 0], 8), "range 0 overlaps"),
        (([0], [0, 1], 8), r"the tables have \[1, 2\] numbers"),
        ((0, 0, 8), "no table has a length"),
        ((np.zeros(2, np.float32), [0, 0], 8), "target_offsets is float32"),
        ((np.zeros((2, 2), np.int32), [0, 0], 8), "one axis"),
        ((["a"], [0], 8), "target_offsets"),
        ((0, [0], -8), "sizes is -8"),
    ],
)
def test_ranges_that_cannot_be_copied_are_refused(tables, says):
    """Outside of either side, on each other in the target, or no tables of numbers."""
    with pytest.raises(ArgumentError, match=says):
        pack_copies(MEMORY, MEMORY, *tables)


@pytest.mark.anyio
async def test_two_sides_on_the_host_are_refused():
    """As for a plain copy."""
    async with cpu_device() as device:
        batch = device.batch()
        with pytest.raises(ArgumentError, match="both sides are host memory"):
            batch.add_copy_ranges(
                bytearray(8), bytes(8), target_offsets=[0], source_offsets=[0], sizes=8
            )
        assert len(batch) == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.integers(-3, 40), max_size=50), st.booleans())
def test_numbers_of_pages_are_packed_or_refused_at_the_first_bad_one(ids, unique):
    """Negative ones are gaps; one that is too large, or comes twice, is named by its place."""
    seen, bad = set(), None
    for place, number in enumerate(ids):
        if bad is None and (number >= 32 or (unique and number in seen)):
            bad = place
        seen |= {number} if number >= 0 else set()
    if bad is not None:
        with pytest.raises(ArgumentError, match=rf"ids\[{bad}\] is"):
            pack_ids(ids, 32, "test", "ids", unique=unique)
        return
    count, filled, packed = pack_ids(ids, 32, "test", "ids", unique=unique)

    assert [max(number, -1) for number in ids] == np.frombuffer(packed, np.int32).tolist()
    assert (count, filled) == (len(ids), sum(number >= 0 for number in ids))
