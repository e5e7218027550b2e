"""What a compiler process sees of the server's environment: what it needs, and no more.

Left out on purpose: secrets of the server, and every variable that would change a build without
changing its key (``NVCC_APPEND_FLAGS``, ``CPATH``, ``CPLUS_INCLUDE_PATH``, ``GCC_EXEC_PREFIX``,
``LD_PRELOAD``, ``SOURCE_DATE_EPOCH``, ...).
"""

from __future__ import annotations

import os

__all__ = ["compiler_environment"]

_KEPT = (
    "PATH",
    "HOME",
    "LD_LIBRARY_PATH",  # compilers from conda or modules find their own libraries by it
    "CUDA_HOME",
    "CUDA_PATH",
    "CONDA_PREFIX",
    "NIX_CC",  # the wrapped compilers of Nix do not work without
)


def compiler_environment() -> dict[str, str]:
    """Return the environment for a compile worker; `TMPDIR` is added for each job.

    Messages are in English and ASCII whatever the server's locale is, so that logs of different
    nodes agree; the compiler sees no GPU, so that it cannot hold one; and ccache, where it stands
    in for the compiler, steps aside: what it reads is its own cache.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "", "CCACHE_DISABLE": "1"}
