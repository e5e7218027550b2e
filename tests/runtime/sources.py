"""The kernels of these tests: small, so that nearly all of a compile is the compiler's start."""

from __future__ import annotations

import platform
from typing import Any

import ajit
from ajit._core.key import Key, make_base_key

__all__ = ["ARCH", "SAXPY", "SAXPY_SOURCE", "SYNTAX_ERROR", "base_of", "saxpy"]

ARCH = platform.machine()
"""The architecture that the CPU driver runs."""

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
SYNTAX_ERROR = ajit.Spec(
    'extern "C" __global__ void broken(float* x) {\n    int i = threadIdx.x;\n    x[i] = ;\n}\n',
    "broken",
    params="float* x",
    name="broken",
)


def saxpy(variant: int = 0, **changes: Any) -> ajit.Spec:
    """Return a spec of saxpy; the variants have different keys and the same behaviour."""
    spec = ajit.Spec(
        SAXPY_SOURCE,
        "saxpy",
        params="float a, const float* x, float* y, int n",
        name="saxpy",
        defines={"VARIANT": variant} if variant else {},
    )
    return spec.with_(**changes)


SAXPY = saxpy()


def base_of(runtime: ajit.Runtime, spec: ajit.Spec) -> Key:
    """Return the base key that a spec has on this machine. Blocks."""
    toolchain = runtime._kernels.services.toolchains.find("host")
    return make_base_key(spec, toolchain.identity, ARCH)
