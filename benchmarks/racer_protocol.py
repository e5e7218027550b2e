"""How a racer is asked: ready, a line, the work, a report. See `benchmarks.harness.race`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["Run", "Work", "timed"]

Work = Callable[[], Awaitable[dict[str, Any]]]
"""Get the kernel; says at least whether it was ``compiled`` here."""

Run = Callable[[Work], Awaitable[None]]


async def timed(work: Work) -> None:
    """Say that this process is ready, wait for the start, work, and report."""
    print("ready", flush=True)
    sys.stdin.readline()
    report = await work()
    report["done"] = time.monotonic()  # a clock that all processes of a machine share
    print(json.dumps(report), flush=True)
