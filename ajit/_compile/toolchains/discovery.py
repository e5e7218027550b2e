"""How each kind of compiler is found. Used by `Toolchains` only."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from ajit._compile.recorder.digests import FileCache, FileStamp
from ajit._compile.toolchains.cuda_headers import find_cuda_headers
from ajit._compile.toolchains.identity import Toolchain, fingerprint
from ajit._compile.toolchains.places import cuda_roots, library_dirs
from ajit._compile.worker.host_flags import COMPILE_FLAGS, FAMILY_FLAGS, LINK_FLAGS
from ajit._core.key import ToolchainId
from ajit.errors import CompilerNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["NATIVE_DIR", "find_host", "find_nvcc", "find_nvrtc", "release_of"]

NATIVE_DIR = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "_gpu", "native"
)
"""Where ``cuda_cxx/`` is, the headers that the host compiler needs; nothing else here needs it."""

NVRTC_WHEEL = "nvidia-cuda-nvrtc"
NVRTC_LIBRARY = "libnvrtc.so.13"
Digests = FileCache[str]

Ask: TypeAlias = "Callable[[list[str]], str | None]"
"""Runs a compiler that is asked about itself: `Questions.ask`."""


def find_nvrtc(digests: Digests) -> Toolchain:
    """Find the NVRTC library in wheels, conda, toolkits and the loader's directories."""
    path = _nvrtc_library()
    version, digest = _nvrtc_wheel(path) or (_version_of_name(path), digests.get(path) or "")
    release = release_of(version)
    headers = find_cuda_headers(release)
    return Toolchain(
        kind="nvrtc",
        version=version,
        path=path,
        command=(path,),
        identity=ToolchainId("nvrtc", version, fingerprint(digest, str(headers))),
        include_dirs=headers.dirs,
        flags=headers.flags(release),
        stamp=FileStamp.of(path),
    )


def find_nvcc(digests: Digests, setting: str, ask: Ask) -> Toolchain:
    """Find nvcc: the setting, PATH, then the bin directory of every CUDA root."""
    path, text = _nvcc_program(setting, ask)
    found = re.search(r"V(\d+\.\d+\.\d+)", text)
    version = found.group(1) if found else "unknown"
    host = _host_compiler_of(path, ask)
    headers = find_cuda_headers(release_of(version))
    arches = ask([path, "--list-gpu-code"]) or ""
    return Toolchain(
        kind="nvcc",
        version=version,
        path=path,
        command=(path,),
        identity=ToolchainId(
            "nvcc", version, fingerprint(text, digests.get(path) or "", host, str(headers))
        ),
        # A toolkit's nvcc has its own headers and prefers them to these; that of a wheel does not.
        include_dirs=headers.dirs,
        flags=headers.flags(release_of(version)),
        arches=tuple(arches.split()),
        stamp=FileStamp.of(path),
    )


def find_host(digests: Digests, setting: str, ask: Ask) -> Toolchain:
    """Find a C++ compiler: the setting, PATH, then the ziglang wheel."""
    commands: list[tuple[str, ...]]
    if setting:
        commands = [(setting,)]
    else:
        commands = [(path,) for name in HOST_NAMES for path in _on_path(name)] + _zig()
    for command in commands:
        text = ask([*command, "--version"])
        if text is not None:
            return _host(command, text, digests, ask)
    searched = [" ".join(command) for command in commands]
    if not setting:
        searched = [*(f"{name} on PATH" for name in HOST_NAMES), "the ziglang wheel", *searched]
    install = "install g++ or clang++, or pip install ziglang"
    raise CompilerNotFound(compiler="host", searched=searched, install=install)


HOST_NAMES = ("c++", "g++", "clang++")


def _host(command: tuple[str, ...], text: str, digests: Digests, ask: Ask) -> Toolchain:
    path = command[0]
    target = ask([*command, "-dumpmachine"]) or ""
    first = text.splitlines()[0] if text else ""
    found = re.search(r"\d+\.\d+(\.\d+)*", re.sub(r"\([^)]*\)", "", first)) or re.search(
        r"\d+(\.\d+)+", first
    )
    name = "zig" if len(command) > 1 else "clang" if "clang" in first else "gcc"
    version = f"{name} {found.group() if found else 'unknown'}"
    # An object built against a newer C library does not load with an older one.
    parts = (text, target, "".join(platform.libc_ver()), digests.get(os.path.realpath(path)) or "")
    flags = (*COMPILE_FLAGS, *FAMILY_FLAGS[name], *LINK_FLAGS)
    given = (os.path.join(NATIVE_DIR, "cuda_cxx", "include"), NATIVE_DIR)
    return Toolchain(
        kind="host",
        version=version,
        path=path,
        command=command,
        identity=ToolchainId(
            "host", version, fingerprint(*parts, *flags, *_native_headers(digests))
        ),
        include_dirs=given,
        arches=(platform.machine(),),
        stamp=FileStamp.of(path),
    )


def _native_headers(digests: Digests) -> Iterator[str]:
    """Names and digests of the CUDA C++ headers: they are part of every object built here."""
    for folder, subfolders, names in sorted(os.walk(os.path.join(NATIVE_DIR, "cuda_cxx"))):
        subfolders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            yield os.path.relpath(path, NATIVE_DIR)
            yield digests.get(path) or ""


def _nvrtc_library() -> str:
    searched = []
    for place in library_dirs():
        path = os.path.join(place, NVRTC_LIBRARY)
        if os.path.isfile(path):
            return os.path.realpath(path)
        searched.append(path)
    install = "pip install 'nvidia-cuda-nvrtc>=13,<14'"
    raise CompilerNotFound(compiler="nvrtc", searched=searched, install=install)


def _nvcc_program(setting: str, ask: Ask) -> tuple[str, str]:
    """Path of the first nvcc that runs, and what it says of its version."""
    places = iter([setting]) if setting else chain(_on_path("nvcc"), _in_roots("bin/nvcc"))
    searched = [] if setting else ["nvcc on PATH"]
    for path in places:
        text = ask([path, "--version"])
        if text is not None:
            return path, text
        searched.append(path)
    install = "install the CUDA toolkit, or pip install 'ajit[nvcc]'"
    raise CompilerNotFound(compiler="nvcc", searched=searched, install=install)


def _nvrtc_wheel(path: str) -> tuple[str, str] | None:
    """Version and recorded digests of the wheel that the library belongs to.

    Hashing the library itself takes 0.1 to 0.4 s for its 140 MB; pip has recorded it already.
    """
    try:
        wheel = importlib.metadata.distribution(NVRTC_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None
    files = [file for file in wheel.files or () if file.name.startswith("libnvrtc")]
    digests = sorted(f"{file.name}:{file.hash.value}" for file in files if file.hash)
    for file in files:
        if os.path.realpath(str(wheel.locate_file(file))) != path:
            continue
        if file.hash and file.size == os.path.getsize(path):
            return wheel.version, "\n".join(digests)
    return None


def _version_of_name(path: str) -> str:
    """``libnvrtc.so.13.0.88`` to ``13.0.88``: NVIDIA names the real file by its version."""
    return os.path.basename(path).partition(".so.")[2] or "13"


def release_of(version: str) -> tuple[int, int]:
    """Major and minor version; 13.0 where the text says less."""
    numbers = [int(part) for part in version.split(".") if part.isdigit()]
    major, minor, *_ = (*numbers, 0, 0) if numbers else (13, 0)
    return major, minor


def _on_path(name: str) -> list[str]:
    path = shutil.which(name)
    return [path] if path else []


def _in_roots(relative: str) -> Iterator[str]:
    return (os.path.join(root, relative) for root in cuda_roots())


def _zig() -> list[tuple[str, ...]]:
    spec = importlib.util.find_spec("ziglang")
    places = spec.submodule_search_locations if spec else None
    return [(os.path.join(place, "zig"), "c++") for place in places or ()]


def _host_compiler_of(nvcc: str, ask: Ask) -> str:
    """Version of the compiler that nvcc preprocesses with: the first ``gcc`` on PATH."""
    for path in _on_path("gcc"):
        return (ask([path, "--version"]) or "").partition("\n")[0]
    install = f"nvcc at {nvcc} needs a host compiler (gcc) to preprocess with: install gcc"
    raise CompilerNotFound(compiler="host", searched=["gcc on PATH"], install=install)
