"""smoke.py: whether an installed ajit works: import, the CPU driver, one kernel, and its cache.

For wheels: run it with the Python that the wheel was installed for, outside of the source folder.
Needs a C++ compiler, which builds the kernel. `--nvrtc` also compiles for a GPU, which needs none.
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


async def use(rt: ajit.Runtime) -> str:
    """Run the kernel, and return the tier that it came from."""
    tier = (await rt.resolve(SCALE, arch=rt.device.arch)).tier
    scale = await rt.kernel(SCALE)
    x = await rt.device.upload(array("f", [1.0, 2.0, 3.0, 4.0]))
    await scale[1, 4](x, 3.0)
    result = (await rt.device.download(x)).tolist()
    if result != [3.0, 6.0, 9.0, 12.0]:
        raise SystemExit(f"the kernel came out wrong: {result}")
    if "--nvrtc" in sys.argv:
        await rt.compile(SCALE, arch="sm_90")
    return tier


def main() -> None:
    """Compile, find again, and say what it was that did."""
    home = Path(ajit.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "cache")
        tiers = [ajit.run(use, device="cpu", cache_dir=cache) for _ in range(2)]
    if tiers != ["compiled", "disk"]:
        raise SystemExit(f"expected a compile and a hit, got {tiers}")
    gil = "no GIL" if sysconfig.get_config_var("Py_GIL_DISABLED") else "GIL"
    nvrtc = ", NVRTC for sm_90" if "--nvrtc" in sys.argv else ""
    print(
        f"ajit {ajit.__version__} in {home}: Python {platform.python_version()} ({gil}), "
        f"{platform.machine()}, glibc {platform.libc_ver()[1]}: import, CPU driver, one kernel, "
        f"its cache{nvrtc}"
    )


if __name__ == "__main__":
    main()
