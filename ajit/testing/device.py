"""The CPU driver under a test's control: it fails, stops, or is lost, when a test says so.

The CPU driver is ajit's fake of a GPU: the driver API with the same functions and error codes, over
CPU threads. Everything above it is the same code, and the tests of the device layer pass on both.
What a real device does once in a year, it does on demand.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ajit._gpu.driver import CPU_LIBRARY
from ajit._gpu.wire import NATIVE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

__all__ = ["FakeDevice"]

MANY, UNTIL_RELEASED = 1 << 30, 0xFFFFFFFF
"""More calls than a test makes, and the delay that lasts until they are released (fault.h)."""

LOST = 700
"""``CUDA_ERROR_ILLEGAL_ADDRESS``: a kernel wrote beside its memory, which ends its context."""


class FakeDevice:
    """Faults of the CPU driver of this process. A context manager, at whose end there are none.

    Steps of the driver are named by its functions, such as ``cuLaunchKernel``, and steps of the
    device ``device:launch``, ``device:copy`` and ``device:host``. An error of a device's step is
    sticky, as on a GPU: the context is lost.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(str(NATIVE / CPU_LIBRARY))
        library.ajit_cpu_inject.argtypes = (
            ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
        )  # fmt: skip
        self._library = library

    def fail(self, step: str, error: int, *, count: int = 1) -> None:
        """Let a step fail.

        Args:
            step: Which.
            error: The driver's error code, a ``CUresult``.
            count: How often; 0 takes it back.

        Raises:
            ValueError: The name is too long, or too many steps fail already.
        """
        self._inject(step, error, count, 0)

    def delay(self, step: str, seconds: float, *, count: int = 1) -> None:
        """Let a step take longer. Raises as `fail` does."""
        self._inject(step, 0, count, int(seconds * 1e6))

    def stop(self, step: str) -> None:
        """Let a step not end until `release`. Raises as `fail` does."""
        self._inject(step, 0, MANY, UNTIL_RELEASED)

    def release(self) -> None:
        """Let the steps go on that are stopped now."""
        self._library.ajit_cpu_release_calls()

    @contextmanager
    def stopped(self, step: str) -> Iterator[None]:
        """Let a step that begins in the block end after it."""
        self.stop(step)
        try:
            yield
        finally:
            self._inject(step, 0, 0, 0)
            self.release()

    def hold(self) -> None:
        """Let the device accept work and do nothing."""
        self._library.ajit_cpu_hold_streams(1)

    def let_go(self) -> None:
        """Let it go on."""
        self._library.ajit_cpu_hold_streams(0)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the device accept work and do nothing, until the block is left."""
        self.hold()
        try:
            yield
        finally:
            self.let_go()

    def lose_callbacks(self, count: int) -> None:
        """Let the next host functions, which tell that work is done, never come."""
        self._library.ajit_cpu_set_lost_callbacks(count)

    def lose(self, error: int = LOST) -> None:
        """Lose the device: every call that needs it fails with this code from now on."""
        self._library.ajit_cpu_poison(error)

    def reset(self) -> None:
        """Take all faults back. What was submitted, and a runtime that has seen a loss, stay so."""
        self._library.ajit_cpu_reset()

    def __enter__(self) -> Self:
        self.reset()
        return self

    def __exit__(self, *_: object) -> None:
        self.reset()

    def _inject(self, step: str, error: int, count: int, delay_us: int) -> None:
        code = self._library.ajit_cpu_inject(step.encode(), error, count, delay_us)
        if code != 0:
            raise ValueError(f"the CPU driver does not take a fault of {step!r} (code {code})")
