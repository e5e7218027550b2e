"""ajit: an async-first JIT runtime for GPU kernels inside asyncio and trio servers.

A tour::

    import ajit

    ADD = ajit.Spec(
        '''
        extern "C" __global__ void add(const float* x, const float* y, float* z, int n) {
            int i = blockIdx.x * blockDim.x + threadIdx.x;
            if (i < n) z[i] = x[i] + y[i];
        }
        ''',
        "add",
    )

    async with ajit.open_runtime(device="auto") as rt:
        add = await rt.kernel(ADD)  # finds it or compiles it; never blocks the event loop
        x, y = await rt.device.upload(hx), await rt.device.upload(hy)
        z = await rt.device.alloc(hx.shape, hx.dtype)
        await add[ajit.cover(n, 256), 256](x, y, z, n)  # submits; only await waits
        result = await rt.device.download(z)

- `Spec` says what to compile, `Settings` how; `open_runtime` opens a `Runtime`.
- `Runtime` gives a `Kernel`, a `LoadedModule`, an `Artifact`, and its `Device`.
- `Device` makes memory (`DeviceBuffer`), `Stream`, `Event`, `Batch` and `Graph`. What is submitted
  is a `Ticket`; only awaiting one waits for the device.
- `start_runtime` and `Runtime.aclose` are for code that opens at one place and closes at another.
- `Build` says how to run a foreign compile (`Command`, `Call`); `Runtime.build` gives a `Bundle`.
- `run` and `open_blocking_runtime` are for scripts and notebooks.
- ``ajit.cache`` looks at the kernel cache, checks and prunes it.
- ``ajit.errors`` draws the tree of exceptions, ``ajit.events`` that of events.

The public names are imported on first use, so that ``import ajit`` loads neither CUDA nor an event
loop, starts nothing and makes no directory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ajit import cache as cache
    from ajit import errors as errors
    from ajit import events as events
    from ajit import settings as settings
    from ajit._core.build import Build as Build
    from ajit._core.build import Call as Call
    from ajit._core.build import Command as Command
    from ajit._core.entry import Artifact as Artifact
    from ajit._core.job import BundleFile as BundleFile
    from ajit._core.spec import EntryPoint as EntryPoint
    from ajit._core.spec import Spec as Spec
    from ajit._core.std_headers import std_headers as std_headers
    from ajit._gpu.batch import Batch as Batch
    from ajit._gpu.completion.ticket import Step as Step
    from ajit._gpu.completion.ticket import Ticket as Ticket
    from ajit._gpu.configured import ConfiguredKernel as ConfiguredKernel
    from ajit._gpu.device import Device as Device
    from ajit._gpu.graph import Graph as Graph
    from ajit._gpu.health import DeviceHealth as DeviceHealth
    from ajit._gpu.hostarray import HostArray as HostArray
    from ajit._gpu.kernel import BoundLaunch as BoundLaunch
    from ajit._gpu.kernel import Kernel as Kernel
    from ajit._gpu.memory import BufferSlice as BufferSlice
    from ajit._gpu.memory import DeviceBuffer as DeviceBuffer
    from ajit._gpu.memory import PinnedBuffer as PinnedBuffer
    from ajit._gpu.module import LoadedModule as LoadedModule
    from ajit._gpu.shape import LaunchAttributes as LaunchAttributes
    from ajit._gpu.shape import cover as cover
    from ajit._gpu.statistics import ThreadStatistics as ThreadStatistics
    from ajit._gpu.stream import Event as Event
    from ajit._gpu.stream import Stream as Stream
    from ajit._resolve.request import Resolution as Resolution
    from ajit._resolve.request import WaitedFor as WaitedFor
    from ajit._runtime.blocking import BlockingRuntime as BlockingRuntime
    from ajit._runtime.blocking import open_blocking_runtime as open_blocking_runtime
    from ajit._runtime.blocking import run as run
    from ajit._runtime.builds import Bundle as Bundle
    from ajit._runtime.family import Family as Family
    from ajit._runtime.family_work import FamilyWork as FamilyWork
    from ajit._runtime.family_work import families as families
    from ajit._runtime.open import open_runtime as open_runtime
    from ajit._runtime.open import start_runtime as start_runtime
    from ajit._runtime.ranks import RankStatus as RankStatus
    from ajit._runtime.ready import Readiness as Readiness
    from ajit._runtime.ready import ReadinessStatus as ReadinessStatus
    from ajit._runtime.ready import ready as ready
    from ajit._runtime.replay import Replay as Replay
    from ajit._runtime.replay import replay as replay
    from ajit._runtime.runtime import Runtime as Runtime
    from ajit._runtime.statistics import RuntimeStatistics as RuntimeStatistics
    from ajit._runtime.warmup import WarmupFailure as WarmupFailure
    from ajit._runtime.warmup import WarmupReport as WarmupReport
    from ajit._runtime.work import Unresolved as Unresolved
    from ajit.errors import AjitError as AjitError
    from ajit.errors import AjitWarning as AjitWarning
    from ajit.errors import ArgumentError as ArgumentError
    from ajit.errors import CacheError as CacheError
    from ajit.errors import CaptureMiss as CaptureMiss
    from ajit.errors import CompileError as CompileError
    from ajit.errors import CompileForbidden as CompileForbidden
    from ajit.errors import CompileMemoryExceeded as CompileMemoryExceeded
    from ajit.errors import CompileOutputExceeded as CompileOutputExceeded
    from ajit.errors import CompilerCrashed as CompilerCrashed
    from ajit.errors import CompilerError as CompilerError
    from ajit.errors import CompilerNotFound as CompilerNotFound
    from ajit.errors import CompilerStalled as CompilerStalled
    from ajit.errors import CompileTimeout as CompileTimeout
    from ajit.errors import DeviceError as DeviceError
    from ajit.errors import DeviceLost as DeviceLost
    from ajit.errors import ForkedRuntime as ForkedRuntime
    from ajit.errors import KvError as KvError
    from ajit.errors import LaunchError as LaunchError
    from ajit.errors import LimitReached as LimitReached
    from ajit.errors import LoadError as LoadError
    from ajit.errors import NoDevice as NoDevice
    from ajit.errors import OutOfMemory as OutOfMemory
    from ajit.errors import PatchedThreads as PatchedThreads
    from ajit.errors import RanksNotReady as RanksNotReady
    from ajit.errors import RecordError as RecordError
    from ajit.errors import RuntimeClosed as RuntimeClosed
    from ajit.errors import SettingsError as SettingsError
    from ajit.errors import SpecError as SpecError
    from ajit.errors import TicketTimeout as TicketTimeout
    from ajit.errors import UnknownArch as UnknownArch
    from ajit.errors import UnknownEntryPoint as UnknownEntryPoint
    from ajit.errors import UnsafeCacheDirectory as UnsafeCacheDirectory
    from ajit.errors import UsageError as UsageError
    from ajit.errors import WouldBlock as WouldBlock
    from ajit.errors import WrongLoop as WrongLoop
    from ajit.settings import Settings as Settings
    from ajit.settings import SettingsOptions as SettingsOptions

__all__ = [
    "AjitError",
    "AjitWarning",
    "ArgumentError",
    "Artifact",
    "Batch",
    "BlockingRuntime",
    "BoundLaunch",
    "BufferSlice",
    "Build",
    "Bundle",
    "BundleFile",
    "CacheError",
    "Call",
    "CaptureMiss",
    "Command",
    "CompileError",
    "CompileForbidden",
    "CompileMemoryExceeded",
    "CompileOutputExceeded",
    "CompileTimeout",
    "CompilerCrashed",
    "CompilerError",
    "CompilerNotFound",
    "CompilerStalled",
    "ConfiguredKernel",
    "Device",
    "DeviceBuffer",
    "DeviceError",
    "DeviceHealth",
    "DeviceLost",
    "EntryPoint",
    "Event",
    "Family",
    "FamilyWork",
    "ForkedRuntime",
    "Graph",
    "HostArray",
    "Kernel",
    "KvError",
    "LaunchAttributes",
    "LaunchError",
    "LimitReached",
    "LoadError",
    "LoadedModule",
    "NoDevice",
    "OutOfMemory",
    "PatchedThreads",
    "PinnedBuffer",
    "RankStatus",
    "RanksNotReady",
    "Readiness",
    "ReadinessStatus",
    "RecordError",
    "Replay",
    "Resolution",
    "Runtime",
    "RuntimeClosed",
    "RuntimeStatistics",
    "Settings",
    "SettingsError",
    "SettingsOptions",
    "Spec",
    "SpecError",
    "Step",
    "Stream",
    "ThreadStatistics",
    "Ticket",
    "TicketTimeout",
    "UnknownArch",
    "UnknownEntryPoint",
    "Unresolved",
    "UnsafeCacheDirectory",
    "UsageError",
    "WaitedFor",
    "WarmupFailure",
    "WarmupReport",
    "WouldBlock",
    "WrongLoop",
    "cache",
    "cover",
    "errors",
    "events",
    "families",
    "open_blocking_runtime",
    "open_runtime",
    "ready",
    "replay",
    "run",
    "settings",
    "start_runtime",
    "std_headers",
]

__version__ = "0.1.0"

_HOMES = {
    "Artifact": "ajit._core.entry",
    "Batch": "ajit._gpu.batch",
    "BoundLaunch": "ajit._gpu.kernel",
    "BufferSlice": "ajit._gpu.memory",
    "Build": "ajit._core.build",
    "Bundle": "ajit._runtime.builds",
    "BundleFile": "ajit._core.job",
    "Call": "ajit._core.build",
    "Command": "ajit._core.build",
    "ConfiguredKernel": "ajit._gpu.configured",
    "Device": "ajit._gpu.device",
    "DeviceBuffer": "ajit._gpu.memory",
    "DeviceHealth": "ajit._gpu.health",
    "EntryPoint": "ajit._core.spec",
    "Event": "ajit._gpu.stream",
    "Family": "ajit._runtime.family",
    "FamilyWork": "ajit._runtime.family_work",
    "Graph": "ajit._gpu.graph",
    "HostArray": "ajit._gpu.hostarray",
    "Kernel": "ajit._gpu.kernel",
    "LaunchAttributes": "ajit._gpu.shape",
    "LoadedModule": "ajit._gpu.module",
    "PinnedBuffer": "ajit._gpu.memory",
    "RankStatus": "ajit._runtime.ranks",
    "Readiness": "ajit._runtime.ready",
    "ReadinessStatus": "ajit._runtime.ready",
    "Replay": "ajit._runtime.replay",
    "Resolution": "ajit._resolve.request",
    "Runtime": "ajit._runtime.runtime",
    "RuntimeStatistics": "ajit._runtime.statistics",
    "Settings": "ajit.settings",
    "SettingsOptions": "ajit.settings",
    "Spec": "ajit._core.spec",
    "Step": "ajit._gpu.completion.ticket",
    "Stream": "ajit._gpu.stream",
    "ThreadStatistics": "ajit._gpu.statistics",
    "Ticket": "ajit._gpu.completion.ticket",
    "Unresolved": "ajit._runtime.work",
    "WaitedFor": "ajit._resolve.request",
    "WarmupFailure": "ajit._runtime.warmup",
    "WarmupReport": "ajit._runtime.warmup",
    "cover": "ajit._gpu.shape",
    "BlockingRuntime": "ajit._runtime.blocking",
    "families": "ajit._runtime.family_work",
    "open_blocking_runtime": "ajit._runtime.blocking",
    "open_runtime": "ajit._runtime.open",
    "ready": "ajit._runtime.ready",
    "replay": "ajit._runtime.replay",
    "run": "ajit._runtime.blocking",
    "start_runtime": "ajit._runtime.open",
    "std_headers": "ajit._core.std_headers",
}


_MODULES = frozenset({"cache", "errors", "events", "settings"})


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(f"module 'ajit' has no attribute {name!r}")
    if name in _MODULES:
        return importlib.import_module(f"ajit.{name}")
    errors = importlib.import_module("ajit.errors")
    if name in errors.__all__:
        value: Any = getattr(errors, name)
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        # Where users find it, for help() and messages; its module is no business of theirs.
        value.__module__ = "ajit"
    else:
        raise AttributeError(f"module 'ajit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
