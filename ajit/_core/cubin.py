"""What a cubin says of its kernels: registers, shared memory, stack, limits.

NVIDIA documents no format for it. A cubin is an ELF image: ``.nv.info`` has attributes of all its
functions and ``.nv.info.NAME`` those of one, each a format, a code, and two bytes that are the
value or the length of what follows. The codes here are those that ``cuobjdump -elf`` names, and
tests compare what is read with ``cuobjdump -res-usage``. Sizes of shared and constant memory are
those of the sections ``.nv.shared.NAME`` and ``.nv.constant0.NAME``.

What is not there, or has another form, is None: it is for people, and nothing depends on it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

from ajit._core.elf import kernel_symbols, named_sections, symbol_names

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KernelUsage", "kernel_usage"]

_HEAD = struct.Struct("<BBH")
_PAIR = struct.Struct("<II")
_THREADS = struct.Struct("<III")

_SIZED = 4
"""The format whose two bytes are the length of the value that follows."""

_REGISTERS = 0x2F
_FRAME = 0x11
_MAX_THREADS = 0x05


class KernelUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one kernel needs.

    Attributes:
        name: Its symbol.
        registers: Registers of a thread.
        shared_bytes: Static shared memory of a block, with what the driver has of it.
        stack_bytes: Stack of a thread: arrays, and registers that were spilled.
        constant_bytes: Constant memory, its parameters among it.
        code_bytes: Size of its machine code.
        max_threads: Threads of a block, as ``__launch_bounds__`` has it.
    """

    name: str
    registers: int | None
    shared_bytes: int
    stack_bytes: int | None
    constant_bytes: int
    code_bytes: int
    max_threads: int | None


def kernel_usage(image: bytes) -> list[KernelUsage]:
    """Return what each kernel of a cubin needs, by name; nothing if it is not a whole cubin."""
    try:
        names, symbols = sorted(kernel_symbols(image)), symbol_names(image)
        sections = {name: (start, size) for name, start, size in named_sections(image)}
    except ValueError:
        return []
    registers, frames = _of_functions(image, sections.get(".nv.info"), symbols)
    return [
        KernelUsage(
            name=name,
            registers=registers.get(name),
            shared_bytes=_size(sections, f".nv.shared.{name}"),
            stack_bytes=frames.get(name),
            constant_bytes=_size(sections, f".nv.constant0.{name}"),
            code_bytes=_size(sections, f".text.{name}"),
            max_threads=_max_threads(image, sections.get(f".nv.info.{name}")),
        )
        for name in names
    ]


def _size(sections: dict[str, tuple[int, int]], name: str) -> int:
    return sections.get(name, (0, 0))[1]


def _of_functions(
    image: bytes, section: tuple[int, int] | None, symbols: list[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Registers and stack of each function: a number of a symbol, and the value."""
    found: dict[int, dict[str, int]] = {_REGISTERS: {}, _FRAME: {}}
    for code, value in _attributes(image, section):
        if code in found and len(value) == _PAIR.size:
            index, number = _PAIR.unpack(value)
            if index < len(symbols):
                found[code][symbols[index]] = number
    return found[_REGISTERS], found[_FRAME]


def _max_threads(image: bytes, section: tuple[int, int] | None) -> int | None:
    for code, value in _attributes(image, section):
        if code == _MAX_THREADS and len(value) == _THREADS.size:
            x, y, z = _THREADS.unpack(value)
            return int(x * y * z)
    return None


def _attributes(image: bytes, section: tuple[int, int] | None) -> Iterator[tuple[int, bytes]]:
    """Code and value of each attribute that has its value behind it."""
    start, size = section or (0, 0)
    data = image[start : start + size]
    at = 0
    while at + _HEAD.size <= len(data):
        form, code, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if form == _SIZED:
            yield code, data[at : at + length]
            at += length
