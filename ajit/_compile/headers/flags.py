"""The few compiler flags that ajit must understand: those that name files, and the standard.

Compilers run in a folder of the job's own, so an option reaches a file outside only by a path with
a slash, or by a name that is sought in the include directories or by the compiler. From that
follows what `OptionPaths` holds: what names headers or their directories is to be followed, and any
other option that may name a file is told apart, for the spec to vouch for.
"""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["OptionPaths", "has_standard", "option_paths", "with_absolute_dirs"]

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

_TEXT_FLAGS = (
    "-D",
    "--define-macro",
    "-U",
    "--undefine-macro",
    "-fdebug-prefix-map",
    "-ffile-prefix-map",
    "-fmacro-prefix-map",
    "-fprofile-prefix-map",
)
"""Their values are text, also where they have a slash."""

_UNFOLLOWED_FLAGS = (
    "-optf",
    "--options-file",
    "-ccbin",
    "--compiler-bindir",
    "-include-pch",
    "--include-prefix",
    "--include-with-prefix",
    "-fplugin",
    "-specs",
    "--specs",
    "-use-pch",
    "--use-pch",
    "-wrapper",
)
"""They name a file or a program, and a name without a slash is sought by the compiler."""

_KNOWN_FLAGS = sorted(
    (*_DIRECTORY_FLAGS, *_FORCED_FLAGS, *_PASSED_ON_FLAGS, *_TEXT_FLAGS, *_UNFOLLOWED_FLAGS),
    key=len,
    reverse=True,
)
"""Longest first, since one may be the beginning of another."""


@dataclass(frozen=True, slots=True)
class OptionPaths:
    """Files that options name.

    Attributes:
        dirs: Directories of ``-I`` and its kin.
        forced_includes: Headers of ``-include``, ``-imacros`` and their kin.
        unfollowed: Options that may name any other file, as written.
    """

    dirs: tuple[str, ...]
    forced_includes: tuple[str, ...]
    unfollowed: tuple[str, ...] = ()


def option_paths(options: Sequence[str]) -> OptionPaths:
    """Return what a spec's options say about files, those passed on to other programs included."""
    dirs: list[str] = []
    forced: list[str] = []
    unfollowed: list[str] = []
    passed_on: list[str] = []
    for flag, value in _flags_and_values(options):
        if flag in _DIRECTORY_FLAGS:
            dirs += _listed(value)
        elif flag in _FORCED_FLAGS:
            forced += _listed(value)
        elif flag in _PASSED_ON_FLAGS:
            passed_on += re.split(r"[,\s]+", value)
        elif flag in _UNFOLLOWED_FLAGS or (not flag and _may_be_file(value)):
            unfollowed.append(f"{flag} {value}".strip())
    if passed_on:
        inner = option_paths(passed_on)
        dirs += inner.dirs
        forced += inner.forced_includes
        unfollowed += inner.unfollowed
    return OptionPaths(tuple(dirs), tuple(forced), tuple(unfollowed))


def with_absolute_dirs(options: Sequence[str]) -> tuple[str, ...]:
    """Return options in which relative include directories no longer depend on where one stands.

    A closure takes them from the server's working directory; compilers run elsewhere.
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


def _listed(value: str) -> Iterator[str]:
    """A value, and its parts: ``a,b`` are two for nvcc and one for every other compiler."""
    if value:
        yield value
    if "," in value:
        yield from filter(None, value.split(","))


def _may_be_file(option: str) -> bool:
    return option.startswith("@") or "/" in option
