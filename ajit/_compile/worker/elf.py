"""Kernel symbols of a cubin: the part of ELF that says which kernels an image really has."""

from __future__ import annotations

import struct

__all__ = ["kernel_symbols"]

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SHT_SYMTAB = 2
_STT_FUNC = 2
_STO_CUDA_ENTRY = 0x10


def kernel_symbols(image: bytes) -> frozenset[str]:
    """Return the names of a cubin's kernels: functions that are marked as entries.

    Raises:
        ValueError: It is not a 64-bit little-endian ELF image, or cut short.
    """
    try:
        sections = _sections(image)
        names = set()
        for kind, offset, size, link in sections:
            if kind == _SHT_SYMTAB:
                strings = sections[link]
                names |= _entries(image[offset : offset + size], image, strings[1])
    except (struct.error, IndexError) as exc:
        raise ValueError(f"not a complete ELF image: {exc}") from None
    return frozenset(names)


def _sections(image: bytes) -> list[tuple[int, int, int, int]]:
    identity, *_, offset, _, _, _, _, size, count, _ = _HEADER.unpack_from(image)
    if identity[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF image")
    found = []
    for index in range(count):
        _, kind, _, _, start, length, link, *_ = _SECTION.unpack_from(image, offset + index * size)
        found.append((kind, start, length, link))
    return found


def _entries(table: bytes, image: bytes, strings: int) -> set[str]:
    names = set()
    for name, info, other, *_ in _SYMBOL.iter_unpack(table):
        if info & 0xF == _STT_FUNC and other & _STO_CUDA_ENTRY:
            start = strings + name
            names.add(image[start : image.index(b"\0", start)].decode())
    return names
