"""Chunks in host memory, as a submission names them: their addresses."""

from __future__ import annotations

import array
import itertools
import math
import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ajit._gpu.hostview import HostView
from ajit._gpu.memory import PinnedBuffer
from ajit._gpu.operand import Operand
from ajit._gpu.registered import are_registered
from ajit.errors import ArgumentError

if TYPE_CHECKING:
    from ajit._gpu.completion.thread import DeviceThread

__all__ = ["Chunks", "HostChunks"]

_CALLED = "copy pages"


class Chunks:
    """Chunks that lie in one piece of host memory, at offsets.

    Attributes:
        memory: Pinned memory, or other contiguous memory on the host.
        offsets: Where each chunk begins in it, in bytes.
    """

    __slots__ = ("memory", "offsets")

    def __init__(self, memory: Any, offsets: Iterable[int]) -> None:
        self.memory, self.offsets = memory, offsets

    def __repr__(self) -> str:
        return f"<Chunks in {self.memory!r}>"


class HostChunks:
    """Addresses of chunks, checked.

    Attributes:
        count: How many.
        packed: Their addresses, as the executor takes them.
        keep: What keeps the memory.
    """

    __slots__ = ("_addresses", "_chunk_bytes", "_thread", "count", "keep", "packed")

    def __init__(
        self, chunks: Any, chunk_bytes: int, thread: DeviceThread, lane: int, *, writable: bool
    ) -> None:
        """Look at chunks.

        Args:
            chunks: `Chunks`, one memory that is a chunk, or several of those.
            chunk_bytes: Size of each.
            thread: The device.
            lane: That will use them.
            writable: Whether they are written to: then they must not overlap.

        Raises:
            ArgumentError: A chunk is no host memory, is outside of it or too small, was freed, or
                overlaps another one that is written to.
        """
        self.keep: tuple[object, ...]
        where = (thread, lane)
        if isinstance(chunks, Chunks):
            addresses = self._at_offsets(chunks, chunk_bytes, where, writable)
        else:
            memories = chunks if isinstance(chunks, list | tuple) else [chunks]
            addresses = self._each(memories, chunk_bytes, where, writable)
        if writable:
            _check_apart(addresses, chunk_bytes)
        self.count, self._addresses = len(addresses), addresses
        self._thread, self._chunk_bytes = thread, chunk_bytes
        self.packed = array.array("Q", addresses).tobytes()

    def reached_by(self, word_bytes: int) -> bool:
        """Whether a kernel can access them in such words: page-locked, and at multiples of it."""
        if math.gcd(*self._addresses) % word_bytes:
            return False
        if all(map(_is_pinned, self.keep)):
            return True
        return are_registered(self._thread, self._addresses, self._chunk_bytes)

    def _at_offsets(
        self,
        chunks: Chunks,
        chunk_bytes: int,
        where: tuple[DeviceThread, int],
        writable: bool,  # noqa: FBT001  # private
    ) -> list[int]:
        memory = _host_memory(chunks.memory, where, writable)
        self.keep = (memory.owner,)
        try:
            offsets = [operator.index(offset) for offset in chunks.offsets]
        except TypeError as error:
            raise ArgumentError(operation=_CALLED, detail=f"offsets of chunks: {error}") from error
        if offsets and not 0 <= min(offsets) <= max(offsets) <= memory.nbytes - chunk_bytes:
            detail = f"chunks of {chunk_bytes} bytes at {min(offsets)} to {max(offsets)}, outside "
            detail += f"of a memory of {memory.nbytes} bytes"
            raise ArgumentError(operation=_CALLED, detail=detail)
        return [memory.address + offset for offset in offsets]

    def _each(
        self,
        memories: Iterable[Any],
        chunk_bytes: int,
        where: tuple[DeviceThread, int],
        writable: bool,  # noqa: FBT001  # private
    ) -> list[int]:
        found = [_host_memory(memory, where, writable) for memory in memories]
        for index, memory in enumerate(found):
            if memory.nbytes != chunk_bytes:
                detail = f"chunk {index} has {memory.nbytes} bytes, not {chunk_bytes}"
                raise ArgumentError(operation=_CALLED, detail=detail)
        self.keep = tuple(memory.owner for memory in found)
        return [memory.address for memory in found]


def _is_pinned(memory: Any) -> bool:
    if isinstance(memory, HostView):
        memory = memory.owner
    # A `HostArray` of pinned memory is seen through.
    return isinstance(getattr(memory, "_memory", memory), PinnedBuffer)


def _host_memory(value: Any, where: tuple[DeviceThread, int], writable: bool) -> Operand:  # noqa: FBT001  # private
    memory = Operand(value, *where, writable=writable, operation=_CALLED)
    if memory.on_device:
        detail = f"{value!r} is device memory; chunks are on the host"
        raise ArgumentError(operation=_CALLED, detail=detail)
    return memory


def _check_apart(addresses: list[int], chunk_bytes: int) -> None:
    """Check that chunks that are written to do not overlap."""
    in_order = sorted(addresses)
    pairs = itertools.pairwise(in_order)
    if any(second - first < chunk_bytes for first, second in pairs):
        raise ArgumentError(operation=_CALLED, detail="chunks that are saved to overlap")
