"""Kernels for pages in small pieces: compiled in the background, and used where they are faster.

What is faster is measured on this device, with this layout, on memory of its own: the engine may
be at work already. Until then, and wherever a kernel cannot do it, the copy engine serves.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import anyio

from ajit._gpu.host_chunks import Chunks
from ajit._gpu.page_kernel import PageKernel, kernel_spec, launch_shape
from ajit._gpu.page_map import PageCopy, map_pages
from ajit.errors import AjitError
from ajit.kv.lent import TablePool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ajit._gpu.device import Device
    from ajit._gpu.memory import PinnedBuffer
    from ajit._gpu.page_map import PageMap, PageRequest
    from ajit._gpu.stream import Stream
    from ajit._runtime.runtime import Runtime
    from ajit.kv.layout import Layout

__all__ = ["PageWay", "PagesKernels"]

SMALL_BYTES: Final = 64 * 1024
"""Of pieces for which a kernel is tried: twice what others found to be the break-even."""
GAIN: Final = 1.25
"""How much faster a kernel has to be: it takes multiprocessors from the engine. Arbitrary."""
RUNS: Final = 4
"""Of each measurement, the fastest of which counts."""


@dataclass(frozen=True)
class PageWay:
    """What was measured for one direction and one kind of number.

    Attributes:
        to_host: Whether it saves, or loads.
        by_slot: Whether numbers are slots, or pages.
        piece_bytes: Of a copy.
        copy_seconds: A chunk of one layer, by copies of the driver.
        kernel_seconds: The same by the kernel.
    """

    to_host: bool
    by_slot: bool
    piece_bytes: int
    copy_seconds: float
    kernel_seconds: float

    @property
    def by_kernel(self) -> bool:
        """Whether requests go by the kernel from then on."""
        return self.kernel_seconds * GAIN < self.copy_seconds


class PagesKernels:
    """The kernels of some pages.

    Attributes:
        ways: What was measured so far.
        problem: Why there are no kernels; empty: there are, or they are not ready yet.
        used: Requests that went by a kernel.
        made: Set when no more kernels are being made.
    """

    def __init__(self, device: Device, layout: Layout, page_map: PageMap) -> None:
        self._device, self._layout, self._map = device, layout, page_map
        self._kernels: dict[tuple[bool, bool], PageKernel] = {}
        self._tables = TablePool(device)
        self.ways: list[PageWay] = []
        self.problem = ""
        self.used = 0
        self.made = anyio.Event()

    async def take(self, request: PageRequest, *, to_host: bool, by_slot: bool) -> None:
        """Let a kernel do a request, if there is one, and it can."""
        kernel = self._kernels.get((to_host, by_slot))
        if kernel is None or not request.suits(kernel):
            return
        table = await self._tables.lend(request.table_bytes)
        request.use(kernel, table.buffer, table)
        self.used += 1

    @asynccontextmanager
    async def making(self, runtime: Runtime) -> AsyncGenerator[None, None]:
        """Make them while the block is open."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.make, runtime)
            yield
            tasks.cancel_scope.cancel()

    async def make(self, runtime: Runtime) -> None:
        """Compile and measure all; what fails is told by `problem`, and the copy engine serves."""
        try:
            for by_slot in (False, True):
                for to_host in (False, True):
                    await self._make_one(runtime, to_host=to_host, by_slot=by_slot)
        except AjitError as error:
            self.problem = str(error)
        finally:
            self.made.set()

    async def _make_one(self, runtime: Runtime, *, to_host: bool, by_slot: bool) -> None:
        if self._map.format.beside is not None:
            self.problem = "a layout with scales is copied without a kernel"
            return
        form = self._map.format.by_slot if by_slot else self._map.format.by_page
        if form.piece_bytes >= SMALL_BYTES:
            return
        word_bytes = self._map.word_bytes
        found = await runtime.kernel(kernel_spec(form, word_bytes, to_host=to_host))
        kernel = PageKernel(found, word_bytes, *launch_shape(form, word_bytes, self._device.kind))
        measuring = Measuring(self._device, self._layout, self._tables)
        by_copies, by_kernel = await measuring.run(kernel, to_host=to_host, by_slot=by_slot)
        way = PageWay(to_host, by_slot, form.piece_bytes, by_copies, by_kernel)
        self.ways.append(way)
        if way.by_kernel:
            self._kernels[to_host, by_slot] = kernel


class Measuring:
    """Both ways, for a chunk of one layer, on memory that nothing else uses."""

    def __init__(self, device: Device, layout: Layout, tables: TablePool) -> None:
        self._device, self._tables = device, tables
        self._layout = replace(layout, layers=1)

    async def run(self, kernel: PageKernel, *, to_host: bool, by_slot: bool) -> tuple[float, float]:
        """Return how many seconds the device takes by copies, and by the kernel."""
        device, layout = self._device, self._layout
        pages = layout.chunk_pages
        stream = await device.create_stream()
        size = layout.tensor_bytes(pages)
        tensors = [await device.alloc(size) for _ in range(layout.tensors)]
        chunk = await device.alloc_pinned(layout.chunk_bytes)
        page_map = map_pages(device, layout.format(pages), tensors)
        try:
            copy = _backwards(pages * layout.page_tokens if by_slot else pages, chunk)
            copy = replace(copy, to_host=to_host, by_slot=by_slot)
            return (
                await self._seconds(page_map, copy, stream, None),
                await self._seconds(page_map, copy, stream, kernel),
            )
        finally:
            for memory in (*tensors, chunk):
                memory.free()
            with suppress(AjitError):
                stream.free()

    async def _seconds(
        self, page_map: PageMap, copy: PageCopy, stream: Stream, kernel: PageKernel | None
    ) -> float:
        fastest = float("inf")
        for _ in range(RUNS):
            request = page_map.request(copy, stream)
            if kernel is not None:
                table = await self._tables.lend(request.table_bytes)
                request.use(kernel, table.buffer, table)
            ticket = await self._device.submit(request.submit, timed=True)
            await ticket
            fastest = min(fastest, ticket.device_seconds or float("inf"))
        return fastest


def _backwards(count: int, chunk: PinnedBuffer) -> PageCopy:
    """All numbers, none of them a neighbour of the one before it."""
    return PageCopy(to_host=False, ids=range(count - 1, -1, -1), chunks=Chunks(chunk, [0]))
