"""What crosses the border to a compiler: the job, and what comes back.

All are plain values that msgspec can carry over a pipe, so that a worker process needs nothing
else of ajit.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = [
    "PACK",
    "ArtifactKind",
    "BuildRun",
    "BundleFile",
    "CompileJob",
    "CompileOutput",
    "CompilerName",
    "ReadKind",
    "Seen",
    "SeenRead",
]

CompilerName = Literal["nvrtc", "nvcc", "host", "build"]
"""``build`` is none of ajit's compilers: the job says itself what is run."""
ArtifactKind = Literal["cubin", "elf", "bundle", "outputs"]
PACK = "ajit-pack"
"""The file in a job's folder that has the bytes of a bundle's files, one after another."""
ReadKind = Literal["file", "absent", "present", "same"]


class BuildRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a build runs, see `ajit._core.build.Build`.

    Attributes:
        argv: The command; empty if a function is called.
        function: ``module:function``, or "".
        arguments: Its keyword arguments as MessagePack.
        env: Variables.
        files: Names and contents.
        templates: Names and texts.
        copies: Names and paths.
        outputs: Patterns of what is kept.
        dirs: Names of the job's ``include_dirs``, in the same order.
        jobs: How many jobs it can make use of; 0: as many as there are slots.
        timeout_seconds: Its limit, if it has one of its own.
        limit_bytes: Likewise.
    """

    argv: tuple[str, ...] = ()
    function: str = ""
    arguments: bytes = b""
    env: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, bytes], ...] = ()
    templates: tuple[tuple[str, str], ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    outputs: tuple[str, ...] = ()
    dirs: tuple[str, ...] = ()
    jobs: int = 1
    timeout_seconds: float | None = None
    limit_bytes: int | None = None


class BundleFile(msgspec.Struct, frozen=True):
    """One file of a bundle.

    Attributes:
        path: Relative name, with ``/``.
        size_bytes: Its size.
        sha256: Its digest in hex.
        executable: Whether it may be run.
    """

    path: Annotated[str, msgspec.Meta(max_length=4096)]
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    executable: bool = False


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
        build: What is run instead of a compiler of ajit's; the compiler is ``build`` then, and
            there is no source.
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
    build: BuildRun | None = None


class CompileOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What a compiler made of a job.

    Attributes:
        kind: ``cubin`` for a GPU, ``elf`` (a shared object) for the CPU driver, ``bundle`` for the
            files of a build.
        data: The compiled bytes; none of a bundle.
        lowered: Entry name to the symbol that the driver finds it by.
        log: Everything the compiler printed; warnings of a successful compile.
        command: The compiler and its flags, without paths of this machine.
        seconds: Wall time of the compile itself.
        files: Of a bundle: the files whose bytes lie in `PACK` in the job's folder.
    """

    kind: ArtifactKind
    data: bytes
    lowered: dict[str, str]
    log: str
    command: tuple[str, ...]
    seconds: float
    files: tuple[BundleFile, ...] = ()


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
