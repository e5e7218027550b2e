"""Where pages lie: strides on the device and in a chunk. Numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["PageFormat", "PageIds", "PageRow"]


class PageRow(NamedTuple):
    """What one layer has of one plane, such as its keys, in all pages.

    Attributes:
        memory: Index of the device memory that it lies in.
        offset_bytes: Of page 0 in that.
        page_bytes: From one page to the next.
        chunk_offset_bytes: Of the row in a chunk.
    """

    memory: int
    offset_bytes: int
    page_bytes: int
    chunk_offset_bytes: int


class PageIds(NamedTuple):
    """What a number stands for: a page, or a token's place in one.

    Attributes:
        limit: Numbers are below this.
        chunk_ids: How many a chunk has room for.
        id_bytes: From one to the next, in a row of a chunk.
        axes: What one stands for, in pieces: two axes of (count, bytes to the next on the device,
            bytes to the next in the chunk), the outer one first.
        piece_bytes: Of a piece, contiguous on both sides.
        split: How many numbers a page has.
        split_bytes: On the device, from one number of a page to the next.
    """

    limit: int
    chunk_ids: int
    id_bytes: int
    axes: tuple[tuple[int, int, int], tuple[int, int, int]]
    piece_bytes: int
    split: int = 1
    split_bytes: int = 0

    @property
    def steps(self) -> tuple[int, ...]:
        """All distances between pieces, and the size of one."""
        strides = (stride for _, *both in self.axes for stride in both)
        return (self.id_bytes, self.split_bytes, self.piece_bytes, *strides)

    @property
    def nbytes(self) -> int:
        """What a number stands for, in one row."""
        return self.axes[0][0] * self.axes[1][0] * self.piece_bytes

    @property
    def device_span_bytes(self) -> int:
        """From the first byte to the last that all numbers of one page reach."""
        steps = ((self.split, self.split_bytes), *((count, there) for count, there, _ in self.axes))
        return sum((count - 1) * step for count, step in steps) + self.piece_bytes

    @property
    def chunk_span_bytes(self) -> int:
        """The same in a row of a chunk, for all numbers of the chunk."""
        steps = ((self.chunk_ids, self.id_bytes), *((count, here) for count, _, here in self.axes))
        return sum((count - 1) * step for count, step in steps) + self.piece_bytes


@dataclass(frozen=True)
class PageFormat:
    """Where pages lie.

    Attributes:
        rows: Layer by layer.
        pages: How many there are in each row.
        chunk_bytes: Size of a chunk.
        by_page: Numbers that are pages.
        by_slot: Numbers that are tokens: ``page * tokens + place``.
        beside: What lies in the same pages and chunks in rows of another size, such as scales; it
            is copied before the rows, and has no steps.
    """

    rows: tuple[PageRow, ...]
    pages: int
    chunk_bytes: int
    by_page: PageIds
    by_slot: PageIds
    beside: PageFormat | None = None

    @property
    def parts(self) -> tuple[PageFormat, ...]:
        """What is copied one after the other, the rows with the steps last."""
        return (self,) if self.beside is None else (self.beside, self)

    def fault(self, sizes: tuple[int, ...]) -> str:
        """Return why memories of these sizes in bytes do not do, or an empty text."""
        if self.beside is not None and (fault := self.beside.fault(sizes)):
            return fault
        device = max(self.by_page.device_span_bytes, self.by_slot.device_span_bytes)
        chunk = max(self.by_page.chunk_span_bytes, self.by_slot.chunk_span_bytes)
        if self.pages < 1 or not self.rows:
            return "there are no pages"
        for index, row in enumerate(self.rows):
            end = row.offset_bytes + (self.pages - 1) * row.page_bytes + device
            if end > sizes[row.memory]:
                return (
                    f"row {index} ends at byte {end} of memory {row.memory}, which has "
                    f"{sizes[row.memory]}"
                )
            if row.chunk_offset_bytes + chunk > self.chunk_bytes:
                return f"row {index} does not fit into a chunk of {self.chunk_bytes} bytes"
        return ""
