"""What a launch of an empty kernel costs, and a launch that is waited for: ajit and its peers.

The last argument names one of them. Each runs in a separate process, on its own streams.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio

import ajit
from ajit._core.spec import Spec
from benchmarks.completion_work import SOURCE
from benchmarks.gpu.part import IMAGE, Part, Skip, measured, run, timed

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 2000
IN_A_ROW, ROWS = 500, 20


def measure(part: Part) -> dict[str, Any]:
    """Measure the one that the argument names."""
    (who,) = part.rest
    if who == "ajit":
        return anyio.run(_ajit, part)
    try:
        launch, synchronize = PEERS[who](part)
    except ImportError as error:
        raise Skip(str(error)) from error
    return _measure(part, launch, synchronize)


def _measure(
    part: Part, launch: Callable[[], object], synchronize: Callable[[], object]
) -> dict[str, Any]:
    submitted, resumed, rows = [], [], []
    launch()
    synchronize()
    for _ in range(part.runs(RUNS)):
        begun = time.perf_counter()
        launch()
        submitted.append(time.perf_counter() - begun)
        synchronize()
        resumed.append(time.perf_counter() - begun)
    for _ in range(part.runs(ROWS)):
        rows.append(timed(lambda: [launch() for _ in range(IN_A_ROW)]))
        synchronize()
    return _result(submitted, resumed, rows)


def _result(submitted: list[float], resumed: list[float], rows: list[float]) -> dict[str, Any]:
    return {
        "submit": measured("submit", submitted),
        "submit_and_wait": measured("submit and wait", resumed),
        "submit_in_a_row": measured("submit in a row", rows, IN_A_ROW),
    }


async def _ajit(part: Part) -> dict[str, Any]:
    spec = Spec(SOURCE, "nothing", params="float* x, int n")
    submitted, resumed, rows, batches = [], [], [], []
    async with ajit.open_runtime(device=part.driver, cache_dir=part.folder / "cache") as rt:
        kernel = await rt.kernel(spec)
        await kernel.launch(1, 1, None, 0)
        for _ in range(part.runs(RUNS)):
            begun = time.perf_counter()
            ticket = kernel.launch(1, 1, None, 0)
            submitted.append(time.perf_counter() - begun)
            await ticket
            resumed.append(time.perf_counter() - begun)
        bound = kernel.bind(1, 1, None, 0)
        for _ in range(part.runs(ROWS)):
            tickets: list[Any] = []
            rows.append(
                timed(lambda: tickets.extend(kernel.launch(1, 1, None, 0) for _ in range(IN_A_ROW)))  # noqa: B023  # it is called at once
            )
            await tickets[-1]
            batch = rt.device.batch()
            begun = time.perf_counter()
            for _ in range(IN_A_ROW):
                batch.add_bound(bound)
            ticket = batch.submit()
            batches.append(time.perf_counter() - begun)
            await ticket
    return _result(submitted, resumed, rows) | {
        "submit_as_a_batch": measured("submit as a batch", batches, IN_A_ROW)
    }


def _cuda_core(part: Part) -> tuple[Callable[[], object], Callable[[], object]]:
    import numpy as np

    try:
        from cuda.core import Device, LaunchConfig, ObjectCode, launch
    except ImportError:  # before 1.0
        from cuda.core.experimental import Device, LaunchConfig, ObjectCode, launch

    device = Device()
    device.set_current()
    stream = device.create_stream()
    code = ObjectCode.from_cubin((part.folder / IMAGE).read_bytes())
    kernel, config = code.get_kernel("nothing"), LaunchConfig(grid=1, block=1)
    address, count = np.uint64(0), np.int32(0)
    return lambda: launch(stream, config, kernel, address, count), stream.sync


def _cupy(part: Part) -> tuple[Callable[[], object], Callable[[], object]]:
    part.need_gpu("CuPy")
    import cupy

    kernel, x = cupy.RawKernel(SOURCE, "nothing"), cupy.zeros(1, cupy.float32)
    stream = cupy.cuda.Stream(non_blocking=True)
    stream.use()
    arguments = (x, cupy.int32(0))
    return lambda: kernel((1,), (1,), arguments), stream.synchronize


def _triton(part: Part) -> tuple[Callable[[], object], Callable[[], object]]:
    part.need_gpu("Triton")
    import torch

    from benchmarks.gpu.triton_kernel import nothing

    x = torch.zeros(1, device="cuda")
    return lambda: nothing[(1,)](x, 0), torch.cuda.current_stream().synchronize


def _torch(part: Part) -> tuple[Callable[[], object], Callable[[], object]]:
    part.need_gpu("PyTorch")
    import torch

    x = torch.zeros(1, device="cuda")
    return x.zero_, torch.cuda.current_stream().synchronize


PEERS = {"cuda.core": _cuda_core, "cupy": _cupy, "triton": _triton, "torch": _torch}


if __name__ == "__main__":
    run(measure)
