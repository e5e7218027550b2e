"""The checks of ``ajit doctor``. Each looks at one thing and never raises."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import ajit
from ajit._compile.toolchains.cuda_headers import find_cuda_headers
from ajit._compile.toolchains.discovery import release_of
from ajit._compile.toolchains.toolchains import Toolchains
from ajit._compile.worker import landlock
from ajit.cli.answering import in_background, result_of, while_cache_answers
from ajit.cli.cache_checks import check_cache
from ajit.cli.device_checks import check_devices
from ajit.cli.entry_checks import check_entries
from ajit.cli.findings import Check, Status
from ajit.cli.layer_checks import check_layers
from ajit.cli.trust_check import check_trust
from ajit.errors import CacheError, CompilerNotFound, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ajit._compile.toolchains.toolchains import Toolchain
    from ajit._core.job import CompilerName
    from ajit.settings import Settings

__all__ = ["Check", "check_settings", "run_checks"]

_PURPOSES: tuple[tuple[CompilerName, str], ...] = (
    ("nvrtc", "compiles for GPUs; the default"),
    ("nvcc", "compiles for GPUs, where a spec asks for it"),
    ("host", "compiles for the CPU driver"),
)


def run_checks(settings: Settings, *, with_peer: bool = False) -> list[Check]:
    """Run every check, in the order in which a kernel needs the things that are checked.

    Args:
        settings: Of the installation.
        with_peer: Whether to race what excludes with another node.
    """
    toolchains = Toolchains(settings)
    # Compilers take their time to say their version, and so does a lock that others try.
    compilers = in_background(lambda: list(_check_compilers(toolchains)))
    cache = in_background(lambda: _check_cache(settings, with_peer=with_peer))
    devices = list(check_devices(settings))
    return [
        _check_versions(),
        *_check_proc(),
        *result_of(compilers),
        _check_sandbox(settings),
        *devices,
        *result_of(cache),
        *_check_entries(settings, toolchains),
        *check_layers(settings),
        check_trust(settings),
    ]


def check_settings(problems: Iterable[SettingsError]) -> list[Check]:
    """Tell what no server would start with; everything else is checked with defaults for it."""
    advice = "no server starts with it; what follows is of its default"
    return [Check("settings", "problem", str(problem), advice) for problem in problems]


def _check_cache(settings: Settings, *, with_peer: bool) -> list[Check]:
    def checked() -> list[Check]:
        return list(check_cache(settings, with_peer=with_peer))

    try:
        return while_cache_answers(settings, checked)
    except CacheError as exc:
        return [Check("cache", "problem", str(settings.cache_dir), f"{exc.reason}; {exc.hint}")]


def _check_entries(settings: Settings, toolchains: Toolchains) -> list[Check]:
    try:
        return while_cache_answers(settings, lambda: list(check_entries(settings, toolchains)))
    except (CacheError, SettingsError):
        return []  # the check of the cache, or of its keys, tells


def _check_versions() -> Check:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    found = f"{ajit.__version__} on {python}, {platform.machine()}"
    if sys.platform != "linux":
        return Check("ajit", "problem", found, "ajit runs on Linux only")
    return Check("ajit", "ok", found)


def _check_proc() -> Iterator[Check]:
    if not Path("/proc/self/fd").exists():
        advice = (
            "mount it: without, the CPU driver cannot load a kernel, what nvcc and host compilers "
            "read cannot be recorded, so that their kernels are not kept, and compilers are not "
            "held to a memory limit"
        )
        yield Check("/proc", "problem", "not there", advice)


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
            yield _check_headers(toolchain)


def _check_sandbox(settings: Settings) -> Check:
    why, wanted = landlock.missing(), settings.sandbox != "off"
    if why:
        return Check("sandbox", "problem" if wanted else "absent", "cannot be made", why)
    advice = "for compiles of other people's sources: AJIT_SANDBOX=landlock"
    return Check("sandbox", "ok", "in use" if wanted else "could be used", "" if wanted else advice)


def _check_headers(nvrtc: Toolchain) -> Check:
    if not nvrtc.include_dirs:
        advice = "needed for cuda_fp16.h, CUB and libcu++: pip install 'ajit[headers]'"
        return Check("CUDA headers", "absent", "not found", advice)
    major, minor = release_of(nvrtc.version)
    headers = find_cuda_headers((major, minor))
    found = "\n".join([str(headers), *nvrtc.include_dirs])
    if headers.runtime == (major, minor):
        return Check("CUDA headers", "ok", found)
    advice = (
        f"not of NVRTC's release, {major}.{minor}: most sources compile, but NVIDIA tests no such "
        "pair, and CCCL's own check of it is off; pip install 'ajit[headers]' takes them alike"
    )
    return Check("CUDA headers", "warning", found, advice)
