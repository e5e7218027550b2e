"""Exporters of what a runtime does: faces over its events and its statistics.

Each module needs a library of its own and is imported by name: `prometheus` (the extra
``prometheus``), `opentelemetry` (the extra ``opentelemetry``) and `nvtx` (the extra ``nvtx``).
All are context managers around the time in which a server serves::

    from ajit.instrumentation import prometheus

    async with ajit.open_runtime() as rt, prometheus.instrument(rt):
        ...

They subscribe to events, look at the statistics once a second, and use nothing else of ajit.

`runtimes` tells what all runtimes of this machine do, by their boards, and asks none of them.
"""

from __future__ import annotations

from ajit._runtime.board_form import (
    CompileView,
    DeviceView,
    ErrorView,
    RuntimeState,
    RuntimeView,
    WaitView,
)
from ajit._runtime.boards import runtimes

__all__ = [
    "CompileView",
    "DeviceView",
    "ErrorView",
    "RuntimeState",
    "RuntimeView",
    "WaitView",
    "runtimes",
]
