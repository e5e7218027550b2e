"""For the tests of programs that use ajit: fakes at its seams, and a pytest plugin.

Nothing of ajit is replaced by these fakes but what they stand for, and each passes the tests of the
real thing (``tests/testing``):

- `FakeCompiler`: a host compiler that waits, refuses, dies and counts as a test says.
- `FakeFileSystem`: a cache's file system that is full, read-only, broken or hangs.
- `FakeClock`: a clock that a test moves on.
- `FakeDevice`: the CPU driver, which fails, stops and is lost as a test says.

Two watchmen find what a test would not notice: `no_compiles` refuses and lists every compile,
`watch_loop` tells where an event loop was blocked. The fixtures and markers of the pytest plugin
are made of them; pytest loads it by itself (`ajit.testing.plugin`).

The names are imported on first use: pytest's start pays for none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ajit.testing.clock import FakeClock as FakeClock
    from ajit.testing.compiler import FakeCompiler as FakeCompiler
    from ajit.testing.compiles import no_compiles as no_compiles
    from ajit.testing.device import FakeDevice as FakeDevice
    from ajit.testing.file_system import FakeFileSystem as FakeFileSystem
    from ajit.testing.loop_watch import Block as Block
    from ajit.testing.loop_watch import LoopWatch as LoopWatch
    from ajit.testing.loop_watch import watch_loop as watch_loop

__all__ = [
    "Block",
    "FakeClock",
    "FakeCompiler",
    "FakeDevice",
    "FakeFileSystem",
    "LoopWatch",
    "no_compiles",
    "watch_loop",
]

_HOMES = {
    "Block": "loop_watch",
    "FakeClock": "clock",
    "FakeCompiler": "compiler",
    "FakeDevice": "device",
    "FakeFileSystem": "file_system",
    "LoopWatch": "loop_watch",
    "no_compiles": "compiles",
    "watch_loop": "loop_watch",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'ajit.testing' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"ajit.testing.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
