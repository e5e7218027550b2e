"""The page operation: copies of pages that tables describe, expanded on the CUDA thread."""

from __future__ import annotations

import anyio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ajit._gpu.host_chunks import Chunks
from ajit._gpu.page_format import PageFormat, PageIds, PageRow
from ajit._gpu.page_map import PageCopy, map_pages
from ajit.errors import ArgumentError, CaptureMiss, DeviceError, TicketTimeout, UsageError
from tests.gpu.support import GRACE_SECONDS, cpu_device, kernels

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

INVALID_VALUE, NOT_SUPPORTED, ILLEGAL_ADDRESS = 1, 801, 700
PIECES = 4096
"""That the driver is given at once (table.def)."""


def format_of(pages, *, rows=2, page_bytes=32, chunk_ids=4, gap=0):
    """Rows in one memory, one behind the other, with a gap behind each page."""
    stride = page_bytes + gap
    places = [PageRow(0, row * pages * stride, stride, row * chunk_ids * page_bytes)
              for row in range(rows)]  # fmt: skip
    none = ((1, 0, 0), (1, 0, 0))
    by_page = PageIds(pages, chunk_ids, page_bytes, none, page_bytes)
    # A page is two slots, for the slot form.
    half = page_bytes // 2
    by_slot = PageIds(2 * pages, 2 * chunk_ids, half, none, half, 2, half)
    return PageFormat(tuple(places), pages, rows * chunk_ids * page_bytes, by_page, by_slot)


def copied(format_, ids, device, chunks, *, to_host, by_slot=False):
    """The model: what a request makes of the bytes of both sides, page by page."""
    form = format_.by_slot if by_slot else format_.by_page
    for row in format_.rows:
        for place, number in enumerate(ids):
            if number < 0:
                continue
            page, part = divmod(number, form.split)
            there = row.offset_bytes + page * row.page_bytes + part * form.split_bytes
            chunk, index = divmod(place, form.chunk_ids)
            here = chunk * format_.chunk_bytes + row.chunk_offset_bytes + index * form.id_bytes
            size = form.piece_bytes
            if to_host:
                chunks[here : here + size] = device[there : there + size]
            else:
                device[there : there + size] = chunks[here : here + size]


def saving(ids, chunks, **how):
    """A request from pages to chunks."""
    return PageCopy(to_host=True, ids=ids, chunks=chunks, **how)


def loading(ids, chunks, **how):
    """A request from chunks to pages."""
    return PageCopy(to_host=False, ids=ids, chunks=chunks, **how)


async def perform(device, page_map, copy, **how):
    """Submit a request and wait for it."""
    await (await device.submit(page_map.request(copy).submit, **how))


@st.composite
def requests(draw):
    """A format, a direction, whether numbers are slots, and numbers, some of them gaps."""
    pages, rows = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    format_ = format_of(pages, rows=rows, gap=draw(st.sampled_from([0, 8])))
    to_host, by_slot = draw(st.booleans()), draw(st.booleans())
    form = format_.by_slot if by_slot else format_.by_page
    order = draw(st.permutations(range(form.limit)))
    gaps = draw(st.sets(st.integers(0, form.limit - 1), max_size=3))
    ids = [-1 if place in gaps else number for place, number in enumerate(order)]
    return format_, to_host, by_slot, ids[: draw(st.integers(1, form.limit))]


@given(requests())
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_pages_are_copied_as_the_tables_say(request_):
    """Both directions, gaps in memory and in the numbers, chunks in part, pages and slots."""
    format_, to_host, by_slot, ids = request_
    form = format_.by_slot if by_slot else format_.by_page
    count = -(-len(ids) // form.chunk_ids)
    memory = np.random.default_rng(7).integers(0, 256, 3 * format_.pages * 40, np.uint8)
    chunks = np.random.default_rng(8).integers(0, 256, count * format_.chunk_bytes, np.uint8)
    expected = memory.copy(), chunks.copy()
    copied(format_, ids, *expected, to_host=to_host, by_slot=by_slot)
    async with cpu_device() as device:
        buffer, pinned = await device.upload(memory), await device.alloc_pinned(chunks.size)
        pinned.view().data[:] = chunks.tobytes()
        offsets = [index * format_.chunk_bytes for index in range(count)]
        copy = (saving if to_host else loading)(ids, Chunks(pinned, offsets), by_slot=by_slot)
        await perform(device, map_pages(device, format_, [buffer]), copy)

        assert expected[0].tobytes() == bytes(await device.download(buffer))
        assert expected[1].tobytes() == bytes(pinned.view())


@pytest.mark.parametrize("supported", [True, False])
async def test_more_pages_than_the_driver_takes_at_once(faults, supported):
    """They go in bounded numbers, in one submission; also where the driver has no batches."""
    if not supported:
        faults.inject("cuMemcpyBatchAsync_v2", NOT_SUPPORTED, count=100)
    pages = 2 * PIECES + 100
    format_ = format_of(pages, rows=1, page_bytes=2, chunk_ids=pages)
    data = np.arange(pages, dtype=np.uint16)
    backwards = np.arange(pages - 1, -1, -1, dtype=np.int32)  # no two are neighbours
    async with cpu_device() as device:
        buffer, pinned = (
            await device.upload(data.view(np.uint8)),
            await device.alloc_pinned(2 * pages),
        )
        before = device.statistics()
        await perform(device, map_pages(device, format_, [buffer]), saving(backwards, [pinned]))
        after = device.statistics()

        assert (np.asarray(pinned.view()).view(np.uint16) == data[::-1]).all()
        assert after.dispatched == before.dispatched + 1
        assert after.copies == before.copies + pages


async def test_neighbours_on_both_sides_become_one_copy():
    """Pages that follow each other, in a chunk too, cost one copy and not one each."""
    format_ = format_of(8, rows=1, chunk_ids=8)
    async with cpu_device() as device:
        buffer, pinned = await device.upload(bytes(range(256))), await device.alloc_pinned(256)
        page_map, before = map_pages(device, format_, [buffer]), device.statistics().copies
        await perform(device, page_map, saving([0, 1, 2, 5, 6, -1, 7], [pinned]))

        assert device.statistics().copies == before + 3


async def test_steps_become_ready_one_by_one_and_streams_can_wait_for_them(faults):
    """The first rows are there while later ones are still on their way."""
    format_ = format_of(4, rows=4)
    async with cpu_device() as device:
        buffer, pinned = await device.alloc(4 * 4 * 32), await device.alloc_pinned(512)
        pinned.view().data[:] = bytes([9]) * 512
        copying, computing = await device.create_stream(), await device.create_stream()
        events = [await device.create_event(timing=False) for _ in range(2)]
        page_map = map_pages(device, format_, [buffer])
        copy = loading([3, 1, 0, 2], [pinned], step_rows=2, events=events)
        with faults.held():
            ticket = page_map.request(copy, copying).submit()
            assert not ticket.at(0).done
            page_map.hold(computing, events[0])
            gated = device.fill(buffer[0:128], 1, stream=computing)
            assert not gated.done
        with anyio.fail_after(GRACE_SECONDS):
            await ticket.at(0)
            await gated
            await ticket.at(1)
            await ticket
        with pytest.raises(IndexError):
            ticket.at(2)

        assert bytes(await device.download(buffer)) == bytes([1]) * 128 + bytes([9]) * 384


@pytest.mark.parametrize("after", ["event", "ticket", "stream"])
async def test_pages_wait_for_what_wrote_them(faults, after):
    """A save comes after the work of another stream, in the same submission."""
    async with cpu_device() as device:
        buffer, pinned = await device.upload(bytes(256)), await device.alloc_pinned(256)
        computing, copying = await device.create_stream(), await device.create_stream()
        event = await device.create_event(timing=False)
        faults.inject("device:memset", delay=0.2)
        ticket = device.fill(buffer, 7, stream=computing)
        event.record(computing)
        what = {"event": event, "ticket": ticket, "stream": computing}[after]
        page_map = map_pages(device, format_of(4), [buffer])
        await page_map.request(saving([0, 1, 2, 3], [pinned], after=what), copying).submit()

        assert bytes(pinned.view()) == bytes([7]) * 256


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([0, 1, 4], r"blocks\[2\] is not below 4"),
        ([0, 1, 1], r"blocks\[2\] is 1, which is there already"),
        ([0, 1, 2, 3, -1], "5 ids for 1 chunks of 4 each"),
        ([], "0 ids for 1 chunks"),
        (7, "no list of numbers"),
        ("0", "a str: it has no usable buffer"),
    ],
)
async def test_numbers_that_are_no_pages_are_refused(ids, says):
    """Before anything is submitted."""
    async with cpu_device() as device:
        buffer, pinned = await device.alloc(256), await device.alloc_pinned(256)
        page_map, before = map_pages(device, format_of(4), [buffer]), device.statistics().dispatched
        with pytest.raises(ArgumentError, match=says):
            page_map.request(loading(ids, [pinned]))
        await device.synchronize()

        assert device.statistics().dispatched == before + 1


async def test_chunks_that_do_not_fit_are_refused():
    """Too small, outside, on the device, read-only, or on each other where they are written to."""
    async with cpu_device() as device:
        buffer, pinned = await device.alloc(256), await device.alloc_pinned(1024)
        page_map = map_pages(device, format_of(4), [buffer])
        ids = [0, 1, 2, 3, -1]
        for chunks, says in [
            ([bytearray(256), bytearray(255)], "chunk 1 has 255 bytes, not 256"),
            (Chunks(pinned, [0, 769]), "outside"),
            (Chunks(pinned, [-1, 256]), "outside"),
            (Chunks(pinned, ["a"]), "offsets of chunks"),
            (Chunks(pinned, [0, 255]), "overlap"),
            ([buffer, buffer], "device memory"),
            ([bytes(256), bytes(256)], "read-only"),
        ]:
            with pytest.raises(ArgumentError, match=says):
                page_map.request(saving(ids, chunks))
        page_map.request(loading(ids, Chunks(pinned, [0, 255])))  # it only reads


async def test_a_format_that_reaches_out_of_memory_is_refused():
    """No number of a page can reach what is not there."""
    async with cpu_device() as device:
        with pytest.raises(
            ArgumentError, match="row 1 ends at byte 256 of memory 0, which has 255"
        ):
            map_pages(device, format_of(4), [await device.alloc(255)])


async def test_memory_freed_meanwhile_is_refused_and_memory_in_flight_is_kept(faults):
    """A request that was packed names no freed memory; a ticket keeps what it copies."""
    async with cpu_device() as device:
        buffer, pinned = await device.upload(bytes(range(256))), await device.alloc_pinned(256)
        page_map = map_pages(device, format_of(4), [buffer])
        copy = saving([0, 1, 2, 3], [pinned])
        host = pinned.view()
        with faults.held():
            ticket = page_map.request(copy).submit()
            request = page_map.request(copy)
            buffer.free()
            pinned.free()
            for _ in range(3):
                device.mark()
            with pytest.raises(ArgumentError, match="freed"):
                request.submit()
            with pytest.raises(ArgumentError, match="freed"):
                page_map.request(copy)
        await ticket
        del host


async def test_tables_may_change_once_a_request_was_packed(faults):
    """Engines use their page tables again at once (TensorRT-LLM #15546)."""
    async with cpu_device() as device:
        buffer, pinned = await device.upload(bytes(range(256))), await device.alloc_pinned(256)
        ids, offsets = np.array([3, 2, 1, 0], np.int32), [0]
        page_map = map_pages(device, format_of(4, rows=1), [buffer])
        with faults.held():
            ticket = page_map.request(saving(ids, Chunks(pinned, offsets))).submit()
            ids[:], offsets[0] = 0, 999
        await ticket

        expected = b"".join(bytes(range(page * 32, page * 32 + 32)) for page in (3, 2, 1, 0))
        assert expected == bytes(pinned.view())[:128]


async def test_a_refusal_after_a_part_was_accepted_ends_with_that_part(faults):
    """The ticket fails only when the device is done with what it was given before."""
    pages = PIECES + 1
    format_ = format_of(pages, rows=2, page_bytes=2, chunk_ids=pages)
    backwards = np.arange(pages - 1, -1, -1, dtype=np.int32)
    async with cpu_device() as device:
        buffer, pinned = await device.alloc(4 * pages), await device.alloc_pinned(4 * pages)
        page_map = map_pages(device, format_, [buffer])
        faults.inject("cuEventRecord", INVALID_VALUE)
        events = [await device.create_event(timing=False) for _ in range(2)]
        copy = saving(backwards, [pinned], step_rows=1, events=events)
        with faults.held():
            ticket = page_map.request(copy).submit()
            with anyio.move_on_after(0.05):
                await ticket

            assert not ticket.done
        with pytest.raises(DeviceError, match="save pages"):
            await ticket
        with pytest.raises(DeviceError, match="save pages"):
            await ticket.at(1)


async def test_a_lost_device_fails_the_ticket_and_its_steps(faults):
    """With the driver's code, as for any other work."""
    async with cpu_device() as device:
        buffer, pinned = await device.alloc(256), await device.alloc_pinned(256)
        page_map = map_pages(device, format_of(4), [buffer])
        faults.inject("device:copy", ILLEGAL_ADDRESS)
        ticket = page_map.request(saving([0], [pinned], step_rows=1)).submit()
        with pytest.raises(Exception, match="ILLEGAL_ADDRESS"):
            await ticket
        with pytest.raises(Exception, match="ILLEGAL_ADDRESS"):
            await ticket.at(1)


async def test_a_cancelled_wait_only_leaves(faults):
    """The copies go on, and other tasks still wait for them."""
    async with cpu_device() as device:
        buffer, pinned = await device.upload(bytes(range(256))), await device.alloc_pinned(128)
        page_map = map_pages(device, format_of(4, rows=1), [buffer])
        with faults.held():
            ticket = page_map.request(saving([0, 1], [pinned], step_rows=1)).submit()
            for waiting in (ticket, ticket.at(0)):
                with anyio.move_on_after(0.01) as scope:
                    await waiting
                assert scope.cancelled_caught
        await ticket.at(0)
        await ticket

        assert bytes(pinned.view())[:64] == bytes(range(64))


async def test_a_request_has_a_timeout(faults):
    """As every ticket."""
    async with cpu_device() as device:
        buffer, pinned = await device.alloc(256), await device.alloc_pinned(256)
        page_map = map_pages(device, format_of(4), [buffer])
        with faults.held():
            ticket = page_map.request(saving([0], [pinned])).submit(timeout=0.05)
            with anyio.fail_after(GRACE_SECONDS), pytest.raises(TicketTimeout):
                await ticket


async def test_nothing_is_copied_in_a_block_that_captures():
    """It would run at once there, and not be recorded."""
    async with cpu_device() as device:
        buffer, pinned = await device.alloc(256), await device.alloc_pinned(256)
        request = map_pages(device, format_of(4), [buffer]).request(saving([0], [pinned]))
        nothing = (await kernels(device))("nothing")
        async with device.capture() as graph:
            graph.add_launch(nothing, 1, 1)
            with pytest.raises((UsageError, CaptureMiss)):
                request.submit()
