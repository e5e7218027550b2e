"""A cell of `benchmarks.completion`: the same launch by ``cuda.bindings``, in two other ways.

Runs in a separate process without ajit; its driver is the ``libcuda.so.1`` that the loader finds.
Arguments: the loop, the number of busy threads, a file with the compiled kernel, the effort.

- Threads: a pool's thread launches and waits for the stream, and the task awaits the thread.
- Polling: the loop's thread launches and records an event, and the task looks at it, every 1 or
  5 ms.
"""

from __future__ import annotations

import asyncio  # the peer is an executor of asyncio's
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
from cuda.bindings import driver

from benchmarks.completion_work import LOOPS, Effort, Measured, bursts, busy_threads, single

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

THREADS = 8
POLLS_SECONDS = (0.001, 0.005)
NON_BLOCKING = 1
SUCCESS, NOT_READY = driver.CUresult.CUDA_SUCCESS, driver.CUresult.CUDA_ERROR_NOT_READY


def ok(answer: Any) -> Any:
    """What a call returned beside its error, which must be none."""
    error, *results = answer
    assert error == SUCCESS, error
    return results[0] if results else None


class Launcher:
    """Launches the kernel. Each thread has its own stream."""

    def __init__(self, image: bytes) -> None:
        ok(driver.cuInit(0))
        self._context = ok(driver.cuDevicePrimaryCtxRetain(ok(driver.cuDeviceGet(0))))
        self._local = threading.local()
        stream = self._stream()
        self._function = ok(
            driver.cuModuleGetFunction(ok(driver.cuModuleLoadData(image)), b"nothing")
        )
        self._values = np.array([int(ok(driver.cuMemAlloc(4)))], np.uint64), np.array([1], np.int32)
        self._arguments = np.array([value.ctypes.data for value in self._values], np.uint64)
        self._launch(stream)
        ok(driver.cuStreamSynchronize(stream))

    def _stream(self) -> Any:
        if not hasattr(self._local, "stream"):
            ok(driver.cuCtxSetCurrent(self._context))
            self._local.stream = ok(driver.cuStreamCreate(NON_BLOCKING))
        return self._local.stream

    def _launch(self, stream: Any) -> None:
        arguments = self._arguments.ctypes.data
        ok(driver.cuLaunchKernel(self._function, 1, 1, 1, 1, 1, 1, 0, stream, arguments, 0))

    def launch_and_wait(self) -> None:
        stream = self._stream()
        self._launch(stream)
        ok(driver.cuStreamSynchronize(stream))

    def launch_and_record(self) -> Any:
        stream = self._stream()
        self._launch(stream)
        event = ok(driver.cuEventCreate(0))
        ok(driver.cuEventRecord(event, stream))
        return event


def in_threads(launcher: Launcher, loop: str) -> Callable[[], Awaitable[object]]:
    """Let a thread of a pool launch and wait."""
    if loop == "trio":
        limiter = anyio.CapacityLimiter(THREADS)
        return lambda: anyio.to_thread.run_sync(launcher.launch_and_wait, limiter=limiter)
    pool = ThreadPoolExecutor(THREADS)
    running = asyncio.get_running_loop()

    async def launch() -> None:
        await running.run_in_executor(pool, launcher.launch_and_wait)

    return launch


def polling(launcher: Launcher, seconds: float) -> Callable[[], Awaitable[object]]:
    """Launch, and look until it is done."""

    async def launch() -> None:
        event = launcher.launch_and_record()
        while driver.cuEventQuery(event)[0] == NOT_READY:
            await anyio.sleep(seconds)
        ok(driver.cuEventDestroy(event))

    return launch


async def measure(loop: str, busy: int, image: str, effort: Effort) -> list[Measured]:
    """Measure the peers on one loop."""
    launcher = Launcher(Path(image).read_bytes())
    peers = {"threads with cuda.bindings": in_threads(launcher, loop)}
    for seconds in POLLS_SECONDS:
        peers[f"polling every {seconds * 1e3:.0f} ms"] = polling(launcher, seconds)
    made = []
    with busy_threads(busy):
        for who, operation in peers.items():
            made += await single(who, operation, effort) + await bursts(who, operation, effort)
    return made


def main(arguments: list[str]) -> None:
    """Print what was measured."""
    loop, busy, image, effort = arguments
    backend, options = LOOPS[loop]
    made = anyio.run(
        measure, loop, int(busy), image, Effort.named(effort),
        backend=backend, backend_options=options,
    )  # fmt: skip
    print(json.dumps([measured.to_json() for measured in made]))


if __name__ == "__main__":
    main(sys.argv[1:])
