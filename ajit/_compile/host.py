"""Host C++: builds CUDA C++ source as a shared object for the CPU driver.

The translation unit is what ``cpu_kernel.hpp`` defines: that header first, the user's source, then
one ``AJIT_CPU_MODULE`` block with every entry point. A kernel's lowered name is the name asked for.

No flag depends on the machine (no ``-march=native``): the object is shared through the cache with
others of the same architecture.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ajit._compile.commands import (
    common_arguments,
    explain_rejection,
    read_result,
    write_source,
)
from ajit._compile.launch import Ran, broke_off, run_compiler, shown_command
from ajit._compile.messages import Answer, Failed, Finished
from ajit._compile.text import label_of
from ajit._core.job import CompileOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit._compile.messages import Request

__all__ = ["compile_host"]

RESULT = "module.so"
SOURCE = "source.cpp"

_FLAGS = (
    "-O2",
    "-fPIC",
    "-shared",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-strict-aliasing",
    "-fno-semantic-interposition",
    "-fno-threadsafe-statics",
    "-fno-asynchronous-unwind-tables",
    "-ffp-contract=off",
    "-w",
)
_LINK_FLAGS = ("-Wl,-Bsymbolic", "-Wl,--as-needed", "-Wl,-z,undefs", "-s", "-lm")
"""Both lists are prescribed by ``cpu_kernel.hpp``, which gives the reasons."""

_FAMILY_FLAGS = {
    "gcc": ("-fno-gnu-unique",),  # unique symbols would outlive, and be shared by, two modules
    "clang": (),
    "zig": (
        "-mcpu=baseline",  # zig builds for the CPU it runs on unless told otherwise
        "-fno-sanitize=undefined",  # and with a sanitizer
    ),
}


def compile_host(request: Request) -> Answer:
    """Compile one job with a host C++ compiler."""
    machine = os.uname().machine
    if request.job.arch != machine:
        return Failed(kind="arch", known=(machine,))
    arguments = _arguments(request)
    ran = _attempt(request, request.job.entries, arguments)
    if failed := broke_off(ran):
        return failed
    if not ran.ok:
        return explain_rejection(
            request, ran, lambda entries: _attempt(request, entries, arguments)
        )
    result = read_result(request, RESULT)
    if isinstance(result, str):
        return broke_off(ran, result) or Failed(kind="crash", log=result)
    return Finished(
        CompileOutput(
            kind="elf",
            data=result,
            lowered={entry: entry for entry in request.job.entries},
            log=ran.log,
            command=shown_command(request, arguments),
            seconds=ran.seconds,
        )
    )


def _attempt(request: Request, entries: Sequence[str], arguments: Sequence[str]) -> Ran:
    write_source(request, _module_block(entries), SOURCE)
    return run_compiler(request, arguments)


def _module_block(entries: Sequence[str]) -> str:
    if not entries:
        return ""
    kernels = ",\n".join(f'AJIT_CPU_KERNEL("{entry}", {entry})' for entry in entries)
    return f"AJIT_CPU_MODULE(\n{kernels})"


def _arguments(request: Request) -> list[str]:
    label = label_of(request.job.name)
    mapped = {request.folder: "."}
    mapped |= {path: f"<include {n}>" for n, path in enumerate(request.job.include_dirs)}
    mapped |= dict.fromkeys(request.include_dirs, "<ajit>")
    family = request.version.partition(" ")[0]
    return [
        *_FLAGS,
        *_FAMILY_FLAGS[family],
        f"-frandom-seed={label}",  # else names of unnamed namespaces differ from run to run
        *(f"-ffile-prefix-map={path}={name}" for path, name in mapped.items()),
        *request.flags,
        *common_arguments(request),
        "-include",
        "cpu_kernel.hpp",
        SOURCE,
        "-o",
        RESULT,
        *_LINK_FLAGS,
    ]
