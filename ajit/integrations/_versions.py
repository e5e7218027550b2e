"""The versions of peers that were tried: only these are touched.

An adapter takes hold of what a peer never promised to keep. So a version that no test has met is
left alone, with one warning.
"""

from __future__ import annotations

import importlib.metadata

from ajit._system.warn import warn_only

__all__ = ["TRIED", "is_tried", "version_of"]

TRIED: dict[str, tuple[str, ...]] = {
    "cuda-core": ("1.2.2",),
    "cupy-cuda13x": ("14.2.0",),
    "flashinfer-python": ("0.7.4",),
    "nvidia-cutlass-dsl": ("4.8.1",),
    "quack-kernels": ("0.6.5",),
    "tilelang": ("0.1.15",),
    "triton": ("3.9.0",),
    "warp-lang": ("1.19.0",),
}
"""Distribution to the versions that the adapters' tests have run with."""

_warned: set[tuple[str, str]] = set()


def version_of(distribution: str) -> str:
    """Return the installed version.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError as exc:
        raise ImportError(f"{distribution} is not installed: {exc}") from exc


def is_tried(distribution: str) -> bool:
    """Whether the installed version was tried; if not, warn, once for each version.

    Raises:
        ImportError: It is not installed.
    """
    version = version_of(distribution)
    if version in TRIED[distribution]:
        return True
    if (distribution, version) not in _warned:
        _warned.add((distribution, version))
        warn_only(
            f"{distribution} {version} was never tried with ajit "
            f"({', '.join(TRIED[distribution])} was): it is left alone, and compiles by itself",
            stacklevel=3,
        )
    return False
