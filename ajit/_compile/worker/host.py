"""Host C++: builds CUDA C++ source as a shared object for the CPU driver.

The translation unit is what ``cuda_cxx/kernel.hpp`` defines: that header first, the user's source,
then one ``AJIT_CPU_MODULE`` block with every entry point. A kernel's lowered name is the name asked
for. The flags are those of `ajit._compile.worker.host_flags`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ajit._compile.worker.commands import (
    common_arguments,
    explain_rejection,
    read_result,
    write_source,
)
from ajit._compile.worker.depfile import DEPFILE_FLAGS, ORDER_FLAGS, SOURCE, keep_order
from ajit._compile.worker.host_flags import COMPILE_FLAGS, FAMILY_FLAGS, LINK_FLAGS, family_of
from ajit._compile.worker.messages import JobFailed, JobFinished, WorkerAnswer, cut_short
from ajit._compile.worker.run_program import Ran, broke_off, run_compiler, shown_command
from ajit._compile.worker.text import label_of, without_paths
from ajit._compile.worker.watching import can_watch
from ajit._core.elf import fault_of
from ajit._core.job import CompileOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit._compile.worker.messages import WorkerRequest

__all__ = ["compile_host"]

RESULT = "module.so"
OBJECT = "module.o"

WRAPPER = "wrapper.sh"
KILLED = "killed"
_WRAPPER_SCRIPT = f"""\
"$@"
status=$?
[ $status -le 128 ] || echo $status >> {KILLED}
exit $status
"""
"""gcc starts its programs through this; a shell says of a killed one 128 and the signal."""


def compile_host(request: WorkerRequest) -> WorkerAnswer:
    """Compile one job with a host C++ compiler."""
    machine = os.uname().machine
    if request.job.arch != machine:
        return JobFailed(kind="arch", known=(machine,))
    ran = _attempt(request, request.job.entries)
    if failed := broke_off(ran):
        return failed
    if not ran.ok:
        return explain_rejection(request, ran, lambda entries: _attempt_again(request, entries))
    result = read_result(request, RESULT, ran)
    if isinstance(result, JobFailed):
        return result
    if fault := fault_of("elf", result, request.job.entries):
        return cut_short(fault, ran.log)
    return JobFinished(
        CompileOutput(
            kind="elf",
            data=result,
            lowered={entry: entry for entry in request.job.entries},
            log=without_paths(ran.log, request),
            command=shown_command(request, [*_compile_arguments(request), *LINK_FLAGS]),
            seconds=ran.seconds,
        )
    )


def _attempt_again(request: WorkerRequest, entries: Sequence[str]) -> Ran:
    """As `_attempt`, and look whether it was a signal that made it fail.

    g++ exits with 1 when its cc1plus was killed, as it does for an error in the source. clang, zig
    and nvcc tell the two apart themselves.
    """
    if _family(request) != "gcc":
        return _attempt(request, entries)
    with open(os.path.join(request.folder, WRAPPER), "w", encoding="ascii") as file:
        file.write(_WRAPPER_SCRIPT)
    ran = _attempt(request, entries, extra=("-wrapper", f"sh,{WRAPPER}"))
    try:
        with open(os.path.join(request.folder, KILLED), encoding="ascii") as file:
            return ran.killed(int(file.readline()) - 128)
    except (OSError, ValueError):
        return ran


def _attempt(request: WorkerRequest, entries: Sequence[str], extra: Sequence[str] = ()) -> Ran:
    """Compile and link; the first of the two that fails is the answer."""
    write_source(request, _module_block(entries), SOURCE)
    arguments = [*extra, *_compile_arguments(request)]
    if not _is_zig(request):
        return run_compiler(request, [*arguments, "-o", RESULT, *LINK_FLAGS])
    # Linked as C++, zig would build the whole C++ library first, which takes more than a minute the
    # first time; a kernel needs nothing of it but headers.
    unseen = not can_watch(request.command[0])
    arguments += [*(DEPFILE_FLAGS if unseen else ()), "-c", "-o", OBJECT]
    compiled = run_compiler(request, arguments)
    if not compiled.ok:
        return compiled
    if unseen:
        asked = [*_option_arguments(request), *ORDER_FLAGS]
        keep_order(request.folder, run_compiler(request, asked).log)
    linker = (request.command[0], "cc")
    flags = ["-mcpu=baseline", OBJECT, "-o", RESULT, *LINK_FLAGS]
    return compiled.then(run_compiler(request, flags, linker))


def _module_block(entries: Sequence[str]) -> str:
    if not entries:
        return ""
    kernels = ",\n".join(f'AJIT_CPU_KERNEL("{entry}", {entry})' for entry in entries)
    return f"AJIT_CPU_MODULE({kernels})"  # each in the line of its number


def _compile_arguments(request: WorkerRequest) -> list[str]:
    return [*_option_arguments(request), "-include", "cuda_cxx/kernel.hpp", SOURCE]


def _option_arguments(request: WorkerRequest) -> list[str]:
    label = label_of(request.job.name)
    mapped = {request.folder: "."}
    mapped |= {path: f"<include {n}>" for n, path in enumerate(request.job.include_dirs)}
    mapped |= dict.fromkeys(request.include_dirs, "<ajit>")
    return [
        *COMPILE_FLAGS,
        *FAMILY_FLAGS[_family(request)],
        f"-frandom-seed={label}",  # else names of unnamed namespaces differ from run to run
        *(f"-ffile-prefix-map={path}={name}" for path, name in mapped.items()),
        *request.flags,
        *common_arguments(request),
    ]


def _family(request: WorkerRequest) -> str:
    return family_of(request.version)


def _is_zig(request: WorkerRequest) -> bool:
    return _family(request) == "zig"
