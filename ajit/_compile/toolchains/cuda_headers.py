"""The CUDA runtime's headers and CCCL (CUB, libcu++), wherever they are installed.

They come as wheels (``nvidia-cuda-runtime``, ``nvidia-cuda-cccl``), from conda, or with a toolkit.
Headers of the same release as the compiler are preferred, for NVIDIA tests no other combination;
where only another minor release of the same major is there, it is used with CCCL's own check of
the combination switched off, since compiling usually works and refusing never does.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._compile.toolchains.places import cuda_roots

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CudaHeaders", "find_cuda_headers"]

VERSION_BYTES = 64 * 1024
"""``CUDART_VERSION`` stands far above this in its header; the rest of the file is not needed."""


@dataclass(frozen=True, slots=True)
class CudaHeaders:
    """One installation of CUDA headers.

    Attributes:
        dirs: Include directories in search order: the runtime's, then CCCL's.
        runtime: Version of the runtime's headers, such as ``(13, 5)``; None if there are none.
        cccl: CCCL's version, such as ``3.5.0``; "" if there is none.
    """

    dirs: tuple[str, ...]
    runtime: tuple[int, int] | None
    cccl: str

    def __str__(self) -> str:
        runtime = ".".join(map(str, self.runtime)) if self.runtime else "none"
        return f"cudart {runtime}, cccl {self.cccl or 'none'}"

    def flags(self, compiler: tuple[int, int]) -> tuple[str, ...]:
        """Return the flags that a compiler of that release needs with these headers."""
        if self.runtime in (None, compiler):
            return ()
        return ("-DCCCL_DISABLE_CTK_COMPATIBILITY_CHECK",)


def find_cuda_headers(compiler: tuple[int, int]) -> CudaHeaders:
    """Return the headers that match a compiler's release best; empty if there are none.

    Args:
        compiler: Major and minor version of the compiler they are for.
    """
    best, best_rank = CudaHeaders((), None, ""), None
    for headers in _installed():
        rank = _rank(headers, compiler)
        # The first of equals: the places are in the order of preference.
        if rank is not None and (best_rank is None or rank < best_rank):
            best, best_rank = headers, rank
        if best_rank == _BEST_RANK:
            break  # none can be better, and looking on is slow (see `places`)
    return best


_BEST_RANK = (0, False)


def _rank(headers: CudaHeaders, compiler: tuple[int, int]) -> tuple[int, bool] | None:
    """How far headers are from a compiler, the lower the better; None if they are of no use."""
    if headers.runtime is None or headers.runtime[0] != compiler[0]:
        return None
    return abs(headers.runtime[1] - compiler[1]), not headers.cccl


def _installed() -> Iterator[CudaHeaders]:
    for root in cuda_roots():
        include = os.path.join(root, "include")
        runtime = _macro(os.path.join(include, "cuda_runtime_api.h"), "CUDART_VERSION")
        if runtime is None:
            continue
        # CUDA 13 keeps CCCL in a separate directory; conda packages put it beside the rest.
        cccl_dirs = [path for path in (os.path.join(include, "cccl"), include) if _has_cccl(path)]
        version = _cccl_version(cccl_dirs[0]) if cccl_dirs else ""
        dirs = dict.fromkeys([include, *cccl_dirs[:1]])
        yield CudaHeaders(tuple(dirs), (runtime // 1000, runtime % 1000 // 10), version)


def _has_cccl(path: str) -> bool:
    return os.path.isdir(os.path.join(path, "cub"))


def _cccl_version(path: str) -> str:
    number = _macro(os.path.join(path, "cub", "version.cuh"), "CUB_VERSION")
    return f"{number // 100000}.{number // 100 % 1000}.{number % 100}" if number else "unknown"


def _macro(path: str, name: str) -> int | None:
    try:
        with open(path, "rb") as file:
            head = file.read(VERSION_BYTES)
    except OSError:
        return None
    match = re.search(rb"#define\s+" + name.encode() + rb"\s+(\d+)", head)
    return int(match.group(1)) if match else None
