"""Which compiler a launcher stands for: the setting, else the next of its name on PATH.

A launcher may be on PATH under the compiler's own name, by a link. So what is a launcher is passed
over, here and where the command line names the compiler. Imports nothing but os.
"""

from __future__ import annotations

import os

__all__ = ["find", "found_on_path", "is_launcher"]

NAMES = {
    "nvcc": ("nvcc",),
    "c++": ("c++", "g++", "clang++"),
    "ptxas": ("ptxas",),
}
VARIABLES = {"nvcc": "AJIT_CC_NVCC", "c++": "AJIT_CC_CXX", "ptxas": "AJIT_CC_PTXAS"}

_TOOLKITS = ("CUDA_HOME", "CUDA_PATH")


def find(kind: str, called: str = "") -> str | None:
    """Return the path of the compiler that ``ajit-<kind>`` stands for; None if there is none.

    Args:
        kind: What it is.
        called: The name of the link by which it was called, or "".
    """
    given = os.environ.get(VARIABLES[kind], "")
    if given:
        return found_on_path(given)
    for name in (called,) if called else NAMES[kind]:
        path = found_on_path(name)
        if path is not None:
            return path
    if kind == "c++":
        return None
    roots = [os.environ.get(variable, "") for variable in _TOOLKITS]
    for root in [*filter(None, roots), "/usr/local/cuda"]:
        path = os.path.join(root, "bin", kind)
        if _runs(path):
            return path
    return None


def found_on_path(program: str) -> str | None:
    """Return the path of a program, as a shell would find it, that is no launcher."""
    if os.sep in program:
        path = os.path.abspath(program)
        return path if _runs(path) else None
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(os.path.abspath(directory or "."), program)
        if _runs(path):
            return path
    return None


def is_launcher(path: str) -> bool:
    """Whether a program is one of ajit's own."""
    name = os.path.basename(os.path.realpath(path))
    return name == "ajit" or name.startswith("ajit-")


def _runs(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK) and not is_launcher(path)
