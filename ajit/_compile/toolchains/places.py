"""Where CUDA may be installed: wheels, conda, the toolkit. Looks at the file system, loads nothing.

The wheels of CUDA 13 share one root, and who finds all of a toolchain there looks no further. Then
cuda-pathfinder is asked, which knows the layouts of other wheels and of conda packages; the roots
that it does not report (it stops at the first hit, whatever its version) come after it. Each place
is only looked at when the one before did not do: importing cuda-pathfinder alone takes 20 to 30 ms,
which every process of a server would pay at its first kernel.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["cuda_roots", "library_dirs", "wheel_roots"]

TOOLKIT_ROOT = "/usr/local/cuda"

_TARGETS = {"x86_64": ("x86_64-linux",), "aarch64": ("sbsa-linux", "aarch64-linux")}
"""What NVIDIA calls a machine; of ARM those of servers and, before CUDA 13, of Jetson."""


def cuda_roots() -> Iterator[str]:
    """Yield every directory that may hold CUDA's ``bin``, ``include`` and ``lib``, best first."""
    seen = set()
    for root in filter(os.path.isdir, _roots()):
        path = os.path.realpath(root)
        if path not in seen:
            seen.add(path)
            yield path


def library_dirs() -> Iterator[str]:
    """Yield every directory that may hold CUDA's libraries, best first; not all of them exist."""
    for root in cuda_roots():
        yield os.path.join(root, "lib")
        yield os.path.join(root, "lib64")
    yield from filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    yield f"/usr/lib/{platform.machine()}-linux-gnu"
    yield "/usr/lib64"


def wheel_roots() -> list[str]:
    """Return the roots that NVIDIA's CUDA 13 wheels share: ``site-packages/nvidia/cu13``."""
    try:
        spec = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        return []
    places = spec.submodule_search_locations if spec else None
    roots = [os.path.join(place, "cu13") for place in places or ()]
    return [root for root in roots if os.path.isdir(root)]


def _roots() -> Iterator[str]:
    yield from wheel_roots()
    yield from _pathfinder_roots()
    for variable in ("CONDA_PREFIX", "CUDA_HOME", "CUDA_PATH"):
        if root := os.environ.get(variable):
            yield root
            # Conda and cross-compiling toolkits have headers and libraries below the target's name.
            for target in _TARGETS.get(platform.machine(), ()):
                yield os.path.join(root, "targets", target)
    yield sys.prefix
    yield TOOLKIT_ROOT
    if nvcc := shutil.which("nvcc"):
        yield os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))


def _pathfinder_roots() -> Iterator[str]:
    from cuda.pathfinder import find_nvidia_header_directory  # noqa: PLC0415 - 20 ms, not at import

    for library in ("cudart", "cccl"):
        if include := find_nvidia_header_directory(library):
            # .../include, or .../include/cccl
            head, tail = os.path.split(include)
            yield head if tail == "include" else os.path.dirname(head)
