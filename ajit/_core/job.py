"""What crosses the border to a compiler: the job, and what comes back.

All are plain values that msgspec can carry over a pipe, so that a worker process needs nothing
else of ajit.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "ArtifactKind",
    "CompileJob",
    "CompileOutput",
    "CompilerName",
    "ReadKind",
    "Seen",
    "SeenRead",
]

CompilerName = Literal["nvrtc", "nvcc", "host"]
ArtifactKind = Literal["cubin", "elf"]
ReadKind = Literal["file", "absent", "present", "same"]


class CompileJob(msgspec.Struct, frozen=True, kw_only=True):
    """One source to compile for one arch.

    Attributes:
        key: Hex base key; names private directories and messages, nothing else.
        name: The spec's label: how the source file is called in the compiler's messages.
        source: CUDA C++ text.
        entries: Names or name expressions, in order.
        compiler: Which compiler; its toolchain is found by the pool.
        arch: ``sm_90a`` or ``x86_64``.
        options: Flags in order, passed on as they are.
        defines: Macros; a value of None is a bare ``-DNAME``.
        include_dirs: The user's include directories; the toolchain's own come after them.
        headers: Virtual headers: include name and text.
    """

    key: str
    name: str
    source: str
    entries: tuple[str, ...]
    compiler: CompilerName
    arch: str
    options: tuple[str, ...] = ()
    defines: tuple[tuple[str, str | None], ...] = ()
    include_dirs: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


class CompileOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What a compiler made of a job.

    Attributes:
        kind: ``cubin`` for a GPU, ``elf`` (a shared object) for the CPU driver.
        data: The compiled bytes.
        lowered: Entry name to the symbol that the driver finds it by.
        log: Everything the compiler printed; warnings of a successful compile.
        command: The compiler and its flags, without paths of this machine.
        seconds: Wall time of the compile itself.
    """

    kind: ArtifactKind
    data: bytes
    lowered: dict[str, str]
    log: str
    command: tuple[str, ...]
    seconds: float


class SeenRead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file that a compiler asked for.

    Attributes:
        place: See `ajit._core.reads.Read`.
        name: Likewise.
        kind: Likewise.
        stamp: Of a file that was read: device, inode, size, mtime and ctime in ns, when it was
            opened; None if it was not read, or if it was another file each time.
        opened_ns: When, in ns of Unix time by this machine's coarse clock.
    """

    place: str
    name: str
    kind: ReadKind
    stamp: tuple[int, int, int, int, int] | None = None
    opened_ns: int = 0


class Seen(msgspec.Struct, frozen=True):
    """What a compile asked for.

    Attributes:
        reads: In the order in which it first did.
        blind: Why that is not known; "" if it is.
    """

    reads: tuple[SeenRead, ...] = ()
    blind: str = ""
