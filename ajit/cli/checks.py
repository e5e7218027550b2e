"""The checks of ``ajit doctor``. Each looks at one thing and never raises."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

import ajit
from ajit._compile.toolchains.toolchains import Toolchains
from ajit.cli.cache_checks import check_cache
from ajit.cli.device_checks import check_devices
from ajit.cli.findings import Check, Status
from ajit.errors import CompilerNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._core.job import CompilerName
    from ajit.settings import Settings

__all__ = ["Check", "run_checks"]

_PURPOSES: tuple[tuple[CompilerName, str], ...] = (
    ("nvrtc", "compiles for GPUs; the default"),
    ("nvcc", "compiles for GPUs, where a spec asks for it"),
    ("host", "compiles for the CPU driver"),
)


def run_checks(settings: Settings) -> list[Check]:
    """Run every check, in the order in which a kernel needs the things that are checked."""
    return [
        _check_versions(),
        *_check_compilers(Toolchains(settings)),
        *check_devices(settings),
        *check_cache(settings),
    ]


def _check_versions() -> Check:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    found = f"{ajit.__version__} on {python}, {platform.machine()}"
    if sys.platform != "linux":
        return Check("ajit", "problem", found, "ajit runs on Linux only")
    return Check("ajit", "ok", found)


def _check_compilers(toolchains: Toolchains) -> Iterator[Check]:
    for kind, purpose in _PURPOSES:
        try:
            toolchain = toolchains.find(kind)
        except CompilerNotFound as exc:
            # nvrtc can replace nvcc; nothing replaces nvrtc (the default) or the host compiler.
            status: Status = "absent" if kind == "nvcc" else "problem"
            # nvcc itself needs a C++ compiler, and may be installed without one.
            found = "not found" if exc.compiler == kind else f"has no {exc.compiler} compiler"
            yield Check(kind, status, found, f"{purpose}: {exc.install}")
            continue
        yield Check(kind, "ok", f"{toolchain.version}, {toolchain.path}", purpose)
        if kind == "nvrtc":
            yield _check_headers(toolchain.include_dirs)


def _check_headers(include_dirs: tuple[str, ...]) -> Check:
    if not include_dirs:
        advice = "needed for cuda_fp16.h, CUB and libcu++: pip install 'ajit[headers]'"
        return Check("CUDA headers", "absent", "not found", advice)
    return Check("CUDA headers", "ok", "\n".join(include_dirs))
