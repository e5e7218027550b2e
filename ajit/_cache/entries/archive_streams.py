"""How an archive is compressed: by gzip, which Python has, or by zstd, which is smaller and faster.

What is read tells by its first bytes how it was compressed. Both are streams: nothing has the whole
of an archive in memory, whatever it decompresses to. The same bytes give the same archive, as long
as the library that compresses is the same.
"""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["Compression", "NoZstd", "Readable", "StreamInvalid", "Unpacked", "packing"]

Compression = Literal["gzip", "zstd"]

GZIP_LEVEL = 6
ZSTD_LEVEL = 9
"""Pretty arbitrary: four fifths of the size of gzip's in half the time, for shared objects."""

MAX_WINDOW_BYTES = 1 << 27
"""Memory that a zstd stream may ask of who reads it; above the window of every level but `--ultra`
ones."""

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class NoZstd(Exception):
    """The package zstandard is not installed. Nothing was read or written."""

    def __init__(self) -> None:
        super().__init__("zstd needs the package zstandard: pip install 'ajit[zstd]'")


class StreamInvalid(ValueError):
    """It is cut short or corrupt."""


class Readable(Protocol):
    """What `Unpacked` reads."""

    def read(self, size: int, /) -> bytes:
        """Return some bytes, at most so many; none at the end."""
        ...


def packing(out: BinaryIO, compression: Compression) -> AbstractContextManager[Any]:
    """Return a stream that compresses what is written to it; the end of the context completes it.

    Raises:
        NoZstd: See there.
    """
    if compression == "gzip":
        return gzip.GzipFile("", "wb", GZIP_LEVEL, out, mtime=0)
    library = _zstandard()
    # One thread: with several the bytes would depend on how many there are.
    made = library.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True, threads=0)
    stream: AbstractContextManager[Any] = made.stream_writer(out, closefd=False)
    return stream


class Unpacked:
    """What an archive decompresses to.

    Args:
        source: From its beginning.

    Raises:
        NoZstd: See there.
        OSError: It cannot be read.
    """

    def __init__(self, source: BinaryIO) -> None:
        magic = source.read(len(_ZSTD_MAGIC))
        source.seek(-len(magic), 1)
        self._errors: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
        self._stream: Readable
        if magic != _ZSTD_MAGIC:
            self._stream = gzip.GzipFile("", "rb", fileobj=source)
            return
        library = _zstandard()
        self._errors = (OSError, library.ZstdError)
        made = library.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        self._stream = made.stream_reader(source, read_across_frames=True, closefd=False)

    def read(self, size: int) -> bytes:
        """Return some bytes, at most so many; none at the end.

        Raises:
            StreamInvalid: See there.
        """
        try:
            return self._stream.read(size)
        except self._errors as exc:
            raise StreamInvalid(str(exc)) from exc


def _zstandard() -> Any:
    try:
        import zstandard  # noqa: PLC0415  # optional
    except ImportError:
        raise NoZstd from None
    return zstandard
