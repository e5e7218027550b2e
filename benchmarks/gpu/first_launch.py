"""What the first launch of a kernel costs: loaded lazily, eagerly, or by ajit, which forces it.

The last argument says which. CUDA reads ``CUDA_MODULE_LOADING`` once, so each is a process.
"""

from __future__ import annotations

import os
import time
from typing import Any

import anyio

import ajit
from ajit._core.spec import EntryPoint, Spec
from benchmarks.completion_work import SOURCE
from benchmarks.gpu.part import IMAGE, Part, Raw, run, timed

ENTRIES = (EntryPoint("nothing", ("float*", "int")),)


def measure(part: Part) -> dict[str, Any]:
    """Load, launch, and launch again, waiting each time."""
    (how,) = part.rest
    if how == "ajit":
        os.environ["CUDA_MODULE_LOADING"] = "LAZY"  # the default of CUDA 12 and 13
        return anyio.run(_ajit, part)
    os.environ["CUDA_MODULE_LOADING"] = how.upper()
    return _raw(part)


def _raw(part: Part) -> dict[str, Any]:
    driver, image = Raw(part.library), (part.folder / IMAGE).read_bytes()
    stream = driver.stream()
    begun = time.perf_counter()
    module = driver.make("cuModuleLoadData", image)
    function = driver.make("cuModuleGetFunction", module, b"nothing")
    loaded = time.perf_counter() - begun

    def launch() -> None:
        driver.launch(function, stream)
        driver.ok("cuStreamSynchronize", stream)

    return _result(loaded, timed(launch), timed(launch))


async def _ajit(part: Part) -> dict[str, Any]:
    spec = Spec(SOURCE, "nothing", params="float* x, int n")
    async with ajit.open_runtime(device=part.driver, cache_dir=part.folder / "cache") as rt:
        artifact = await rt.compile(spec)
        begun = time.perf_counter()
        kernel = (await rt.device.load(artifact, ENTRIES)).kernel("nothing")
        times = [time.perf_counter() - begun]
        for _ in range(2):
            begun = time.perf_counter()
            await kernel.launch(1, 1, None, 0)
            times.append(time.perf_counter() - begun)
    return _result(*times)


def _result(loaded: float, first: float, second: float) -> dict[str, Any]:
    return {"load_seconds": loaded, "first_seconds": first, "second_seconds": second}


if __name__ == "__main__":
    run(measure)
