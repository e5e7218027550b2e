"""The few compiler flags that ajit must understand: those that name files, and the standard."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["OptionPaths", "has_standard", "option_paths", "with_absolute_dirs"]

DEFAULT_STANDARD = "-std=c++17"
"""What CCCL requires, and every compiler's default or above."""

_DIRECTORY_FLAGS = ("--include-path", "-isystem", "--system-include", "-iquote", "-I")
_FORCED_FLAGS = ("--pre-include", "-include")


@dataclass(frozen=True, slots=True)
class OptionPaths:
    """Files that options name.

    Attributes:
        dirs: Directories of ``-I`` and its kin.
        forced_includes: Headers of ``-include`` and its kin.
    """

    dirs: tuple[str, ...]
    forced_includes: tuple[str, ...]


def option_paths(options: Sequence[str]) -> OptionPaths:
    """Return the include directories and forced includes among a spec's options."""
    dirs = tuple(_values(options, _DIRECTORY_FLAGS))
    return OptionPaths(dirs, tuple(_values(options, _FORCED_FLAGS)))


def with_absolute_dirs(options: Sequence[str]) -> tuple[str, ...]:
    """Return options in which relative include directories no longer depend on where one stands.

    A closure takes them from the server's working directory; compilers run elsewhere.
    """
    made, remaining = [], iter(options)
    for option in remaining:
        flag = next((flag for flag in _DIRECTORY_FLAGS if option.startswith(flag)), None)
        if flag is None:
            made.append(option)
        elif value := option.removeprefix(flag).lstrip("= "):
            made.append(option.removesuffix(value) + os.path.abspath(value))
        else:
            made += [option, *(os.path.abspath(value) for value in itertools.islice(remaining, 1))]
    return tuple(made)


def has_standard(options: Sequence[str]) -> bool:
    """Whether the options choose the language standard themselves."""
    return any(option.startswith(("-std", "--std")) for option in options)


def _values(options: Sequence[str], flags: Sequence[str]) -> Iterator[str]:
    """Values of flags that are written ``-I dir``, ``-Idir``, ``-I=dir`` or ``--flag=dir``."""
    remaining = iter(options)
    for option in remaining:
        flag = next((flag for flag in flags if option.startswith(flag)), None)
        if flag is None:
            continue
        value = option.removeprefix(flag).lstrip("= ")
        value = value or next(remaining, "")
        if value:
            yield value
