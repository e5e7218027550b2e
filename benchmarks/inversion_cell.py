"""One cell of `benchmarks.inversion`: a process that may deadlock, and says how far it came.

The arguments are those of `main`, in its order; `benchmarks.inversion.run_cell` gives them. It
calls the driver by ctypes: ``ctypes.PyDLL`` keeps the GIL during a call, ``ctypes.CDLL`` lets it
go, and a ctypes callback takes the GIL on the thread that calls it. For ``ajit`` in place of a kind
of callback, ajit itself does the operations, and for ``kv`` its KV pages do.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
WINDOW = 1000
"""Operations of ajit's in flight at once."""
NON_BLOCKING = 1


class Progress:
    """A counter that the parent reads, whatever becomes of this process."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8)

    def at(self, done: int) -> None:
        self._memory[:8] = done.to_bytes(8, "little")


class Driver:
    """The driver by ctypes, on a thread where its context is made current."""

    def __init__(self, path: str, *, holds_gil: bool) -> None:
        self.library: Any = ctypes.PyDLL(path) if holds_gil else ctypes.CDLL(path)
        context = ctypes.c_void_p()
        _ok(self.library.cuInit(0))
        _ok(self.library.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
        _ok(self.library.cuCtxSetCurrent(context))

    def stream(self) -> ctypes.c_void_p:
        stream = ctypes.c_void_p()
        _ok(self.library.cuStreamCreate(ctypes.byref(stream), NON_BLOCKING))
        return stream

    def enter(self) -> None:
        """Any call that takes the driver's lock."""
        pointer = ctypes.c_uint64()
        _ok(self.library.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(256)))
        _ok(self.library.cuMemFree_v2(pointer))


def _ok(code: int) -> None:
    if code:
        raise OSError(f"the driver answered {code}")


@contextmanager
def foreign_library(path: str) -> Iterator[None]:
    """Another library, on a separate thread, that enters the driver with the GIL held."""
    stop = threading.Event()

    def work() -> None:
        driver = Driver(path, holds_gil=True)
        while not stop.is_set():
            driver.enter()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def python_callback(_: str) -> tuple[Any, Callable[[], None]]:
    """A host function in Python, and how to wait for it."""
    done = threading.Semaphore(0)
    return HOST_FUNCTION(lambda _: done.release() and None), lambda: void(done.acquire())


def eventfd_callback(library: str) -> tuple[Any, Callable[[], None]]:
    """A host function in C, and how to wait for it."""
    event_fd = os.eventfd(0)
    function = ctypes.CDLL(library).on_done
    return (function, event_fd), lambda: void(os.read(event_fd, 8))


def void(_: object) -> None:
    """Nothing."""


def drive(driver: Driver, callback: Any, wait: Callable[[], None], count: int, at: Any) -> None:
    """Launch a host function, do something else in the driver, wait for the function."""
    function, argument = callback if isinstance(callback, tuple) else (callback, None)
    stream, pointer = driver.stream(), ctypes.cast(function, ctypes.c_void_p)
    for done in range(count):
        _ok(driver.library.cuLaunchHostFunc(stream, pointer, ctypes.c_void_p(argument)))
        driver.enter()
        wait()
        at(done + 1)


async def drive_ajit(
    path: str,
    count: int,
    at: Callable[[int], None],
    beside: Callable[[str], AbstractContextManager[object]] = foreign_library,
) -> None:
    """Do operations through ajit's CUDA thread, one ticket each, beside a thread."""
    from ajit._gpu.device import open_device
    from ajit.settings import Settings

    kind = "cuda" if path.startswith("libcuda") else "cpu"
    async with open_device(Settings(environ={}, device=kind)) as device:
        buffer = await device.alloc(256)
        done = 0
        with beside(path):
            while done < count:
                tickets = [device.fill(buffer, 1) for _ in range(min(WINDOW, count - done))]
                for ticket in tickets:
                    await ticket
                done += len(tickets)
                at(done)


def main(arguments: list[str]) -> None:
    """Run one cell."""
    path, callbacks, gil, threads, count, progress, callback_library = arguments
    at = Progress(progress).at
    if callbacks == "ajit":
        anyio.run(drive_ajit, path, int(count), at)
        return
    if callbacks == "kv":
        from benchmarks.inversion_kv import drive_kv

        anyio.run(drive_kv, path, int(count), at, threads)
        return
    driver = Driver(path, holds_gil=gil == "held")
    make = {"python": python_callback, "eventfd": eventfd_callback}[callbacks]
    callback, wait = make(callback_library)
    if threads == "one":
        drive(driver, callback, wait, int(count), at)
        return
    with foreign_library(path):
        drive(driver, callback, wait, int(count), at)


if __name__ == "__main__":
    main(sys.argv[1:])
