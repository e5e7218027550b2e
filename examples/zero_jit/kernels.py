"""The server's own work: a kernel that is specialised by its width, and a table that is built.

RMSNorm over rows: for a width that is known beforehand the compiler unrolls; for any other there is
the general kernel, which takes the same arguments and can stand in.
"""

from __future__ import annotations

import array
import math
from dataclasses import dataclass
from pathlib import Path

import ajit

__all__ = ["GENERAL", "RMS_NORM", "ROPE", "WIDTHS", "write_rope"]

WIDTHS = (64, 96, 128, 192)
"""What the models of this server have."""

SOURCE = """
#ifdef WIDTH
#define COUNT WIDTH
#else
#define COUNT width
#endif

extern "C" __global__ void rms_norm(float* y, const float* x, int width) {
    const float* row = x + blockIdx.x * COUNT;
    float sum = 0.0f;
    for (int i = 0; i < COUNT; ++i) sum += row[i] * row[i];
    const float scale = rsqrtf(sum / COUNT + 1e-5f);
    float* out = y + blockIdx.x * COUNT;
    for (int i = threadIdx.x; i < COUNT; i += blockDim.x) out[i] = row[i] * scale;
}
"""


@dataclass(frozen=True)
class Key:
    """What a kernel is specialised by."""

    width: int


def _spec(key: Key) -> ajit.Spec:
    name = f"rms_norm {key.width}"
    return ajit.Spec(SOURCE, "rms_norm", name=name, defines={"WIDTH": key.width})


RMS_NORM = ajit.Family(
    "rms_norm",
    _spec,
    dispatch=Key,
    keys=lambda widths: [Key(width) for width in widths],
)

GENERAL = ajit.Spec(SOURCE, "rms_norm", name="rms_norm of any width")


def write_rope(positions: int, width: int) -> None:
    """Write the sines of rotary positions. It runs in a process and a folder of its own."""
    steps = [10000.0 ** (-2 * i / width) for i in range(width // 2)]
    table = array.array("f", (math.sin(p * step) for p in range(positions) for step in steps))
    Path("rope.f32").write_bytes(table.tobytes())


ROPE = ajit.Build(
    "rope table",
    ajit.Call("examples.zero_jit.kernels:write_rope", {"positions": 2048, "width": 128}),
    ["rope.f32"],
)
