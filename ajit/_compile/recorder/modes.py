"""Options that contradict the request: another arch than it names, or no kernel for a result.

ajit says to a compiler what to build for and what to make, and reads the result at the place that
it named. An option that says otherwise would fail late and in words about something else: a
compiler that only preprocesses leaves a text where a shared object should be.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ajit._core.job import CompilerName

__all__ = ["contradiction"]

_ARCH = "the arch is that of the request: give the spec arch=..., or take the device's"
_OUTPUT = "ajit says itself what the compiler makes, and where: code that the device can load"
_NOTHING = "with it the compiler makes no code"
_PROGRAMS = "it names programs that would compile, and the key knows only the compiler's own"

_GPU = (
    (
        re.compile(
            r"--?(?:gpu-architecture|gpu-code|generate-code|gencode|arch|code)(?:=.*)?", re.DOTALL
        ),
        _ARCH,
    ),
    (
        re.compile(
            r"--?(?:cuda|cubin|fatbin|ptx|optix-ir|ltoir|lto|dlto|dlink-time-opt|gen-opt-lto"
            r"|compile|device-c|device-w|device-link|link|lib|run)(?:=.*)?"
            r"|-(?:c|dc|dw|dlink)|--output-(?:file|directory)(?:=.*)?|-o(?:=.*)?|-odir(?:=.*)?",
            re.DOTALL,
        ),
        _OUTPUT,
    ),
    (
        re.compile(
            r"-E|--preprocess|-M(?:[MDTFQGP].*)?|--generate-(?:nonsystem-)?dependenc.*"
            r"|--dependency-output.*|--?dryrun|--?fdevice-syntax-only|--?clean(?:-targets)?"
            r"|--?list-gpu-(?:code|arch)|-code-ls|-arch-ls|-h|--help|-V|--version",
            re.DOTALL,
        ),
        _NOTHING,
    ),
)
_HOST = (
    (re.compile(r"-B.*|--prefix(?:=.*)?|-wrapper", re.DOTALL), _PROGRAMS),
    (re.compile(r"-m(?:32|x32|16)|--?target(?:=.*)?", re.DOTALL), _ARCH),
    (
        re.compile(
            r"-[Scr]|-o.*|--output(?:=.*)?|--compile|--assemble|-emit-\w+.*|-static|--static"
            r"|--precompile|-(?:no-)?pie",
            re.DOTALL,
        ),
        _OUTPUT,
    ),
    (
        re.compile(
            r"-E|--preprocess|-M(?:[MDTFQGP].*)?|--(?:user-)?dependencies|--write-(?:user-)?depend.*"
            r"|-fsyntax-only|--analyze|-###|-h|--help.*|--version|-dump\w+",
            re.DOTALL,
        ),
        _NOTHING,
    ),
)

_WITH_VALUE = re.compile(
    r"-(?:[DUILlxe]|include|imacros|isystem|iquote|idirafter|Xlinker|Xassembler|Xptxas|Xnvlink"
    r"|Xarchive|Xclang|Xpreprocessor|mllvm|diag-suppress|diag-error|diag-warn|maxrregcount|std)"
    r"|--(?:define-macro|undefine-macro|include-path|system-include|pre-include|linker-options"
    r"|archive-options|ptxas-options|nvlink-options|library|library-path|options-file"
    r"|diag-suppress|diag-error|diag-warn|maxrregcount|std|param)"
)
"""What takes the next option for its value."""
_FOR_HOST = re.compile(r"(?:-Xcompiler|--compiler-options)(?:=(.*))?", re.DOTALL)
"""What nvcc passes on to the host's compiler, which only preprocesses there."""


def contradiction(compiler: CompilerName, options: Sequence[str]) -> str | None:
    """Return the first option that contradicts what ajit asks of a compiler, with the reason.

    Args:
        compiler: That the options are for.
        options: In order.
    """
    rules = _HOST if compiler == "host" else _GPU
    for option in _own(options):
        for pattern, why in rules:
            if pattern.fullmatch(option):
                return f"{option!r}: {why}"
    if compiler != "nvcc":
        return None
    return contradiction("host", list(_passed_on(options)))


def _own(options: Sequence[str]) -> Iterator[str]:
    """Options without the values of those that take one as an option of its own."""
    remaining = iter(options)
    for option in remaining:
        passed_on = _FOR_HOST.fullmatch(option)
        if passed_on is None:
            yield option
        if _WITH_VALUE.fullmatch(option) or (passed_on and passed_on[1] is None):
            next(remaining, None)


def _passed_on(options: Sequence[str]) -> Iterator[str]:
    remaining = iter(options)
    for option in remaining:
        if found := _FOR_HOST.fullmatch(option):
            yield from re.split(r"[,\s]+", found[1] or next(remaining, ""))
