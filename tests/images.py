"""ELF images for tests: as small as one that is whole can be."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["a_cubin", "a_shared_object"]

_HEADER = "<16sHHIQQQIHHHHHH"
_SECTION = "<IIQQQQIIQQ"
_SYMBOL = "<IBBHQQ"


def a_cubin(names: Iterable[str], code: bytes = b"") -> bytes:
    """A cubin with kernels of these names."""
    return _image(2, names, code)


def a_shared_object(names: Iterable[str], code: bytes = b"") -> bytes:
    """A shared object for the CPU driver, as far as what names its kernels goes."""
    texts = b"".join(name.encode() + b"\0" for name in names)
    return _image(11, ["ajit_cpu_module"], texts + code)


def _image(table: int, names: Iterable[str], code: bytes) -> bytes:
    """Header, code, symbols, strings, section table."""
    strings = b"\0"
    symbols = b""
    for name in names:
        symbols += struct.pack(_SYMBOL, len(strings), 2, 0x10, 1, 0, 0)
        strings += name.encode() + b"\0"
    offset, placed = struct.calcsize(_HEADER), []
    for kind, part, link in ((1, code, 0), (table, symbols, 3), (3, strings, 0)):
        placed.append(struct.pack(_SECTION, 0, kind, 0, 0, offset, len(part), link, 0, 1, 0))
        offset += len(part)
    # Shared memory takes no room in the file, whatever its size.
    nothing = [bytes(64), struct.pack(_SECTION, 0, 8, 0, 0, 1 << 40, 1 << 40, 0, 0, 1, 0)]
    sections = [nothing[0], *placed, nothing[1]]
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack(
        _HEADER, identity, 2, 190, 1, 0, 0, offset, 0, 64, 56, 0, 64, len(sections), 0
    )
    return header + code + symbols + strings + b"".join(sections)
