"""The few compiler flags that ajit must understand.

What a compile reads is recorded, so hardly any flag matters to the key beyond its text. Those that
do name directories, which have to mean the same wherever the compiler runs; choose the language
standard; load code into the compiler, which no record shows; or mean "this machine".
"""

from __future__ import annotations

import itertools
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["has_standard", "native_option", "option_dirs", "plugin_option", "with_absolute_dirs"]

DEFAULT_STANDARD = "-std=c++17"
"""What CCCL requires, and every compiler's default or above."""

_DIRECTORY_FLAGS = (
    "-I",
    "--include-path",
    "--include-directory",
    "--include-directory-after",
    "-iquote",
    "-isystem",
    "-isystem-after",
    "-cxx-isystem",
    "--system-include",
    "-idirafter",
    "--embed-dir",
)
_FORCED_FLAGS = ("-include", "--include", "--pre-include", "-imacros", "--imacros")

_PASSED_ON_FLAGS = ("-Xcompiler", "--compiler-options", "-Xpreprocessor", "-Xclang", "-Wp,")
"""Their values are options of another program, which are understood in the same way."""

_PLUGIN_FLAGS = ("-fplugin", "-fpass-plugin", "-load")
"""The dynamic loader opens what they name, unseen by the recorder."""

_KNOWN_FLAGS = sorted(
    (*_DIRECTORY_FLAGS, *_FORCED_FLAGS, *_PASSED_ON_FLAGS, *_PLUGIN_FLAGS), key=len, reverse=True
)
"""Longest first, since one may be the beginning of another."""

_NATIVE = re.compile(
    r"(?:^|[,=\s])-{1,2}(?:march|mcpu|mtune|arch|code|gencode|gpu-architecture|gpu-code"
    r"|generate-code)"
    r"[= ][^,\s]*\bnative\b"
)


def option_dirs(options: Sequence[str]) -> tuple[str, ...]:
    """Return the include directories that options name, those passed on to other programs too."""
    dirs: list[str] = []
    for flag, value in _flags_and_values(options):
        if flag in _DIRECTORY_FLAGS:
            dirs += _listed(value)
        elif flag in _PASSED_ON_FLAGS:
            dirs += option_dirs(_passed_on(value))
    return tuple(dirs)


def plugin_option(options: Sequence[str]) -> str | None:
    """Return the first option that loads code into the compiler, or None."""
    for flag, value in _flags_and_values(options):
        if flag in _PLUGIN_FLAGS:
            return f"{flag} {value}".strip()
        if flag in _PASSED_ON_FLAGS and (found := plugin_option(_passed_on(value))):
            return found
    return None


def native_option(options: Sequence[str]) -> str | None:
    """Return the first option that means "the machine at hand", or None."""
    for option, value in itertools.pairwise((*options, "")):
        # The value may be an argument of its own.
        written = f"{option} {value}" if value == "native" else option
        if _NATIVE.search(written):
            return option
    return None


def with_absolute_dirs(options: Sequence[str]) -> tuple[str, ...]:
    """Return options in which relative include directories no longer depend on where one stands.

    They are taken from the server's working directory; compilers run elsewhere.
    """
    made, remaining = [], iter(options)
    for option in remaining:
        flag = _flag_of(option)
        if flag not in _DIRECTORY_FLAGS:
            made.append(option)
        elif value := option.removeprefix(flag).lstrip("= "):
            made.append(option.removesuffix(value) + os.path.abspath(value))
        else:
            made += [option, *(os.path.abspath(value) for value in itertools.islice(remaining, 1))]
    return tuple(made)


def has_standard(options: Sequence[str]) -> bool:
    """Whether the options choose the language standard themselves."""
    return any(option.startswith(("-std", "--std")) for option in options)


def _flags_and_values(options: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Flags with their values, written ``-I dir``, ``-Idir``, ``-I=dir`` or ``--flag=dir``.

    An option that is none of them comes as the value of no flag.
    """
    remaining = iter(options)
    for option in remaining:
        flag = _flag_of(option)
        value = option.removeprefix(flag)
        yield flag, (value.lstrip("= ") or next(remaining, "")) if flag else value


def _flag_of(option: str) -> str:
    return next((flag for flag in _KNOWN_FLAGS if option.startswith(flag)), "")


def _passed_on(value: str) -> list[str]:
    return re.split(r"[,\s]+", value)


def _listed(value: str) -> Iterator[str]:
    """A value, and its parts: ``a,b`` are two for nvcc and one for every other compiler."""
    if value:
        yield value
    if "," in value:
        yield from filter(None, value.split(","))
