"""The kernels of these tests: small, so that nearly all of a compile is the compiler's start."""

from __future__ import annotations

import platform
from typing import Any

import ajit

__all__ = ["ARCH", "SAXPY", "SAXPY_SOURCE", "SYNTAX_ERROR", "saxpy"]

ARCH = platform.machine()
"""What the CPU driver runs."""

SAXPY_SOURCE = """
extern "C" __global__ void saxpy(float a, const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
extern "C" __global__ void scale(float a, float* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= a;
}
"""

SYNTAX_ERROR_LINE = 3
SYNTAX_ERROR = ajit.Spec.of(
    'extern "C" __global__ void broken(float* x) {\n    int i = threadIdx.x;\n    x[i] = ;\n}\n',
    "broken",
    "float* x",
    name="broken",
)


def saxpy(variant: int = 0, **changes: Any) -> ajit.Spec:
    """Return a spec of saxpy; each variant has a key of its own and the same behaviour."""
    spec = ajit.Spec.of(
        SAXPY_SOURCE,
        "saxpy",
        "float a, const float* x, float* y, int n",
        name="saxpy",
        defines={"VARIANT": variant} if variant else {},
    )
    return spec.with_(**changes)


SAXPY = saxpy()
