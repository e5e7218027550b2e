"""Pages on the device and chunks on the host: one submission copies all of a request.

The strides are packed once. A request adds the numbers of its pages and the addresses of its
chunks; the executor makes the copies of it on the CUDA thread, so the event loop does nothing for a
page but copy its number.

Owned by the loop's thread.
"""

from __future__ import annotations

import array
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ajit._core.factory import FactoryMade
from ajit._gpu import wire
from ajit._gpu.capturing import refuse_to_submit
from ajit._gpu.columns import pack_ids
from ajit._gpu.completion.state import BatchSteps
from ajit._gpu.host_chunks import HostChunks
from ajit._gpu.inner import inner
from ajit._gpu.operand import Operand, copy_operation, is_freed, mark_used
from ajit._gpu.stream import stream_target, wait_operation
from ajit.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit._gpu.completion.port import CompletionPort
    from ajit._gpu.completion.state import TicketState
    from ajit._gpu.completion.ticket import Ticket
    from ajit._gpu.device import Device
    from ajit._gpu.memory import DeviceBuffer
    from ajit._gpu.page_format import PageFormat, PageIds
    from ajit._gpu.page_kernel import PageKernel
    from ajit._gpu.stream import Event

__all__ = ["PageCopy", "PageMap", "PageRequest", "map_pages"]

MAX_WORD_BYTES = 16
"""Of one access by a thread of a GPU."""
_CALLED = "copy pages"


@dataclass(frozen=True, kw_only=True)
class PageCopy:
    """One request: which pages, which chunks, and in which steps.

    Attributes:
        to_host: The direction; or to the device.
        ids: Numbers of pages, or of slots, in the order of the chunks: int32 or int64 in contiguous
            memory on the host, or a list. A negative one is a gap: nothing is copied for it.
        chunks: `Chunks`, or memory on the host, or several of those. The last may be in part.
        by_slot: Whether the numbers are slots: ``page * tokens + place``.
        step_rows: After how many rows a step is told; 0: never.
        events: One for each step, recorded when it is done; or none.
        after: What all of it waits for on the device: an event, a ticket, or any stream.
        keep: Whatever else the ticket keeps until the device is done.
    """

    to_host: bool
    ids: Any
    chunks: Any
    by_slot: bool = False
    step_rows: int = 0
    events: Sequence[Event] = ()
    after: Any = None
    keep: object = None


class PageMap(metaclass=FactoryMade, factory="map_pages()"):
    """Copies pages between device memory and chunks on the host. Get it with `map_pages`.

    Attributes:
        format: Where the pages lie.
        memories: That they lie in.
        tables: Addresses, strides and offsets of the rows of each part, packed.
        word_bytes: The largest word, up to 16 bytes, that all addresses on the device and all steps
            on both sides are multiples of.
    """

    __slots__ = ("_port", "format", "memories", "tables", "word_bytes")

    def __init__(self, port: CompletionPort, format_: PageFormat, memories: Sequence[Any]) -> None:
        """Made by `map_pages`."""
        self._port, self.format = port, format_
        found = [
            Operand(memory, port.thread, 0, writable=True, operation=_CALLED)
            for memory in memories
        ]  # fmt: skip
        if fault := format_.fault(tuple(memory.nbytes for memory in found)):
            raise ArgumentError(operation="map pages", detail=fault)
        self.memories = tuple(memory.owner for memory in found)
        addresses = [memory.address for memory in found]
        numbers = [_numbers(part, addresses) for part in format_.parts]
        self.tables = tuple(array.array("Q", each).tobytes() for each in numbers)
        self.word_bytes = math.gcd(MAX_WORD_BYTES, *numbers[-1], *format_.by_page.steps,
                                   *format_.by_slot.steps)  # fmt: skip

    def request(self, copy: PageCopy, stream: object = None) -> PageRequest:
        """Check a request and pack it. Tables are copied, so they may change afterwards.

        Args:
            copy: The request.
            stream: Where it will be submitted to: any stream, see `Kernel.launch`; None takes the
                device's own.

        Raises:
            ArgumentError: A number is too large, or comes twice where pages are written to; the
                chunks are too few, too many, too small, or overlap; or memory was freed.
        """
        self._port.check_open()
        return PageRequest(self._port, self, copy, stream)

    def hold(self, stream: object, event: Event) -> Ticket[None]:
        """Let any stream wait on the device for an event that was submitted; see `Stream.wait`."""
        operation, keep = wait_operation(event, self._port.thread)
        state: TicketState[None] = self._port.new_state(f"wait for {event!r}", (keep, stream))
        target = stream_target(stream, self._port.thread)
        return self._port.submit_operations(operation, state, target=target)

    def steps(self, step_rows: int) -> int:
        """Return how many steps a request has, with so many rows in each."""
        return -(-len(self.format.rows) // step_rows)

    def form(self, copy: PageCopy) -> PageIds:
        """Return what the numbers of a request stand for."""
        return _form(self.format, copy)

    def __repr__(self) -> str:
        return f"<PageMap of {self.format.pages} pages in {len(self.format.rows)} rows>"


class PageRequest:
    """A request that is packed, to be submitted once: as copies, or as launches of a kernel.

    Attributes:
        nbytes: How much it copies.
        submitted: Whether the CUDA thread has it.
    """

    __slots__ = ("_chunks", "_copies", "_copy", "_count", "_first", "_ids", "_keep", "_kernel",
                 "_launches", "_map", "_port", "_stream", "_target", "nbytes",
                 "submitted")  # fmt: skip

    def __init__(
        self, port: CompletionPort, page_map: PageMap, copy: PageCopy, stream: object
    ) -> None:
        """Made by `PageMap.request`."""
        self._port, self._map, self._copy, self._stream = port, page_map, copy, stream
        self._target = stream_target(stream, port.thread)
        lane, format_, form = self._target[1], page_map.format, page_map.form(copy)
        self._chunks = HostChunks(
            copy.chunks, format_.chunk_bytes, port.thread, lane, writable=copy.to_host
        )
        unique = not copy.to_host
        self._count, filled, self._ids = pack_ids(
            copy.ids, form.limit, _CALLED, "blocks", unique=unique
        )
        self._check_counts(form)
        self.nbytes = filled * sum(
            len(part.rows) * _form(part, copy).nbytes for part in format_.parts
        )
        self._first, after = [], None
        if copy.after is not None:
            first, after = wait_operation(copy.after, port.thread)
            self._first.append(first)
        self._kernel: PageKernel | None = None
        self._launches: list[bytes] = []
        # What may be freed by hand, and what else the ticket keeps.
        memories: tuple[object, ...] = (*self._chunks.keep, *page_map.memories)
        others: tuple[object, ...] = (copy.events, after, stream, copy.keep)
        self._keep = memories, others
        self._copies = [
            self._as_copies(part, tables)
            for part, tables in zip(format_.parts, page_map.tables, strict=True)
        ]
        self.submitted = False

    def _check_counts(self, form: PageIds) -> None:
        count, chunks, copy = self._count, self._chunks.count, self._copy
        if not (chunks - 1) * form.chunk_ids < count <= chunks * form.chunk_ids:
            detail = f"{count} ids for {chunks} chunks of {form.chunk_ids} each"
            raise ArgumentError(operation=_CALLED, detail=detail)
        if copy.events and len(copy.events) != self._map.steps(copy.step_rows):
            raise ArgumentError(operation=_CALLED, detail="there is not one event for each step")

    def _as_copies(self, part: PageFormat, tables: bytes) -> bytes:
        """A part of the request as one operation, which the executor makes copies of."""
        copy, form, rows = self._copy, _form(part, self._copy), len(part.rows)
        last = part is self._map.format
        told, step_rows = (copy.events, copy.step_rows) if last else ((), 0)
        events = array.array("Q", [event.handle for event in told]).tobytes()
        body = tables + self._chunks.packed + events + self._ids
        body += bytes(-len(body) % 16)  # an operation's size is a multiple of 16
        outer, inside = form.axes
        header = wire.PAGES_LAYOUT.pack(
            wire.PAGES, wire.PAGES_LAYOUT.size + len(body), copy.to_host, rows, self._count,
            self._chunks.count, len(told), form.chunk_ids, form.id_bytes, form.split,
            form.split_bytes, outer[0], inside[0], outer[1], inside[1], outer[2], inside[2],
            form.piece_bytes, step_rows,
        )  # fmt: skip
        return header + body

    # --- by a kernel ----------------------------------------------------------------------------

    @property
    def table_bytes(self) -> int:
        """What a kernel's tables take on the device."""
        return len(self._map.tables[-1]) + len(self._chunks.packed) + len(self._ids)

    def suits(self, kernel: PageKernel) -> bool:
        """Whether a kernel can do it: chunks that it reaches and whose addresses it can use."""
        if kernel.kernel.module.unloaded or self._map.format.beside is not None:
            return False
        return bool(self.nbytes) and self._chunks.reached_by(kernel.word_bytes)

    def use(self, kernel: PageKernel, table: DeviceBuffer, keep: object) -> None:
        """Let a kernel do it, by tables that are copied to device memory first.

        Args:
            kernel: That suits.
            table: At least `table_bytes` bytes, which nothing else uses until the ticket is done.
            keep: What is let go with the ticket.
        """
        copy, rows = self._copy, len(self._map.format.rows)
        packed = self._map.tables[-1] + self._chunks.packed + self._ids
        into, kept = copy_operation(
            table[: len(packed)], packed, self._port.thread, self._target[1]
        )
        self._launches = [into]
        step_rows = copy.step_rows or rows
        for step, first in enumerate(range(0, rows, step_rows)):
            part = range(first, min(first + step_rows, rows))
            counts = (rows, self._chunks.count, self._count)
            self._launches.append(kernel.operation(table, *counts, part))
            if copy.events:
                self._launches.append(wire.simple(wire.RECORD_EVENT, copy.events[step].handle))
            if copy.step_rows:
                self._launches.append(wire.simple(wire.STEP, step))
        memories, others = self._keep
        self._keep = (*memories, table), (*others, kernel, kept, keep)
        self._kernel = kernel

    def submit(self, *, timeout: float | None = None, timed: bool = False) -> Ticket[None]:
        """Submit it. The ticket keeps the memory of both sides until the device is done.

        Args:
            timeout: Time after which the ticket is overdue; None: as the settings say.
            timed: Whether the device tells how long it worked, see `Kernel.launch`.

        Returns:
            The ticket; with steps, for ``ticket.at(index)``.

        Raises:
            ArgumentError: Memory of either side was freed. Nothing was submitted.
            WouldBlock: Too many submissions wait for the CUDA thread. Nothing was submitted.
        """
        port = self._port
        refuse_to_submit(_CALLED)
        memories, _ = self._keep
        if self._kernel is not None and self._kernel.kernel.module.unloaded:
            raise inner(self._kernel.kernel.module).unloaded_error()
        if any(map(is_freed, memories)):
            raise ArgumentError(operation=_CALLED, detail="memory of a page or chunk was freed")
        mark_used(memories, self._target[1])
        way = "save" if self._copy.to_host else "load"
        named = f"{way} pages, {self.nbytes} bytes"
        state: TicketState[None] = port.new_state(named, self._keep)
        state.stream = self._stream
        if self._copy.step_rows:
            state.steps = BatchSteps(self._map.steps(self._copy.step_rows))
        # Memory of a chunk may have been given back meanwhile: a kernel must not touch it.
        by_kernel = self._kernel is not None and self.suits(self._kernel)
        operations = [*self._first, *(self._launches if by_kernel else self._copies)]
        ticket = port.submit_operations(
            b"".join(operations), state, count=len(operations), target=self._target,
            timeout=timeout, timed=timed,
        )  # fmt: skip
        self.submitted = True
        return ticket


def _form(part: PageFormat, copy: PageCopy) -> PageIds:
    return part.by_slot if copy.by_slot else part.by_page


def _numbers(part: PageFormat, addresses: list[int]) -> list[int]:
    """Addresses of the rows, what lies between two pages of each, and where they are in a chunk."""
    rows = part.rows
    numbers = [addresses[row.memory] + row.offset_bytes for row in rows]
    numbers += [row.page_bytes for row in rows]
    return numbers + [row.chunk_offset_bytes for row in rows]


def map_pages(device: Device, format_: PageFormat, memories: Sequence[Any]) -> PageMap:
    """Return what copies pages between a device and chunks on the host.

    Args:
        device: Where the pages are.
        format_: Where they lie, in the memories and in a chunk.
        memories: Device memory, as `Device.copy` takes it.

    Raises:
        ArgumentError: A memory cannot be used, or is too small for the format.
    """
    return PageMap.make(device._port, format_, memories)  # noqa: SLF001  # one package
