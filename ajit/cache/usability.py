"""Which entries the compilers of this machine can use.

An entry names in its key the compiler, its version and the toolchain's fingerprint. A look-up here
makes keys with the compilers that are here: an entry of another one is never asked for. That says
nothing of other machines that share the cache, so nothing is removed for it unless someone asks.

What a build made (an adapter, the compiler launcher) is not judged: only the build knows its key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ajit.errors import CompilerNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ajit._compile.toolchains.toolchains import Toolchains
    from ajit._core.job import CompilerName

__all__ = ["fingerprints_here", "is_usable"]

_KINDS: tuple[CompilerName, ...] = ("nvrtc", "nvcc", "host")


def fingerprints_here(toolchains: Toolchains) -> dict[str, str]:
    """Return the fingerprint of each compiler that is found here, by its name. Takes up to 1 s."""
    found = {}
    for kind in _KINDS:
        try:
            identity = toolchains.find(kind).identity
        except CompilerNotFound:
            continue
        found[identity.name] = identity.fingerprint
    return found


def is_usable(key_fields: Iterable[tuple[str, str]], here: dict[str, str]) -> bool | None:
    """Whether a compiler of this machine would look an entry up; None if that cannot be known.

    Args:
        key_fields: What the entry's key was made of.
        here: From `fingerprints_here`.
    """
    fields = dict(key_fields)
    compiler, fingerprint = fields.get("compiler"), fields.get("toolchain")
    if compiler not in _KINDS or fingerprint is None:
        return None
    return here.get(compiler) == fingerprint
