"""Views of runtimes and leases, as boards and lock files would tell them."""

from __future__ import annotations

from typing import Any

from ajit._cache.entries.holders import HeldLease
from ajit._cache.leases.holder import HolderRecord
from ajit.instrumentation import CompileView, DeviceView, RuntimeView, WaitView

__all__ = ["KEY", "OTHER_KEY", "a_compile", "a_device", "a_lease", "a_view", "a_wait"]

KEY = "ab" * 32
OTHER_KEY = "cd" * 32


def a_view(pid: int, **fields: Any) -> RuntimeView:
    """A runtime that runs."""
    known = {"state": "running", "host": "node3", "program": "server", "slots": 2}
    return RuntimeView(pid=pid, **(known | fields))


def a_compile(**fields: Any) -> CompileView:
    """A compile that goes on."""
    known = {"name": "matmul", "key": KEY, "phase": "compiling", "seconds": 48.0}
    return CompileView(**(known | {"compiler": "nvcc 13.0"} | fields))


def a_wait(pid: int, **fields: Any) -> WaitView:
    """A wait for a process of node3."""
    known = {"name": "matmul", "key": KEY, "host": "node3", "phase": "compiling"}
    return WaitView(pid=pid, **(known | {"waited_seconds": 4.0, "age_seconds": 48.0} | fields))


def a_device(**fields: Any) -> DeviceView:
    """A device that is well."""
    return DeviceView(**({"name": "CPU driver", "launches": 7} | fields))


def a_lease(pid: int, *, silent_seconds: float = 0.4, **fields: Any) -> HeldLease:
    """A lease that is held."""
    record = HolderRecord(
        host=fields.pop("host", "node3"),
        boot_id="",
        pid=pid,
        start_ticks=1,
        phase=fields.pop("phase", "compiling"),
        compiler="nvcc 13.0",
        started=100.0,
        beat=1,
        beat_time=148.0,
        name=fields.pop("name", "matmul"),
    )
    known = {"kind": "kernel", "key": KEY, "age_seconds": 48.0, "waiters": 0, "authentic": True}
    return HeldLease(record=record, silent_seconds=silent_seconds, **(known | fields))
