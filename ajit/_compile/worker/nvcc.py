"""nvcc: source to PTX to cubin, with the lowered name of every entry point.

nvcc has no name expressions. What it has is the address of a kernel as the initial value of a
device variable: that instantiates a template like a use does, is a compile error for an unknown
name, and stands in the PTX as ``.global .u64 ajit_entry_0 = _Z5scaleIfLi4EEvPT_;``. So the source
is compiled to PTX with one such variable for each entry point, the lowered names are read from
these lines, the lines are taken out, and nvcc assembles the rest. The front end runs once, and the
cubin is the one that the user's source gives.

With debug information (``-G``) the variables are described elsewhere in the PTX as well; they are
then left in, where they cost eight bytes each.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ajit._compile.worker.commands import (
    common_arguments,
    explain_rejection,
    read_result,
    write_source,
)
from ajit._compile.worker.messages import JobFailed, JobFinished, WorkerAnswer, cut_short
from ajit._compile.worker.rejections import first_error_place
from ajit._compile.worker.run_program import Ran, broke_off, run_compiler, shown_command
from ajit._compile.worker.text import nameless, without_paths
from ajit._core.elf import fault_of, kernel_symbols, ptx_fault_of
from ajit._core.job import CompileOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit._compile.worker.messages import WorkerRequest

__all__ = ["compile_nvcc"]

SOURCE = "source.cu"
PTX = "module.ptx"
RESULT = "module.cubin"

_VARIABLE = "ajit_entry_{index}"
_ENTRY_LINE = re.compile(rb"^[^\n]*\bajit_entry_(\d+) = ([\w$.]+)\s*;[^\n]*\n", re.MULTILINE)
_IS_ADDRESS = re.compile(r"[&(]|(?:static|reinterpret|const)_cast\b")


def compile_nvcc(request: WorkerRequest) -> WorkerAnswer:
    """Compile one job with nvcc."""
    arguments = _arguments(request)
    front = [*arguments, "-ptx", SOURCE, "-o", PTX]
    ran = _attempt(request, request.job.entries, front)
    if failed := broke_off(ran):
        return failed
    if not ran.ok:
        return _rejected(request, ran, front)
    ptx = read_result(request, PTX, ran)
    if isinstance(ptx, JobFailed):
        return ptx
    variables = [_VARIABLE.format(index=n) for n, _ in enumerate(request.job.entries)]
    if fault := ptx_fault_of(ptx, variables):
        return cut_short(fault, ran.log)
    lowered = _take_entry_lines(request, ptx)
    return _assembled(request, arguments, ran, lowered)


def _attempt(request: WorkerRequest, entries: Sequence[str], front: Sequence[str]) -> Ran:
    lines = [
        f"__device__ const void* {_VARIABLE.format(index=index)} = (const void*){_address(entry)};"
        for index, entry in enumerate(entries)
    ]
    write_source(request, "\n".join(lines), SOURCE)
    return run_compiler(request, front)


def _address(entry: str) -> str:
    """The address of an entry point; some name expressions are one already: ``&k``, a cast."""
    return f"({entry})" if _IS_ADDRESS.match(entry) else f"&{entry}"


def _take_entry_lines(request: WorkerRequest, ptx: bytes) -> dict[str, str]:
    """Read the lowered names from the PTX, and take the lines out where nothing else names them."""
    lowered = {}
    for match in _ENTRY_LINE.finditer(ptx):
        lowered[request.job.entries[int(match[1])]] = match[2].decode()
    without = _ENTRY_LINE.sub(b"", ptx)
    if b"ajit_entry_" not in without:
        with open(os.path.join(request.folder, PTX), "wb") as file:
            file.write(without)
    return lowered


def _assembled(
    request: WorkerRequest, arguments: Sequence[str], front: Ran, lowered: dict[str, str]
) -> WorkerAnswer:
    back = [_arch(request), *request.job.options, "-cubin", PTX, "-o", RESULT]
    ran = front.then(run_compiler(request, back))
    if failed := broke_off(ran):
        return failed
    if not ran.ok:
        return JobFailed(kind="compile", log=ran.log)
    cubin = read_result(request, RESULT, ran)
    if isinstance(cubin, JobFailed):
        return cubin
    cubin = nameless(cubin, request.folder)
    if fault := fault_of("cubin", cubin, ()):
        return cut_short(fault, ran.log)
    kernels = kernel_symbols(cubin)
    for entry in request.job.entries:
        # The address of a variable or of a device function compiles too; neither can be launched.
        if lowered.get(entry) not in kernels:
            return JobFailed(kind="entry", entry=entry, log=f"{entry} is not a __global__ function")
    return JobFinished(
        CompileOutput(
            kind="cubin",
            data=cubin,
            lowered=lowered,
            log=without_paths(ran.log, request),
            command=shown_command(request, [*arguments, "-cubin"]),
            seconds=ran.seconds,
        )
    )


def _rejected(request: WorkerRequest, first: Ran, front: Sequence[str]) -> JobFailed:
    """Say why: the source, the arch, or an entry point."""
    if first_error_place(first.log) == "source":
        return JobFailed(kind="compile", log=first.log)
    with open(os.path.join(request.folder, SOURCE), "wb") as file:
        file.write(b"__global__ void ajit_probe() {}\n")
    if not run_compiler(request, [_arch(request), "-ptx", SOURCE, "-o", PTX]).ok:
        return JobFailed(kind="arch", known=_known_arches(request))
    return explain_rejection(request, first, lambda entries: _attempt(request, entries, front))


def _known_arches(request: WorkerRequest) -> tuple[str, ...]:
    ran = run_compiler(request, ["--list-gpu-code"])
    return tuple(ran.log.split()) if ran.ok else ()


def _arguments(request: WorkerRequest) -> list[str]:
    return [_arch(request), *request.flags, *common_arguments(request)]


def _arch(request: WorkerRequest) -> str:
    return f"-arch={request.job.arch}"
