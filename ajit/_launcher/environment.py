"""What of the environment decides a compile's result. Imports nothing but os.

Variables are told by name: most of an environment is about the build around the compile, and
changes with each step of it. A compiler's own files are found by other means and recorded.
"""

from __future__ import annotations

import os

__all__ = ["DISABLE", "NAMES", "PREFIXES", "mattering", "refusal"]

NAMES = frozenset(
    {
        *("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "OBJC_INCLUDE_PATH", "INCLUDE", "LIB"),
        *("COMPILER_PATH", "LIBRARY_PATH", "LD_RUN_PATH", "LD_LIBRARY_PATH", "LD_PRELOAD"),
        *("SOURCE_DATE_EPOCH", "LANG", "LANGUAGE", "CICC_PATH", "CUDA_HOME", "CUDA_PATH"),
        *(
            "CUDAFE_FLAGS",
            "CL",
            "_CL_",
            "SYSROOT",
            "SDKROOT",
            "CONDA_PREFIX",
            "CONDA_BUILD_SYSROOT",
        ),
        *("COLLECT_LTO_WRAPPER", "LDEMULATION", "LDFLAGS_SYSROOT", "LTO_PLUGIN"),
    }
)
"""Variables that compilers, or what they start, are known to read."""

PREFIXES = (
    "GCC_",
    "CLANG_",
    "CCC_",
    "NVCC_",
    "PTXAS_",
    "CUDA_TOOLKIT",
    "NIX_",
    "LC_",
    "LLVM_",
    "COLLECT_",
)

MOST_SCRIPT_BYTES = 1024 * 1024
_OF_SHELLS = frozenset({"PATH", "_", "SHLVL", "OLDPWD"})
"""What a script names to go on from there, and what changes with each command."""

DISABLE = "AJIT_CC_DISABLE"
"""Everything is passed through. Set for what a compiler starts, which may be a launcher again."""

_WRITES_MORE = (
    "DEPENDENCIES_OUTPUT",
    "SUNPRO_DEPENDENCIES",
    "CCC_LOG_DIAGNOSTICS",
    "CC_PRINT_OPTIONS",
)


def mattering(program: str = "") -> list[str]:
    """Return the variables that matter with their values, in order of their names.

    Args:
        program: The compiler. If it is a script, those that its text names matter, too.
    """
    words = _words(program) if program else frozenset()
    return sorted(
        f"{name}={value}"
        for name, value in os.environ.items()
        if name in NAMES or name in words or name.startswith(PREFIXES)
    )


def _words(program: str) -> frozenset[str]:
    """The words of a script, among them the variables that it reads; none of a binary."""
    try:
        with open(program, "rb") as file:
            if file.read(2) != b"#!":
                return frozenset()
            text = file.read(MOST_SCRIPT_BYTES).decode("ascii", "replace")
    except OSError:
        return frozenset()
    for character in set(text):
        if not (character.isalnum() or character == "_"):
            text = text.replace(character, " ")
    return frozenset(text.split()) - _OF_SHELLS


def refusal() -> str:
    """Say which variable makes a compile one that cannot be kept, or ""."""
    if os.environ.get(DISABLE, "") not in ("", "0"):
        return "disabled"
    if any(name in os.environ for name in _WRITES_MORE):
        return "writes more files"
    return ""


def logical_directory() -> str:
    """Return the name of the working directory that compilers write into debug information.

    It is $PWD where that leads to the working directory, by a link for instance.
    """
    here, named = os.getcwd(), os.environ.get("PWD", "")
    if named and named != here:
        try:
            if named.startswith("/") and os.path.samefile(named, here):
                return named
        except OSError:
            pass
    return here
