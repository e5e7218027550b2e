"""Whether tensors are what a layout says: by what they tell, and by a pattern that is written.

A layout that does not fit copies wrong bytes without an error. What can be seen is checked when
pages are opened, before a request depends on it.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio

from ajit._gpu.dtype import DTYPES
from ajit._gpu.memory import PinnedBuffer
from ajit._gpu.page_map import PageCopy, PageMap, map_pages
from ajit.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit._gpu.device import Device
    from ajit.kv.layout import Layout

__all__ = ["check_tensors", "probe"]

_CALLED = "open pages"


def check_tensors(layout: Layout, tensors: Sequence[Any], pages: int | None) -> int:
    """Return how many pages the tensors have.

    Raises:
        ArgumentError: Their number, types, shapes or sizes are not as declared.
    """
    if len(tensors) != layout.tensors:
        detail = f"{len(tensors)} tensors; the layout has {layout.tensors}: {layout!r}"
        raise ArgumentError(operation=_CALLED, detail=detail)
    for index, tensor in enumerate(tensors):
        _check_type(layout, tensor, index)
    sizes = [_nbytes(tensor) for tensor in tensors]
    count = layout.pages_in(min(sizes)) if pages is None else pages
    if count < 1:
        raise ArgumentError(operation=_CALLED, detail=f"{count} pages")
    if layout.tensor_bytes(count) > min(sizes):
        room = layout.most_pages(min(sizes))
        detail = f"{count} pages were said, and the smallest tensor has room for {room}: {layout!r}"
        raise ArgumentError(operation=_CALLED, detail=detail)
    if pages is None and len(set(sizes)) > 1:
        detail = f"the tensors have {min(sizes)} to {max(sizes)} bytes; say pages=..."
        raise ArgumentError(operation=_CALLED, detail=detail)
    if not layout.strides and pages is None:
        for index, tensor in enumerate(tensors):
            _check_shape(layout.shape(count), tensor, index)
    return count


def _nbytes(tensor: Any) -> int:
    try:
        return int(tensor.nbytes)
    except (AttributeError, TypeError) as error:
        detail = f"a {type(tensor).__name__} does not tell its size (nbytes)"
        raise ArgumentError(operation=_CALLED, detail=detail) from error


def _check_type(layout: Layout, tensor: Any, index: int) -> None:
    """Bytes may stand for any type; others have to be the declared one."""
    name = str(getattr(tensor, "dtype", "uint8")).removeprefix("torch.")
    if name in DTYPES and name not in ("uint8", "int8", layout.dtype):
        detail = f"tensor {index} is {name}, the layout says {layout.dtype}"
        raise ArgumentError(operation=_CALLED, detail=detail)


def _check_shape(expected: tuple[int, ...], tensor: Any, index: int) -> None:
    """A tensor with as many axes as declared has to have these; others are only memory."""
    shape = tuple(getattr(tensor, "shape", ()))
    if len(shape) == len(expected) and shape != expected:
        detail = f"tensor {index} has the shape {shape}, the layout says {expected}"
        raise ArgumentError(operation=_CALLED, detail=detail)


async def probe(device: Device, layout: Layout, tensors: Sequence[Any], pages: int) -> None:
    """Write a pattern into the first and the last page, read it back, and restore them.

    Raises:
        ArgumentError: It does not come back. The pages are as before.
    """
    small = replace(layout, chunk_tokens=layout.page_tokens)
    page_map = map_pages(device, small.format(pages), tensors)
    ids = sorted({0, pages - 1})
    nbytes = small.chunk_bytes
    pattern = hashlib.shake_128(b"ajit.kv").digest(nbytes * len(ids))
    memories = [await device.alloc_pinned(nbytes * len(ids)) for _ in range(3)]
    before, written, found = memories
    written.view().data[:] = pattern
    try:
        with anyio.CancelScope(shield=True):  # or the pages would keep the pattern
            await _copy(device, page_map, ids, before, to_host=True)
            await _copy(device, page_map, ids, written, to_host=False)
            await _copy(device, page_map, ids, found, to_host=True)
            await _copy(device, page_map, ids, before, to_host=False)
        if bytes(found.view()) != pattern:
            detail = "a pattern that was written into pages does not come back: parts of the "
            detail += f"layout lie on each other, or tensors do; {layout!r}"
            raise ArgumentError(operation=_CALLED, detail=detail)
    finally:
        for memory in memories:
            memory.free()


async def _copy(
    device: Device, page_map: PageMap, ids: list[int], memory: PinnedBuffer, *, to_host: bool
) -> None:
    nbytes = page_map.format.chunk_bytes
    host = memory.view()
    chunks = [host[index * nbytes : (index + 1) * nbytes] for index in range(len(ids))]
    copy = PageCopy(to_host=to_host, ids=ids, chunks=chunks)
    await (await device.submit(page_map.request(copy).submit))
