"""A compiler that was found, and how it is told apart from every other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ajit._compile.recorder.digests import FileStamp

if TYPE_CHECKING:
    from ajit._core.job import CompilerName
    from ajit._core.key import ToolchainId

__all__ = ["Toolchain", "fingerprint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """A compiler that was found. Get it from `Toolchains`.

    Attributes:
        kind: ``nvrtc``, ``nvcc`` or ``host``.
        version: Full version, such as ``13.5.37``.
        path: The library (NVRTC) or program.
        command: How the program is started: its path, and what must come first after it.
        identity: What of it goes into keys.
        include_dirs: Directories of headers that it is told of, searched after the user's.
        flags: Flags that it always gets.
        arches: What it builds for; empty if only the compiler itself can say (NVRTC).
    """

    kind: CompilerName
    version: str
    path: str
    command: tuple[str, ...]
    identity: ToolchainId
    include_dirs: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    stamp: FileStamp | None = field(default=None, repr=False)

    def is_current(self) -> bool:
        """Whether the compiler is still the file that was fingerprinted."""
        return FileStamp.of(self.path) == self.stamp


def fingerprint(*parts: str) -> str:
    """Return a digest of texts, each with its length, so that no two lists agree by accident."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode(errors="surrogateescape")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()
