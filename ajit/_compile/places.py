"""Where CUDA may be installed: wheels, conda, the toolkit. Looks at the file system, loads nothing.

cuda-pathfinder knows the layouts of wheels and conda packages and is asked first; the roots that
it does not report (it stops at the first hit, whatever its version) are added after it.
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


def cuda_roots() -> list[str]:
    """Return every directory that may hold CUDA's ``bin``, ``include`` and ``lib``, best first."""
    return list(dict.fromkeys(os.path.realpath(root) for root in _roots() if os.path.isdir(root)))


def library_dirs() -> list[str]:
    """Return every directory that may hold CUDA's libraries, best first; not all of them exist."""
    in_roots = [os.path.join(root, name) for root in cuda_roots() for name in ("lib", "lib64")]
    loader = [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
    return [*in_roots, *loader, f"/usr/lib/{platform.machine()}-linux-gnu", "/usr/lib64"]


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
            yield os.path.join(root, "targets", "x86_64-linux")
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
