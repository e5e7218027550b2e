"""Operations without a deadlock, beside a thread that keeps the driver busy from Python.

The thread runs PyTorch where that is there and the driver is NVIDIA's; else it enters the driver
with the GIL held. A deadlock is a part that does not end: its time limit is kept from outside.
"""

from __future__ import annotations

import functools
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio

from benchmarks.gpu.part import Part, run
from benchmarks.inversion_cell import drive_ajit, foreign_library

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATIONS = 1_000_000
MATRIX = 512


def measure(part: Part) -> dict[str, Any]:
    """Do them all."""
    count = part.runs(OPERATIONS)
    torch = _torch(part)
    done, turns = [0], [0]
    begun = time.perf_counter()

    def at(number: int) -> None:
        done[0] = number

    beside = functools.partial(_busy_torch, torch, turns) if torch else foreign_library
    anyio.run(drive_ajit, part.library, count, at, beside)
    return {
        "operations": done[0],
        "seconds": time.perf_counter() - begun,
        "beside": f"PyTorch {torch.__version__}" if torch else "a thread that keeps the GIL",
        "products_of_matrices": turns[0],
    }


def _torch(part: Part) -> Any:
    if part.driver != "cuda":
        return None
    try:
        import torch
    except ImportError:
        return None
    return torch


@contextmanager
def _busy_torch(torch: Any, turns: list[int], _: str) -> Iterator[None]:
    """Products of matrices, and now and then an answer that is waited for."""
    stop = threading.Event()

    def work() -> None:
        a = torch.ones(MATRIX, MATRIX, device="cuda") / MATRIX
        b = a.clone()
        while not stop.is_set():
            b = b @ a
            turns[0] += 1
            if turns[0] % 16 == 0:
                b.sum().item()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    run(measure)
