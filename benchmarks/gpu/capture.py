"""A load while another thread captures: breaks the capture, unless its thread is in relaxed mode.

First by the driver alone, to show the trap; then by ajit, whose CUDA thread is in relaxed mode
while it loads. Fails if ajit's load breaks the capture, or is refused.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

import ajit
from ajit._core.spec import Spec
from benchmarks.completion_work import SOURCE
from benchmarks.gpu.first_launch import ENTRIES
from benchmarks.gpu.part import IMAGE, Part, Raw, run

if TYPE_CHECKING:
    from collections.abc import Iterator

GLOBAL_MODE = 0
LIMIT_SECONDS = 60.0


class Capture(threading.Thread):
    """A thread that captures until told to stop.

    Attributes:
        code: What the driver said at the end of the capture.
    """

    def __init__(self, path: str) -> None:
        super().__init__(daemon=True)
        self._path = path
        self.begun, self.finish = threading.Event(), threading.Event()
        self.code = -1

    def run(self) -> None:
        driver = Raw(self._path)
        stream, memory = driver.stream(), driver.make("cuMemAlloc_v2", ctypes.c_size_t(256))
        driver.ok("cuStreamBeginCapture_v2", stream, GLOBAL_MODE)
        driver.ok("cuMemsetD8Async", memory, 1, ctypes.c_size_t(256), stream)
        self.begun.set()
        self.finish.wait(LIMIT_SECONDS)
        graph = ctypes.c_void_p()
        self.code = driver.code("cuStreamEndCapture", stream, ctypes.byref(graph))
        if not self.code:
            driver.ok("cuGraphDestroy", graph)
        driver.ok("cuStreamDestroy_v2", stream)
        driver.ok("cuMemFree_v2", memory)


@contextmanager
def capturing(path: str) -> Iterator[Capture]:
    """While another thread captures."""
    capture = Capture(path)
    capture.start()
    if not capture.begun.wait(LIMIT_SECONDS):
        raise TimeoutError("the capture did not begin")
    try:
        yield capture
    finally:
        capture.finish.set()
        capture.join()


def measure(part: Part) -> dict[str, Any]:
    """Load during a capture, in both ways."""
    driver, image = Raw(part.library), (part.folder / IMAGE).read_bytes()
    module = ctypes.c_void_p()
    with capturing(part.library) as capture:
        load_code = driver.code("cuModuleLoadData", ctypes.byref(module), image)
    by_driver = {"load_code": load_code, "capture_code": capture.code}
    capture_code = anyio.run(_ajit, part)
    if capture_code:
        raise OSError(f"ajit's load broke another thread's capture: {capture_code}")
    return {"by_the_driver": by_driver, "by_ajit": {"load_code": 0, "capture_code": capture_code}}


async def _ajit(part: Part) -> int:
    spec = Spec(SOURCE, "nothing", params="float* x, int n")
    async with ajit.open_runtime(device=part.driver, cache_dir=part.folder / "cache") as rt:
        artifact = await rt.compile(spec)
        holder = capturing(part.library)
        capture = await to_thread.run_sync(holder.__enter__)
        try:
            module = await rt.device.load(artifact, ENTRIES)
        finally:
            await to_thread.run_sync(holder.__exit__, None, None, None)
        await module.kernel("nothing").launch(1, 1, None, 0)
    return capture.code


if __name__ == "__main__":
    run(measure)
