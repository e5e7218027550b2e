"""Kernels of the CuTe DSL: one of QuACK's own, and others that are cached by its decorator."""

from __future__ import annotations

from typing import Any

import cutlass
from cutlass import cute
from quack.cache import jit_cache
from quack.compile_utils import make_fake_tensor
from quack.softmax import Softmax

__all__ = ["cute", "moved", "refused", "softmax", "unstable"]


def softmax(columns: int) -> Any:
    """Compile QuACK's softmax, or find it."""
    return Softmax.compile(cutlass.Float16, cutlass.Float16, columns)


class Move:
    @cute.kernel
    def kernel(self, x: cute.Tensor):
        x[0] = x[1]

    @cute.jit
    def __call__(self, x: cute.Tensor):
        self.kernel(x).launch(grid=[1, 1, 1], block=[1, 1, 1])


class Unstable:
    @cute.kernel
    def kernel(self, x: cute.Tensor, n: cutlass.Int32):
        i = cutlass.Int32(0)
        while i < n:
            i = cutlass.Float32(2.0)
        x[0] = x[1]

    @cute.jit
    def __call__(self, x: cute.Tensor):
        self.kernel(x, cutlass.Int32(3)).launch(grid=[1, 1, 1], block=[1, 1, 1])


def compiled(kernel: Any, options: str = "") -> Any:
    x = make_fake_tensor(cutlass.Float32, (cute.sym_int(), 128), 4)
    return cute.compile(kernel, x, options=f"--enable-tvm-ffi {options}")


@jit_cache
def moved() -> Any:
    """A kernel of one line."""
    return compiled(Move())


@jit_cache
def refused() -> Any:
    """Its compiler is told a flag that there is not."""
    return compiled(Move(), "--ptxas-options '--there-is-no-such-flag'")


@jit_cache
def unstable() -> Any:
    """Its code is refused."""
    return compiled(Unstable())
