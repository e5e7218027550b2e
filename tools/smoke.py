"""smoke.py: whether an installed ajit works: import, the CPU driver, one kernel, and its cache.

For wheels: run it with the Python that the wheel was installed for, outside of the source folder.
Needs a C++ compiler, which builds the kernel. `--nvrtc` also compiles for a GPU, which needs none.
`--emulated` is for qemu: there the compiler's program looks as if it were another file (stat of
/proc/self/exe is that of qemu), so that a kernel of the CPU driver is rightly not kept.
"""

from __future__ import annotations

import platform
import sys
import sysconfig
import tempfile
from array import array
from pathlib import Path

import ajit

SCALE = ajit.Spec("__global__ void scale(float* x, float a) { x[threadIdx.x] *= a; }", "scale")


async def use(rt: ajit.Runtime) -> list[str]:
    """Run the kernel, and return the tiers that kernels came from: the CPU's, and a GPU's."""
    tiers = [(await rt.resolve(SCALE, arch=rt.device.arch)).tier]
    scale = await rt.kernel(SCALE)
    x = await rt.device.upload(array("f", [1.0, 2.0, 3.0, 4.0]))
    await scale[1, 4](x, 3.0)
    result = (await rt.device.download(x)).tolist()
    if result != [3.0, 6.0, 9.0, 12.0]:
        raise SystemExit(f"the kernel came out wrong: {result}")
    if "--nvrtc" in sys.argv:
        tiers.append((await rt.resolve(SCALE, arch="sm_90")).tier)
    return tiers


def main() -> None:
    """Compile, find again, and say what it was that did."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "cache")
        first, second = (ajit.run(use, device="cpu", cache_dir=cache) for _ in range(2))
    expected = ["disk"] * len(first)
    if "--emulated" in sys.argv:
        expected[0] = "compiled"
    if (set(first), second) != ({"compiled"}, expected):
        raise SystemExit(f"expected compiles, then {expected}; got {first}, then {second}")
    gil = "no GIL" if sysconfig.get_config_var("Py_GIL_DISABLED") else "GIL"
    print(
        f"ajit {ajit.__version__} in {Path(ajit.__file__).parent}: "
        f"Python {platform.python_version()} ({gil}), {platform.machine()}, "
        f"glibc {platform.libc_ver()[1]}: import, CPU driver, one kernel, then "
        f"{' and '.join(second)} for the CPU{' and sm_90' if len(second) > 1 else ''}"
    )


if __name__ == "__main__":
    main()
