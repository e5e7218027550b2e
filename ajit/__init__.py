"""ajit: an async-first JIT runtime for GPU kernels inside asyncio and trio servers.

The public names are imported on first use, so that ``import ajit`` loads neither CUDA nor an event
loop, starts nothing and makes no directory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ajit._core.entry import Artifact as Artifact
    from ajit._core.spec import EntryPoint as EntryPoint
    from ajit._core.spec import Spec as Spec
    from ajit._gpu.completion import Ticket as Ticket
    from ajit._gpu.device import Device as Device
    from ajit._gpu.hostarray import HostArray as HostArray
    from ajit._gpu.memory import BufferSlice as BufferSlice
    from ajit._gpu.memory import DeviceBuffer as DeviceBuffer
    from ajit._gpu.memory import PinnedBuffer as PinnedBuffer
    from ajit._gpu.module import Kernel as Kernel
    from ajit._gpu.shape import LaunchAttributes as LaunchAttributes
    from ajit._runtime.open import open_runtime as open_runtime
    from ajit._runtime.runtime import Runtime as Runtime
    from ajit.errors import *  # noqa: F403  # the error tree is public as a whole
    from ajit.settings import Settings as Settings

__version__ = "0.1.0"

_HOMES = {
    "Artifact": "ajit._core.entry",
    "BufferSlice": "ajit._gpu.memory",
    "Device": "ajit._gpu.device",
    "DeviceBuffer": "ajit._gpu.memory",
    "EntryPoint": "ajit._core.spec",
    "HostArray": "ajit._gpu.hostarray",
    "Kernel": "ajit._gpu.module",
    "LaunchAttributes": "ajit._gpu.shape",
    "PinnedBuffer": "ajit._gpu.memory",
    "Runtime": "ajit._runtime.runtime",
    "Settings": "ajit.settings",
    "Spec": "ajit._core.spec",
    "Ticket": "ajit._gpu.completion",
    "open_runtime": "ajit._runtime.open",
}


_MODULES = frozenset({"errors", "events", "settings"})


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(f"module 'ajit' has no attribute {name!r}")
    if name in _MODULES:
        return importlib.import_module(f"ajit.{name}")
    errors = importlib.import_module("ajit.errors")
    if name in errors.__all__:
        value: object = getattr(errors, name)
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'ajit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    errors = importlib.import_module("ajit.errors")
    return sorted({*globals(), *_HOMES, *_MODULES, *errors.__all__})
