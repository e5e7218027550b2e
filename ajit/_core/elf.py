"""Compiled images: whether they are whole, and which kernels they really have.

A compiler that is killed while it writes leaves the beginning of an image, and not every driver of
compilers says so. `fault_of` is asked before a result leaves the worker, and by
``ajit cache verify``. It reads what says where the parts of an image are; what is in them, only the
driver can judge.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ajit._core.job import ArtifactKind

__all__ = [
    "fault_of",
    "kernel_symbols",
    "named_sections",
    "ptx_fault_of",
    "symbol_names",
]

CPU_MODULE = "ajit_cpu_module"
"""What the CPU driver looks for in a shared object; its kernels are in that table, by name."""

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SHT_NULL = 0
_SHT_SYMTAB = 2
_SHT_NOBITS = 8
_SHT_DYNSYM = 11
_STT_FUNC = 2
_STO_CUDA_ENTRY = 0x10


class _Section(NamedTuple):
    kind: int
    offset: int
    size: int
    link: int


class _Symbol(NamedTuple):
    name: str
    info: int
    other: int
    section: int


def fault_of(kind: ArtifactKind, image: bytes, names: Iterable[str]) -> str:
    """Return what is missing in a compiler's result, or "" if it is whole.

    Args:
        kind: What it should be.
        image: The compiled bytes.
        names: The kernels that it should have, by their lowered names.
    """
    if kind == "outputs":  # files of a foreign compile, whatever they are
        return ""
    try:
        _check_parts(image)
        if kind == "cubin":
            kernels = kernel_symbols(image)
            missing = [name for name in names if name not in kernels]
        else:
            exported = {s.name for s in _symbols(image, _SHT_DYNSYM) if s.section}
            # Such a kernel is no symbol; its name is a text of the table.
            missing = [name for name in names if name.encode() + b"\0" not in image]
            missing += [CPU_MODULE] if CPU_MODULE not in exported else []
    except ValueError as exc:
        return str(exc)
    return f"it has no symbol {missing[0]}" if missing else ""


def ptx_fault_of(text: bytes, names: Iterable[str]) -> str:
    """Return what is missing in PTX, or "" if it has every name."""
    if not text.strip():
        return "there is no PTX in it"
    missing = [name for name in names if name.encode() not in text]
    return f"its PTX does not name {missing[0]}" if missing else ""


def kernel_symbols(image: bytes) -> frozenset[str]:
    """Return the names of a cubin's kernels: functions that are marked as entries.

    Raises:
        ValueError: It is not a 64-bit little-endian ELF image, or cut short.
    """
    return frozenset(
        symbol.name
        for symbol in _symbols(image, _SHT_SYMTAB)
        if symbol.info & 0xF == _STT_FUNC and symbol.other & _STO_CUDA_ENTRY
    )


def named_sections(image: bytes) -> list[tuple[str, int, int]]:
    """Return name, offset and size of each section; one without bytes in the file has a size, too.

    Raises:
        ValueError: It is not a 64-bit little-endian ELF image, or cut short.
    """
    header = _header(image)
    offset, size, count, names = header[6], header[11], header[12], header[13]
    try:
        strings = _sections(image)[names].offset
        found = []
        for index in range(count):
            name, _, _, _, start, length, *_ = _unpack(_SECTION, image, offset + index * size)
            found.append((_text_at(image, strings + name), start, length))
    except (IndexError, ValueError) as exc:
        raise ValueError(f"not a complete ELF image: {exc}") from None
    return found


def symbol_names(image: bytes) -> list[str]:
    """Return the names of all symbols, in order.

    Raises:
        ValueError: It is not a 64-bit little-endian ELF image, or cut short.
    """
    return [symbol.name for symbol in _symbols(image, _SHT_SYMTAB)]


def _check_parts(image: bytes) -> None:
    """Raise ValueError unless every section and segment lies inside the image."""
    sections = _sections(image)
    if not sections:
        raise ValueError("not a complete ELF image: it has no sections")
    for index, section in enumerate(sections):
        if section.kind not in (_SHT_NULL, _SHT_NOBITS):
            _check_inside(image, f"section {index}", section.offset, section.size)
    for index, (offset, size) in enumerate(_segments(image)):
        _check_inside(image, f"segment {index}", offset, size)


def _check_inside(image: bytes, what: str, offset: int, size: int) -> None:
    if offset + size > len(image):
        raise ValueError(
            f"not a complete ELF image: {what} ends at byte {offset + size} of {len(image)}"
        )


def _symbols(image: bytes, kind: int) -> list[_Symbol]:
    try:
        sections = _sections(image)
        return [
            symbol
            for section in sections
            if section.kind == kind
            for symbol in _symbols_of(image, section, sections[section.link].offset)
        ]
    # A table that ends within a symbol, a link to no section, a name without an end or not text.
    except (struct.error, IndexError, ValueError) as exc:
        raise ValueError(f"not a complete ELF image: {exc}") from None


def _symbols_of(image: bytes, section: _Section, strings: int) -> Iterator[_Symbol]:
    table = image[section.offset : section.offset + section.size]
    for name, info, other, index, *_ in _SYMBOL.iter_unpack(table):
        yield _Symbol(_text_at(image, strings + name), info, other, index)


def _text_at(image: bytes, start: int) -> str:
    return image[start : image.index(b"\0", start)].decode()


def _sections(image: bytes) -> list[_Section]:
    header = _header(image)
    offset, size, count = header[6], header[11], header[12]
    found = []
    for index in range(count):
        _, kind, _, _, start, length, link, *_ = _unpack(_SECTION, image, offset + index * size)
        found.append(_Section(kind, start, length, link))
    return found


def _segments(image: bytes) -> list[tuple[int, int]]:
    header = _header(image)
    offset, size, count = header[5], header[9], header[10]
    found = []
    for index in range(count):
        _, _, start, _, _, length, *_ = _unpack(_SEGMENT, image, offset + index * size)
        found.append((start, length))
    return found


def _header(image: bytes) -> tuple[int, ...]:
    header = _unpack(_HEADER, image, 0)
    if image[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF image")
    return header


def _unpack(layout: struct.Struct, image: bytes, offset: int) -> tuple[int, ...]:
    # Not left to struct: an offset of 64 bits may be more than it can take.
    _check_inside(image, "a table", offset, layout.size)
    return layout.unpack_from(image, offset)
