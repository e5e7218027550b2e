"""A compiler's command line as tokens: options with their values, and inputs.

What a compile reads is recorded and what it writes is seen, so hardly any option has to be
understood. Those that have: which take a value (else the value counts as an input), which name
directories, and which name what is written.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Family", "Token", "Unreadable", "expanded", "tokens"]

Family: TypeAlias = Literal["gcc", "nvcc", "ptxas"]
"""How a compiler's command line is read; clang's is gcc's."""

MOST_BYTES = 4 * 1024 * 1024
"""Of all response files. Pretty arbitrary: far above the longest command line that Linux takes."""

MOST_DEPTH = 8
"""Response files that name response files; gcc itself allows 2000."""


class Unreadable(Exception):
    """A response file cannot be read, as the compiler itself will say."""


@dataclass(frozen=True, slots=True)
class Token:
    """One option or input.

    Attributes:
        flag: The option, without a value that is known to be one; "" for an input.
        value: Its value, or the input; None if it has none.
        joined: Whether both are one argument, and what is between them.
    """

    flag: str
    value: str | None = None
    joined: str | None = None

    def with_value(self, value: str) -> Token:
        """The same option with another value."""
        return Token(self.flag, value, self.joined)

    def text(self) -> tuple[str, ...]:
        """As arguments."""
        if self.value is None:
            return (self.flag,)
        if not self.flag:
            return (self.value,)
        if self.joined is None:
            return (self.flag, self.value)
        return (f"{self.flag}{self.joined}{self.value}",)


_DIRECTORIES = ("-I", "-isystem", "-iquote", "-idirafter")

_VALUED: dict[Family, frozenset[str]] = {
    "gcc": frozenset(
        (
            *_DIRECTORIES,
            *("-o", "-x", "-D", "-U", "-L", "-l", "-B", "-T", "-u", "-z", "-A", "-G", "-e", "-h"),
            *("-MF", "-MT", "-MQ", "-MJ", "-include", "-imacros", "-iprefix", "-isysroot"),
            *("-iwithprefix", "-iwithprefixbefore", "-imultilib", "-arch", "-target", "--param"),
            *("-Xpreprocessor", "-Xassembler", "-Xlinker", "-Xclang", "-mllvm", "-aux-info"),
            *("-dumpbase", "-dumpbase-ext", "-dumpdir", "-wrapper", "-specs", "--specs"),
            *("-isystem-after", "-cxx-isystem", "-include-pch", "-ivfsoverlay", "--sysroot"),
            *("-framework", "-install_name", "-rpath", "-soname", "-Xarch_device", "-Xarch_host"),
            *("-Xcuda-ptxas", "-Xcuda-fatbinary", "-Xopenmp-target", "-Xanalyzer", "-R"),
        )
    ),
    "nvcc": frozenset(
        (
            *_DIRECTORIES,
            *("--output-file", "-o", "--pre-include", "-include", "--library", "-l", "-D"),
            *("--define-macro", "-U", "--undefine-macro", "--include-path", "--system-include"),
            *("--library-path", "-L", "--output-directory", "-odir", "--compiler-bindir", "-ccbin"),
            *("--archiver-binary", "-arbin", "--libdevice-directory", "-ldir", "-target-dir"),
            *(
                "--target-directory",
                "--cudart",
                "-cudart",
                "--cudadevrt",
                "-cudadevrt",
                "-opt-info",
            ),
            *("--optimization-info", "--optimize", "-O", "--dopt", "-dopt", "-ftemplate-depth"),
            *("--ftemplate-backtrace-limit", "-ftemplate-backtrace-limit", "--ftemplate-depth"),
            *("--x", "-x", "--std", "-std", "--machine", "-m", "--compiler-options", "-Xcompiler"),
            *(
                "--linker-options",
                "-Xlinker",
                "--archive-options",
                "-Xarchive",
                "-Xptxas",
                "-Xnvlink",
            ),
            *("--ptxas-options", "--nvlink-options", "--threads", "-t", "--split-compile"),
            *("-split-compile", "--split-compile-extended", "-split-compile-extended", "-time"),
            *("--fdevice-time-trace", "-fdevice-time-trace", "--keep-dir", "-keep-dir", "--time"),
            *("--run-args", "-run-args", "--input-drive-prefix", "-idp", "-ddp", "-dp"),
            *("--dependency-drive-prefix", "--drive-prefix", "--dependency-target-name", "-MT"),
            *("--dependency-output", "-MF", "--gpu-architecture", "-arch", "--gpu-code", "-code"),
            *("--generate-code", "-gencode", "--maxrregcount", "-maxrregcount", "--diag-error"),
            *("-diag-error", "--diag-suppress", "-diag-suppress", "--diag-warn", "-diag-warn"),
            *("--jump-table-density", "-jtd", "--frandom-seed", "-frandom-seed", "--sanitize"),
            *("-sanitize", "--options-file", "-optf", "--default-stream", "-default-stream"),
            *("--relocatable-device-code", "-rdc", "--ftz", "-ftz", "--prec-div", "-prec-div"),
            *("--prec-sqrt", "-prec-sqrt", "--fmad", "-fmad", "--Werror", "-Werror"),
        )
    ),
    "ptxas": frozenset(
        (
            *("--output-file", "-o", "--gpu-name", "-arch", "--opt-level", "-O", "--maxrregcount"),
            *("-maxrregcount", "--machine", "-m", "--options-file", "-optf", "--def-load-cache"),
            *("-dlcm", "--def-store-cache", "-dscm", "--entry", "-e", "--split-compile"),
            *("-split-compile", "--input-as-string", "-ias"),
        )
    ),
}

_JOINED: dict[Family, tuple[str, ...]] = {
    # Longest first, since one may be the beginning of another.
    "gcc": ("-isystem", "-iquote", "-idirafter", "-MF", "-MT", "-MQ", "-I", "-o", "-x"),
    "nvcc": ("-isystem", "-I"),
    "ptxas": (),
}
"""Options whose value may follow without anything between, and whose value matters here."""


def tokens(family: Family, arguments: Sequence[str]) -> Iterator[Token]:
    """Yield the tokens of a command line whose response files are expanded."""
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "-" or not argument.startswith("-"):
            yield Token("", argument)
        elif argument in _VALUED[family]:
            yield Token(argument, next(remaining, None))
        else:
            yield _one(family, argument)


def _one(family: Family, argument: str) -> Token:
    flag, equals, value = argument.partition("=")
    if equals and flag in _VALUED[family] and flag != "-o":
        return Token(flag, value, "=")
    for flag in _JOINED[family]:
        # -objc and the like are no outputs; gcc has no other long option that begins with -o.
        if argument.startswith(flag):
            return Token(flag, argument.removeprefix(flag), "")
    return Token(argument)


def expanded(family: Family, arguments: Sequence[str]) -> tuple[str, ...]:
    """Return arguments with those of response files in their place.

    Raises:
        Unreadable: One cannot be read.
    """
    made: list[str] = []
    _expand(family, arguments, made, MOST_DEPTH)
    return tuple(made)


def _expand(family: Family, arguments: Sequence[str], made: list[str], depth: int) -> None:
    remaining = iter(arguments)
    for argument in remaining:
        files = _response_files(family, argument, remaining)
        if files is None:
            made.append(argument)
            continue
        if not depth:
            raise Unreadable(f"{argument}: response files name each other")
        for file in files:
            _expand(family, _read(file), made, depth - 1)


def _response_files(
    family: Family, argument: str, remaining: Iterator[str]
) -> Sequence[str] | None:
    if argument.startswith("@") and len(argument) > 1:
        # gcc takes one that does not exist for a file of that name.
        return [argument[1:]] if os.path.isfile(argument[1:]) else None
    flag, equals, value = argument.partition("=")
    if family == "gcc" or flag not in ("--options-file", "-optf"):
        return None
    return (value if equals else next(remaining, "")).split(",")


def _read(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise Unreadable(f"{path} has more than {MOST_BYTES} bytes")
        return shlex.split(text)
    except (OSError, ValueError) as exc:
        raise Unreadable(f"{path}: {exc}") from exc
