"""Copies as a share of what the driver reaches by itself between pinned memory and the device."""

from __future__ import annotations

import ctypes
import statistics
import time
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np

from ajit._gpu.device import open_device
from ajit.settings import Settings
from benchmarks.gpu.part import Part, Raw, run, timed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BYTES, QUICK_BYTES = 256 << 20, 4 << 20
RUNS = 20


def measure(part: Part) -> dict[str, Any]:
    """Measure the driver, then ajit, in one process."""
    nbytes = QUICK_BYTES if part.quick else BYTES
    raw = _raw(part, nbytes)
    result: dict[str, Any] = {"bytes": nbytes, "raw_bytes_per_second": raw}
    for name, rate in anyio.run(_ajit, part, nbytes).items():
        best = raw["to_device" if "to_device" in name or "upload" in name else "to_host"]
        result[name] = {"bytes_per_second": rate, "share_of_raw": rate / best}
    return result


def _raw(part: Part, nbytes: int) -> dict[str, float]:
    driver, size = Raw(part.library), ctypes.c_size_t(nbytes)
    stream = driver.stream()
    host, device = driver.make("cuMemHostAlloc", size, 0), driver.make("cuMemAlloc_v2", size)
    ctypes.memset(host, 1, nbytes)

    def copy(name: str, target: Any, source: Any) -> None:
        driver.ok(name, target, source, size, stream)
        driver.ok("cuStreamSynchronize", stream)

    ways = {
        "to_device": lambda: copy("cuMemcpyHtoDAsync_v2", device, host),
        "to_host": lambda: copy("cuMemcpyDtoHAsync_v2", host, device),
    }
    rates = {}
    for name, way in ways.items():
        way()
        rates[name] = nbytes / statistics.median(timed(way) for _ in range(part.runs(RUNS)))
    driver.ok("cuMemFreeHost", host)
    driver.ok("cuMemFree_v2", device)
    driver.ok("cuStreamDestroy_v2", stream)
    return rates


async def _ajit(part: Part, nbytes: int) -> dict[str, float]:
    array = np.ones(nbytes, np.uint8)
    async with open_device(Settings(environ={}, device=part.driver)) as device:
        pinned, buffer = await device.alloc_pinned(nbytes), await device.alloc(nbytes)
        pinned.view().data[:] = bytes(array)

        async def to_device() -> None:
            await device.copy(buffer, pinned)

        async def to_host() -> None:
            await device.copy(pinned, buffer)

        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "pinned_to_device": to_device,
            "device_to_pinned": to_host,
            "upload": lambda: device.upload(array),
            "download": lambda: device.download(buffer, array),
        }
        return {name: nbytes / await _median(way, part.runs(RUNS)) for name, way in ways.items()}


async def _median(way: Callable[[], Awaitable[object]], runs: int) -> float:
    await way()
    values = []
    for _ in range(runs):
        begun = time.perf_counter()
        await way()
        values.append(time.perf_counter() - begun)
    return statistics.median(values)


if __name__ == "__main__":
    run(measure)
