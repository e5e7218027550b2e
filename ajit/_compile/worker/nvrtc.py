"""NVRTC, as a worker process uses it: source in memory, cubin in memory, no file written.

Every entry point is added as a name expression. That finds templates (``scale<float, 4>``), plain
kernels and ``extern "C"`` ones alike, and NVRTC says the lowered name of each. An entry that does
not exist makes the whole compile fail; whether the source itself is at fault is then found out by
compiling it without entries, not by reading the log.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import TYPE_CHECKING, Any

from cuda.bindings import nvrtc as _nvrtc

from ajit._compile.recorder.flags import DEFAULT_STANDARD, has_standard
from ajit._compile.worker.messages import (
    LOG_LIMIT_BYTES,
    JobFailed,
    JobFinished,
    WorkerAnswer,
    cut_short,
)
from ajit._compile.worker.rejections import Explaining, first_error_place, without_more_time
from ajit._compile.worker.text import capped, label_of, without_paths
from ajit._core.elf import fault_of, kernel_symbols
from ajit._core.job import CompileOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit._compile.worker.messages import WorkerRequest
    from ajit._compile.worker.recording import Recorder

__all__ = ["compile_job", "load"]

_Result = _nvrtc.nvrtcResult
_REJECTED = (_Result.NVRTC_ERROR_COMPILATION, _Result.NVRTC_ERROR_INVALID_OPTION)

_CANARY = "ajit-canary.h"
_ENDS_EARLY = f'#if __has_include("/{_CANARY}")\n#endif\n#error\n'
_TRIVIAL = "__global__ void ajit_probe() {}"


def compile_job(request: WorkerRequest, recorder: Recorder) -> WorkerAnswer:
    """Compile one job with NVRTC."""
    _load(request.command[0])
    if not recorder.knows_nvrtc:
        recorder.note_nvrtc(seen=_is_seen(recorder))
        recorder.begin()
    known = _known_arches()  # and the bindings have read what they read at their first call
    with recorder.in_library():
        return _compile(request, known)


def load(request: WorkerRequest) -> None:
    """Load the library and its bindings, and compile nothing: that may start threads."""
    _load(request.command[0])
    _known_arches()


def _compile(request: WorkerRequest, known: tuple[str, ...]) -> WorkerAnswer:
    arch = request.job.arch
    if arch.rstrip("af") not in known:
        return JobFailed(kind="arch", known=known)
    started = time.perf_counter()
    program = _Program(request, request.job.source, request.job.entries)
    result = program.compile(_options(request))
    seconds = time.perf_counter() - started
    if result in _REJECTED:
        return _rejected(request, program.log(), known, seconds)
    if result != _Result.NVRTC_SUCCESS:
        return JobFailed(kind="crash", log=f"{result.name}\n{program.log()}", exit_code=int(result))
    return _finished(request, program, seconds)


class _Program:
    """One ``nvrtcProgram``; destroyed with this object."""

    def __init__(self, request: WorkerRequest, source: str, entries: Sequence[str]) -> None:
        headers = request.job.headers
        self._handle = _ok(
            _nvrtc.nvrtcCreateProgram(
                source.encode(),
                label_of(request.job.name).encode(),
                len(headers),
                [text.encode() for _, text in headers],
                [name.encode() for name, _ in headers],
            )
        )
        for entry in entries:
            _ok(_nvrtc.nvrtcAddNameExpression(self._handle, entry.encode()))

    def compile(self, options: Sequence[str]) -> Any:
        raw = [os.fsencode(option) for option in options]
        return _nvrtc.nvrtcCompileProgram(self._handle, len(raw), raw)[0]

    def log(self) -> str:
        size = _ok(_nvrtc.nvrtcGetProgramLogSize(self._handle))
        text = bytes(size)
        _ok(_nvrtc.nvrtcGetProgramLog(self._handle, text))
        return capped(text.rstrip(b"\0"), LOG_LIMIT_BYTES).strip()

    def cubin(self) -> bytes:
        size = _ok(_nvrtc.nvrtcGetCUBINSize(self._handle))
        data = bytes(size)
        _ok(_nvrtc.nvrtcGetCUBIN(self._handle, data))
        return data

    def cubin_size(self) -> int:
        return int(_ok(_nvrtc.nvrtcGetCUBINSize(self._handle)))

    def lowered(self, entry: str) -> str:
        return str(_ok(_nvrtc.nvrtcGetLoweredName(self._handle, entry.encode())).decode())

    def __del__(self) -> None:
        if handle := self.__dict__.get("_handle"):
            _nvrtc.nvrtcDestroyProgram(handle)


def _finished(request: WorkerRequest, program: _Program, seconds: float) -> WorkerAnswer:
    size = program.cubin_size()
    if size > request.output_limit_bytes:
        return JobFailed(kind="output", size_bytes=size)
    if size == 0:
        return JobFailed(kind="crash", log=f"no cubin\n{program.log()}", exit_code=0)
    data = program.cubin()
    lowered = {entry: program.lowered(entry) for entry in request.job.entries}
    if fault := fault_of("cubin", data, ()):
        return cut_short(fault, program.log())
    kernels = kernel_symbols(data)
    for entry, name in lowered.items():
        # A name expression also finds variables and device functions; those cannot be launched.
        if name not in kernels:
            return JobFailed(kind="entry", entry=entry, log=f"{entry} is not a __global__ function")
    return JobFinished(
        CompileOutput(
            kind="cubin",
            data=data,
            lowered=lowered,
            log=without_paths(program.log(), request),
            command=("nvrtc", *(without_paths(option, request) for option in _options(request))),
            seconds=seconds,
        )
    )


def _rejected(
    request: WorkerRequest, log: str, known: tuple[str, ...], seconds: float
) -> JobFailed:
    if first_error_place(log) == "source":
        return JobFailed(kind="compile", log=log)
    if _log_if_rejected(request, _TRIVIAL, (), [_arch_option(request)]) is not None:
        return JobFailed(kind="arch", known=known)
    options = _options(request)
    explaining = Explaining(seconds)
    # First without entries: that log is without the errors that could not but follow.
    for entry in ("", *request.job.entries):
        asked = (entry,) if entry else ()
        if not explaining.has_time:
            return without_more_time(request.job.entries, log)
        begun = time.perf_counter()
        rejected = _log_if_rejected(request, request.job.source, asked, options)
        explaining.took(time.perf_counter() - begun)
        if rejected is None:
            continue
        if entry and first_error_place(rejected) != "source":
            return JobFailed(kind="entry", entry=entry, log=rejected)
        return JobFailed(kind="compile", log=rejected)
    return JobFailed(kind="compile", log=log)


def _log_if_rejected(
    request: WorkerRequest, source: str, entries: Sequence[str], options: Sequence[str]
) -> str | None:
    program = _Program(request, source, entries)
    return None if program.compile(options) == _Result.NVRTC_SUCCESS else program.log()


def _options(request: WorkerRequest) -> list[str]:
    job = request.job
    options = [_arch_option(request), *request.flags]
    if not has_standard(job.options):
        options.append(DEFAULT_STANDARD)
    options += [
        f"-D{name}" if value is None else f"-D{name}={value}" for name, value in job.defines
    ]
    options += job.options
    options += [f"-I{path}" for path in (*job.include_dirs, *request.include_dirs)]
    # NVRTC's own cache would be a second, unverified one. Its precompiled headers, where a spec
    # asks for them, go to a directory of this job: sharing one has crashed other projects.
    options += ["--no-cache"] if _has_cache(request.version) else []
    if any(
        option.lstrip("-").startswith(("pch", "create-pch", "use-pch")) for option in job.options
    ):
        options.append(f"--pch-dir={request.folder}")
    return options


def _is_seen(recorder: Recorder) -> bool:
    """Whether the recorder sees what NVRTC looks for. Takes a few ms, once in a worker's life."""
    with recorder.in_library():
        _, program = _nvrtc.nvrtcCreateProgram(_ENDS_EARLY.encode(), b"canary.cu", 0, [], [])
        _nvrtc.nvrtcCompileProgram(program, 0, [])
        _nvrtc.nvrtcDestroyProgram(program)
    return recorder.saw(_CANARY)


def _arch_option(request: WorkerRequest) -> str:
    return f"--gpu-architecture={request.job.arch}"


def _has_cache(version: str) -> bool:
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    return numbers >= [13, 0]


def _known_arches() -> tuple[str, ...]:
    return tuple(f"sm_{number}" for number in _ok(_nvrtc.nvrtcGetSupportedArchs()))


def _load(path: str) -> None:
    """Load the library that was fingerprinted, so that the bindings cannot take another one.

    They ask the loader for the library's soname first, and get the one that is loaded already.
    """
    ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_GLOBAL)


def _ok(answer: tuple[Any, ...]) -> Any:
    result, *values = answer
    if result != _Result.NVRTC_SUCCESS:
        raise RuntimeError(f"{result.name} ({int(result)})")
    return values[0] if values else None
