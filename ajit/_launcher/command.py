"""Which command lines are understood, and what they write; all others are passed through.

An unknown option does no harm: it is part of the base key as it stands, what it makes the compiler
read is recorded, and if it makes the compiler write another file, the result is not kept. So what
is passed through here is what never could be kept, or what a record cannot show: code that is
loaded into the compiler, a result that depends on the machine.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._compile.recorder.flags import native_option, plugin_option
from ajit._launcher.arguments import Family, Token, Unreadable, expanded, tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Command", "PassThrough", "family_of", "understand"]


class PassThrough(Exception):
    """The compiler is run as it was called.

    Attributes:
        reason: Why, in two or three words: they are counted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Command:
    """A command line that was understood.

    Attributes:
        family: How it was read.
        tokens: All of it, response files expanded.
        sources: Its inputs, as spelt.
        outputs: What it writes: a name for each kind, and the path as spelt.
        tells_deps: Whether a dependency file is among them.
        names_paths: Whether its result may hold a path in a form that cannot be searched for.
        has_module_id: Whether nvcc puts a number into the result that is made of the source's path,
            and on which something may rely.
        is_native: Whether an option means the machine at hand.
    """

    family: Family
    tokens: tuple[Token, ...]
    sources: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]
    tells_deps: bool
    names_paths: bool
    has_module_id: bool
    is_native: bool


_GCC = re.compile(
    r"(?:[\w.]+-)*(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+)(?:-\d+(?:\.\d+)*)?", re.ASCII
)


def family_of(program: str) -> Family:
    """Return how the command line of a program is read.

    Raises:
        PassThrough: No such compiler is known.
    """
    name = os.path.basename(program)
    if name == "nvcc":
        return "nvcc"
    if name == "ptxas":
        return "ptxas"
    if _GCC.fullmatch(name):
        return "gcc"
    raise PassThrough("unknown compiler")


def understand(family: Family, arguments: Sequence[str]) -> Command:
    """Read a command line.

    Raises:
        PassThrough: It is none whose result can be kept.
    """
    try:
        listed = tuple(tokens(family, expanded(family, arguments)))
    except Unreadable:
        raise PassThrough("unreadable response file") from None
    flags = [token.flag for token in listed]
    _refuse(family, listed, flags)
    inputs = tuple(token.value or "" for token in listed if not token.flag)
    if not inputs:
        raise PassThrough("no input")
    if any(path == "-" or path.startswith(_DESCRIPTORS) for path in inputs):
        raise PassThrough("source on standard input")
    suffix = _suffix(family, flags)
    outputs = [*_outputs(family, listed, inputs, suffix), *_depfiles(listed, inputs, suffix)]
    texts = [part for token in listed for part in token.text()]
    return Command(
        family=family,
        tokens=listed,
        sources=inputs,
        outputs=tuple(_usable(outputs)),
        tells_deps=any(kind.startswith("deps") for kind, _ in outputs),
        names_paths=any(map(_NAMES_PATHS.fullmatch, texts)),
        has_module_id=family == "nvcc" and not _is_loaded_alone(flags, texts),
        is_native=native_option(texts) is not None,
    )


_DESCRIPTORS = ("/dev/stdin", "/dev/fd/", "/proc/")

_NAMES_PATHS = re.compile(
    r"-g(?!0$|no-|encode|pu-).*|--?lineinfo|-lineinfo|-G|--debug|--device-debug"
    r"|--?generate-line-info|-f(?:lto|record-|debug|embed-bitcode|instrument).*|-dlto|--dlto"
    r"|-frecord-gcc-switches|-p|-pg|--profile|.*[,=\s]-g[0-9a-z]*(?:[,\s].*)?"
    r"|--?fatbin|--?optix-ir|--?ltoir|-emit-llvm",
    re.DOTALL,
)
"""Debug information and the code of link-time optimisation hold paths, and may be compressed, as a
fat binary is; the strings of LLVM's bitcode begin in the middle of a byte."""

_NO_COMPILE = {
    "gcc": re.compile(
        r"-E|-M|-MM|-###|-v|-Q|--version|--?help.*|--target-help|-dump(?:version|machine|specs|full"
        r"version)|-print-.*|--print-.*|-fsyntax-only|--analyze|-P"
    ),
    "nvcc": re.compile(
        r"-E|--preprocess|-M|-MM|--generate(?:-nonsystem)?-dependencies|--?dryrun|-V|--version|-h"
        r"|--help|--?list-gpu-.*|-(?:code|arch)-ls|--?clean-targets|-clean|--?run|-v|--verbose"
        r"|--?fdevice-syntax-only|-fdevice-syntax-only"
    ),
    "ptxas": re.compile(r"-V|--version|-h|--help"),
}
_PROFILING = re.compile(
    r"-fprofile-(?!prefix).*|--?coverage|-ftest-coverage|-fauto-profile.*|-fbranch-probabilities"
    r"|-fcoverage-mapping|-fcs-profile.*"
)
_MORE_FILES = re.compile(
    r"-+save-temps.*|-fdump-.*|-fstack-usage|-gsplit-dwarf|-fcallgraph-info.*|-aux-info"
    r"|-ftime-trace.*|-MJ.*|--?keep|-keep-dir|--keep-dir|-k|--time|-time|--?fdevice-time-trace"
    r"|-fdiagnostics-(?:format=.*-file|add-output=.*)|-fsave-optimization-record.*|-wrapper"
)
_MODULES = re.compile(r"-fmodules.*|-fcxx-modules|-fmodule-.*|-include-pch|-emit-pch|--precompile")


def _refuse(family: Family, listed: Sequence[Token], flags: Sequence[str]) -> None:
    texts = [part for token in listed for part in token.text()]
    if any(map(_NO_COMPILE[family].fullmatch, flags)):
        raise PassThrough("not a compile")
    if any(map(_PROFILING.fullmatch, texts)):
        raise PassThrough("profile or coverage")
    if any(map(_MORE_FILES.fullmatch, texts)):
        raise PassThrough("writes more files")
    if any(map(_MODULES.fullmatch, texts)):
        raise PassThrough("modules or precompiled header")
    if plugin_option(texts):
        raise PassThrough("compiler plugin")
    languages = [token.value or "" for token in listed if token.flag in ("-x", "--x")]
    if any(language.endswith(("-header", "module")) for language in languages):
        raise PassThrough("modules or precompiled header")
    if family == "nvcc" and native_option(texts):
        raise PassThrough("native GPU")


_NVCC_SUFFIXES = {
    **dict.fromkeys(("-c", "--compile", "-dc", "--device-c", "-dw", "--device-w"), ".o"),
    **dict.fromkeys(("-cubin", "--cubin"), ".cubin"),
    **dict.fromkeys(("-ptx", "--ptx"), ".ptx"),
    **dict.fromkeys(("-fatbin", "--fatbin"), ".fatbin"),
    **dict.fromkeys(("-optix-ir", "--optix-ir"), ".optixir"),
    **dict.fromkeys(("-ltoir", "--ltoir"), ".ltoir"),
    **dict.fromkeys(("-cuda", "--cuda"), ".cpp.ii"),
}
_NVCC_WHOLE = {
    **dict.fromkeys(("-dlink", "--device-link"), "a_dlink.o"),
    **dict.fromkeys(("-lib", "--lib"), "a.a"),
}
_LINKED = "a.out"
_PTXAS_OUTPUT = "elf.o"

_FOR_THE_DRIVER = frozenset(
    {"-cubin", "--cubin", "-ptx", "--ptx", "-fatbin", "--fatbin", "-optix-ir", "--optix-ir"}
)
_RELOCATABLE = re.compile(
    r"-rdc(=.*)?|--relocatable-device-code(=.*)?|-ewp|--extensible-whole-program|-?-d?lto.*"
)


def _is_loaded_alone(flags: Sequence[str], texts: Sequence[str]) -> bool:
    """Whether the result is code that the driver loads by itself, and that no linker sees.

    Nothing can clash with, or look for, the internal symbols of such code. Their names hold a hash
    of the source's path, and sometimes the compiler's process id: two compiles of one source in one
    place may differ in them. DeepGEMM's kernels do, and each rank has its source elsewhere.
    """
    return not _FOR_THE_DRIVER.isdisjoint(flags) and not any(map(_RELOCATABLE.fullmatch, texts))


def _suffix(family: Family, flags: Sequence[str]) -> str:
    """The suffix of what is made of each input; "" if one result is made of all."""
    if family == "gcc":
        return ".o" if "-c" in flags and "-S" not in flags else ".s" if "-S" in flags else ""
    found = [_NVCC_SUFFIXES[flag] for flag in flags if flag in _NVCC_SUFFIXES]
    if family == "nvcc" and len(set(found)) > 1:
        raise PassThrough("several kinds of output")
    return found[0] if family == "nvcc" and found else ""


def _outputs(
    family: Family, listed: Sequence[Token], inputs: Sequence[str], suffix: str
) -> list[tuple[str, str]]:
    given = _last(listed, "-o", "--output-file")
    if given is not None:
        if suffix and len(inputs) > 1:
            raise PassThrough("several inputs and one output")
        return [("out", given)]
    folder = _last(listed, "-odir", "--output-directory") or ""
    if suffix:
        made = [os.path.join(folder, _stem(path) + suffix) for path in inputs]
        if len(set(made)) < len(made):
            raise PassThrough("two outputs of one name")
        return [(f"out{number or ''}", path) for number, path in enumerate(made)]
    flags = [token.flag for token in listed]
    whole = next((_NVCC_WHOLE[flag] for flag in flags if flag in _NVCC_WHOLE), _LINKED)
    name = _PTXAS_OUTPUT if family == "ptxas" else whole if family == "nvcc" else _LINKED
    return [("out", os.path.join(folder, name))]


_WITH_DEPS = (
    *("-MD", "-MMD", "--generate-dependencies-with-compile"),
    "--generate-nonsystem-dependencies-with-compile",
)
_DEPS_OF_PREPROCESSOR = re.compile(r"-Wp,-MM?D,([^,]+)")


def _depfiles(listed: Sequence[Token], inputs: Sequence[str], suffix: str) -> list[tuple[str, str]]:
    passed_on = [
        found[1] for token in listed if (found := _DEPS_OF_PREPROCESSOR.fullmatch(token.flag))
    ]
    if passed_on:
        return [("deps", passed_on[-1])]
    if not any(token.flag in _WITH_DEPS for token in listed):
        return []
    given = _last(listed, "-MF", "--dependency-output")
    if given is not None:
        if len(inputs) > 1:
            raise PassThrough("several inputs and one output")
        return [("deps", given)]
    if not suffix:
        # gcc 11 and later name it after the program and the source, others do not.
        raise PassThrough("dependencies while linking")
    output = _last(listed, "-o", "--output-file")
    if output is not None:
        return [("deps", os.path.splitext(output)[0] + ".d")]
    return [(f"deps{number or ''}", _stem(path) + ".d") for number, path in enumerate(inputs)]


def _usable(outputs: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    for _, path in outputs:
        # A device, a pipe, a link, or a directory, which the compiler will complain of.
        if path in ("", "-") or (os.path.lexists(path) and not _is_plain(path)):
            raise PassThrough("output is no plain file")
    return outputs


def _is_plain(path: str) -> bool:
    return os.path.isfile(path) and not os.path.islink(path)


def _last(listed: Sequence[Token], *flags: str) -> str | None:
    values = [token.value for token in listed if token.flag in flags]
    return values[-1] if values else None


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]
