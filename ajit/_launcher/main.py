"""``ajit-nvcc``, ``ajit-c++``, ``ajit-ptxas`` and ``ajit cc -- ...``. Imports next to nothing.

A program that is called by another name, through a link, stands for the compiler of that name.
"""

from __future__ import annotations

import os
import sys

from ajit._launcher.compilers import find, found_on_path
from ajit._launcher.environment import refusal
from ajit._launcher.quick import quick_key, quick_result

__all__ = ["cxx", "launch", "nvcc", "ptxas"]

_LAST_STREAM = 2

NOT_FOUND = 127
"""As a shell has it."""


def nvcc() -> int:
    """Run ``ajit-nvcc``."""
    return _stand_for("nvcc")


def cxx() -> int:
    """Run ``ajit-c++``."""
    return _stand_for("c++")


def ptxas() -> int:
    """Run ``ajit-ptxas``."""
    return _stand_for("ptxas")


def launch(command: list[str]) -> int:
    """Run a command line through the cache and return its exit code.

    Args:
        command: The compiler and its arguments.
    """
    compiler = found_on_path(command[0])
    if compiler is None:
        return _not_found(command[0])
    return _launch(compiler, command[1:])


def _stand_for(kind: str) -> int:
    name = os.path.basename(sys.argv[0])
    # Under its own name; else by a link of the compiler's name, such as g++-12.
    compiler = find(kind, "" if name.startswith("ajit-") else name)
    if compiler is None:
        return _not_found(kind)
    return _launch(compiler, sys.argv[1:])


def _launch(compiler: str, arguments: list[str]) -> int:
    _open_streams()
    if refusal() == "disabled":
        os.execv(compiler, [compiler, *arguments])
    try:
        key = quick_key(compiler, arguments)
        if quick_result(_cache_path(), key):
            return 0
    except OSError:  # there is no working directory any more
        os.execv(compiler, [compiler, *arguments])
    from ajit._launcher.ways import resolve_or_end  # noqa: PLC0415  # 80 ms that no hit needs

    return resolve_or_end(compiler, arguments, key)


def _open_streams() -> None:
    """Have something behind 0, 1 and 2: else what is opened next would be printed into."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _LAST_STREAM:
        os.set_inheritable(fd, True)  # noqa: FBT003  # the only way to call it
    os.close(fd)


def _cache_path() -> str:
    """As `ajit.settings` has it; "" where that would be an error."""
    given = os.environ.get("AJIT_CACHE_DIR", "")
    if given:
        return os.path.abspath(os.path.expanduser(given))
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = os.environ.get("HOME", "")
        if not home:
            return ""
        base = os.path.join(home, ".cache")
    return os.path.join(base, "ajit")


def _not_found(program: str) -> int:
    sys.stderr.write(f"ajit cc: {program}: no such compiler\n")
    return NOT_FOUND
