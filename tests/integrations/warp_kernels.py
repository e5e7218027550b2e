"""Kernels of Warp, each a module of its own."""

from __future__ import annotations

import warp as wp


@wp.kernel(module="unique")
def scale(x: wp.array(dtype=float), factor: float):
    i = wp.tid()
    x[i] = x[i] * factor + wp.sin(x[i])


@wp.func_native("this is no C++;")
def no_cxx(x: float): ...


@wp.kernel(module="unique")
def refused(x: wp.array(dtype=float)):
    no_cxx(x[wp.tid()])
