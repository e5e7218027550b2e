"""Pages: an engine's KV cache on the device, copied to and from chunks on the host."""

from __future__ import annotations

from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from ajit._core.factory import FactoryMade
from ajit._gpu.device import Device
from ajit._gpu.page_map import PageCopy, map_pages
from ajit._gpu.shape import whole_number
from ajit._system.own_task import OwnTask
from ajit.errors import AjitError, ArgumentError, RuntimeClosed, UsageError
from ajit.kv.held import hold_chunks, is_stored, part_of
from ajit.kv.kernels import PagesKernels, PageWay
from ajit.kv.lent import EventPool
from ajit.kv.probe import check_tensors, probe
from ajit.kv.registering import register
from ajit.kv.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from ajit._gpu.completion.ticket import Ticket
    from ajit._gpu.page_map import PageMap, PageRequest
    from ajit._gpu.stream import Stream
    from ajit._runtime.runtime import Runtime
    from ajit.kv.layout import Layout
    from ajit.kv.registering import RegisteredStatistics, RegisteredStore, SlabSource

__all__ = ["Pages", "PagesStatistics", "open_pages"]

LOADS_FIRST = -1
"""Priority of the stream of loads; that of saves is 0. A request waits for its load."""


@dataclass(frozen=True)
class PagesStatistics:
    """What was submitted so far.

    Attributes:
        loads: Requests loaded.
        saves: Requests saved.
        loaded_bytes: To the device.
        saved_bytes: To the host.
        piece_bytes: Of the copies that a page of one layer and plane takes, before neighbours are
            joined.
        by_kernel: How many of the requests a kernel copied.
        ways: What was measured to choose between copies and kernels.
        kernel_problem: Why there are no kernels; empty where there is nothing to tell.
        registered: What the driver knows of the store that the pages were opened with.
    """

    loads: int
    saves: int
    loaded_bytes: int
    saved_bytes: int
    piece_bytes: int
    by_kernel: int = 0
    ways: tuple[PageWay, ...] = ()
    kernel_problem: str = ""
    registered: RegisteredStatistics | None = None


class Pages(metaclass=FactoryMade, factory="async with ajit.kv.open_pages()"):
    """The pages of an engine. Get it with `open_pages`.

    Loads and saves have a stream each, so they run beside each other and beside the engine. What
    must come first is said by ``after``; nothing else is waited for.

    Attributes:
        layout: As it was declared.
        device: Where the pages are.
        count: How many pages there are.
    """

    __slots__ = ("_closed", "_counts", "_events", "_kernels", "_loads", "_map", "_registered",
                 "_saves", "count", "device", "layout")  # fmt: skip

    def __init__(
        self,
        device: Device,
        layout: Layout,
        page_map: PageMap,
        streams: tuple[Stream, Stream],
        registered: RegisteredStore | None,
    ) -> None:
        """Made by `open_pages`."""
        self.device, self.layout, self._map = device, layout, page_map
        self._loads, self._saves = streams
        self.count = page_map.format.pages
        self._events = EventPool(device)
        self._kernels = PagesKernels(device, layout, page_map)
        self._registered = registered
        self._counts = [0, 0, 0, 0]
        self._closed = False

    async def load(
        self,
        chunks: Any,
        blocks: Any,
        *,
        after: Any = None,
        slots: bool = False,
        layers_per_step: int = 1,
        gates: bool = False,
        timeout: float | None = None,
        timed: bool = False,
    ) -> Transfer:
        """Submit the copy of chunks into pages. Waits for room in the queue only.

        Args:
            chunks: A lease or a reservation of a store, which keeps its memory until the device is
                done, whatever is cancelled or released; or `Chunks`, or memory on the host of
                ``layout.chunk_bytes`` bytes, or a list of those, not to be changed before the
                transfer is done. Pinned, if it is to be fast.
            blocks: Numbers of the pages, in the order of the tokens: int32 or int64 in contiguous
                memory on the host (numpy, a tensor on the CPU, `array.array`), or a list. They fill
                the chunks, the last one perhaps in part. With a lease or a reservation they are
                those of the whole prompt from its start, and what its chunks need is taken of them.
                A negative number is a gap: those tokens are not copied. No page may come twice.
                They are copied, and may change afterwards.
            after: What the copies wait for on the device: an event, a ticket, a transfer's
                ``ticket``, or any stream, also one of another library; None: nothing.
            slots: Whether ``blocks`` are slots, one for each token: ``page * page_tokens + place``.
            layers_per_step: How many layers become ready at a time.
            gates: Whether streams can wait for layers, see `Transfer.gate`.
            timeout: Time after which the transfer is overdue; None: as the settings say.
            timed: Whether the device tells how long it worked.

        Raises:
            ArgumentError: A number is no page, or comes twice; chunks are too few, too many, or of
                another size; or memory was freed. Nothing was submitted.
            UsageError: The lease or reservation has ended, or its namespace is of another layout;
                or the prompt's pages are too few for it. Nothing was submitted.
            RuntimeClosed: The pages or the device were closed. Nothing was submitted.
            DeviceLost: The context is unusable. Nothing was submitted.

        Cancelling submits nothing.
        """
        copy = PageCopy(to_host=False, ids=blocks, chunks=chunks, by_slot=slots, after=after)
        return await self._copy(copy, layers_per_step, gates, timeout=timeout, timed=timed)

    async def save(
        self,
        blocks: Any,
        chunks: Any,
        *,
        after: Any = None,
        slots: bool = False,
        layers_per_step: int | None = None,
        gates: bool = False,
        timeout: float | None = None,
        timed: bool = False,
    ) -> Transfer:
        """Submit the copy of pages into chunks. Waits for room in the queue only.

        The chunks hold the pages once the transfer is done, and not before. Takes and raises what
        `load` does, but: a page may come twice, chunks may not overlap, a gap leaves its place in
        the chunk as it is and is refused in a reservation (`UsageError`), and all layers become
        ready together unless ``layers_per_step`` says otherwise. ``after`` has to be what wrote the
        pages, such as the engine's stream.
        """
        per_step = self.layout.layers if layers_per_step is None else layers_per_step
        copy = PageCopy(to_host=True, ids=blocks, chunks=chunks, by_slot=slots, after=after)
        return await self._copy(copy, per_step, gates, timeout=timeout, timed=timed)

    def statistics(self) -> PagesStatistics:
        """Return what was submitted so far."""
        loads, saves, loaded_bytes, saved_bytes = self._counts
        piece_bytes = self._map.format.by_page.piece_bytes
        kernels = self._kernels
        return PagesStatistics(
            loads, saves, loaded_bytes, saved_bytes, piece_bytes,
            kernels.used, tuple(kernels.ways), kernels.problem,
            None if self._registered is None else self._registered.statistics(),
        )  # fmt: skip

    async def wait_for_kernels(self) -> None:
        """Wait until it is known whether kernels serve; at once where they are not asked for.

        For tests and benchmarks: until then the copy engine serves.
        """
        await self._kernels.made.wait()

    async def wait_registered(self) -> None:
        """Wait until the driver knows all slabs that the store has by now; at once without one."""
        if self._registered is not None:
            await self._registered.wait_registered()

    async def _copy(
        self,
        copy: PageCopy,
        layers_per_step: int,
        gates: bool,  # noqa: FBT001  # private
        **how: Any,
    ) -> Transfer:
        if self._closed:
            raise RuntimeClosed("the pages were closed")
        if is_stored(copy.ids):
            raise UsageError("it is load(chunks, blocks) and save(blocks, chunks)")
        step_rows = self._step_rows(layers_per_step)
        if is_stored(copy.chunks):
            copy = replace(copy, ids=self._part_of(copy))
        chunks, hold = hold_chunks(copy.chunks, self.layout, to_host=copy.to_host)
        request: PageRequest | None = None
        try:
            events = await self._gates(step_rows, gates)
            copy = replace(copy, chunks=chunks, keep=hold, step_rows=step_rows, events=events)
            request = self._map.request(copy, self._saves if copy.to_host else self._loads)
            ticket = await self._submit(request, copy, **how)
        except BaseException:
            if hold is not None and not (request is not None and request.submitted):
                hold.release()  # the exception keeps frames, and with them what they refer to
            raise
        if hold is not None:
            hold.follow(ticket)
        layers = self.layout.layers
        return Transfer.make(
            self._map, ticket, copy.events, layers, layers_per_step, request.nbytes
        )

    def _part_of(self, copy: PageCopy) -> Any:
        layout = self.layout
        each = layout.chunk_tokens if copy.by_slot else layout.chunk_pages
        return part_of(copy.ids, copy.chunks, each, to_host=copy.to_host)

    async def _submit(self, request: PageRequest, copy: PageCopy, **how: Any) -> Ticket[None]:
        await self._kernels.take(request, to_host=copy.to_host, by_slot=copy.by_slot)
        ticket = await self.device.submit(request.submit, **how)
        self._counts[copy.to_host] += 1
        self._counts[2 + copy.to_host] += request.nbytes
        return ticket

    def _step_rows(self, layers: int) -> int:
        layers = whole_number("copy pages", "layers_per_step", layers)
        if layers < 1:
            raise ArgumentError(operation="copy pages", detail=f"layers_per_step is {layers}")
        return layers * self.layout.planes

    async def _gates(self, step_rows: int, asked: bool) -> Sequence[Any]:  # noqa: FBT001  # private
        return await self._events.lend(self._map.steps(step_rows)) if asked else ()

    async def _make_kernels(self, runtime: Runtime | None) -> OwnTask[None] | None:
        """Begin to make them, in a task of their own: any task may close the pages."""
        if runtime is None:
            self._kernels.made.set()
            return None
        return await OwnTask.open(partial(self._kernels.making, runtime), name="kernels of pages")

    async def _close(self) -> None:
        """Wait for what was submitted: the engine may free its tensors afterwards."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            for stream in (self._loads, self._saves):
                # A device that is lost or closed does not touch them any more.
                with suppress(AjitError):
                    await stream.synchronize()
                stream.free()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.count} pages"
        return f"<Pages {state} of {self.layout!r}>"


@asynccontextmanager
async def open_pages(
    where: Runtime | Device,
    layout: Layout,
    tensors: Sequence[Any],
    *,
    pages: int | None = None,
    check: bool = True,
    store: SlabSource | None = None,
) -> AsyncGenerator[Pages, None]:
    """Bind a layout to the tensors of an engine.

    Leaving the block waits for transfers in flight; what is submitted later is refused.

    Args:
        where: The runtime on whose device they are. Where pages fall into small pieces, it compiles
            kernels for them in the background. Or only the device: then there are no kernels.
        layout: How they lie in memory.
        tensors: Layer by layer, plane by plane: `DeviceBuffer`, or arrays of other libraries on the
            device (DLPack, ``__cuda_array_interface__``), contiguous.
        pages: How many pages there are; None: as many as the tensors have room for.
        check: Whether to write a pattern into the first and the last page, read it back, and
            restore them. Nothing else may use these pages meanwhile.
        store: Whose memory the driver is to know, see `register`.

    Raises:
        ArgumentError: They are not as declared: another number, type, shape or size; or the pattern
            does not come back, for parts of the layout lie on each other. The pages are as before.
        UsageError: The store belongs to another event loop.
    """
    device = where if isinstance(where, Device) else where.device
    count = check_tensors(layout, tensors, pages)
    page_map = map_pages(device, layout.format(count), tensors)
    if check:
        await probe(device, layout, tensors, count)
    streams = await device.create_stream(priority=LOADS_FIRST), await device.create_stream()
    async with nullcontext() if store is None else register(device, store) as registered:
        opened: Pages = Pages.make(device, layout, page_map, streams, registered)
        making = await opened._make_kernels(None if isinstance(where, Device) else where)  # noqa: SLF001  # the block is its other half
        try:
            yield opened
        finally:
            try:
                if making is not None:
                    await making.aclose_uncancelled()
            finally:
                await opened._close()  # noqa: SLF001  # the same
