"""Frames: a length of 32 bits, little endian, and so many bytes. With no I/O.

A length that is nought or larger than any message closes the connection before anything of the
frame is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ajit.kv.messages import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MOST_FRAME_BYTES", "FrameBuffer", "framed"]

HEADER_BYTES = 4
MOST_FRAME_BYTES = 128 << 10
"""Above the largest message, which has 4096 digests or checksums."""


def framed(payload: bytes) -> bytes:
    """Return a payload with its length before it."""
    return len(payload).to_bytes(HEADER_BYTES, "little") + payload


class FrameBuffer:
    """Takes bytes as they come, and gives frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes, and yield the payload of each frame that is whole now.

        Raises:
            ProtocolError: A length is out of range.
        """
        self._data += data
        start = 0
        while (end := self._end_of_frame(start)) is not None:
            yield bytes(self._data[start + HEADER_BYTES : end])
            start = end
        del self._data[:start]

    def _end_of_frame(self, start: int) -> int | None:
        body = start + HEADER_BYTES
        if len(self._data) < body:
            return None
        size = int.from_bytes(self._data[start:body], "little")
        if not 0 < size <= MOST_FRAME_BYTES:
            raise ProtocolError(f"a frame of {size} bytes")
        return body + size if len(self._data) >= body + size else None
