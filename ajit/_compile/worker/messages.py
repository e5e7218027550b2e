"""What the compile pool and its worker processes say to each other.

Frames on pipes: a length of eight bytes, little-endian, then MessagePack. The pool sends one
`WorkerRequest` and gets one `WorkerAnswer`; there is no other traffic.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ajit._core.job import CompileJob, CompileOutput, Seen

__all__ = [
    "HEADER_BYTES",
    "LOG_LIMIT_BYTES",
    "JobFailed",
    "JobFinished",
    "WorkerAnswer",
    "WorkerRequest",
    "cut_short",
    "frame",
]

HEADER_BYTES = 8

LOG_LIMIT_BYTES = 1024 * 1024
"""How much a compiler's output may take; template errors of CUB reach some 100 kB."""


class WorkerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One job, and the toolchain to do it with.

    Attributes:
        job: The job; its include directories are absolute.
        command: The toolchain's command; for NVRTC the library's path.
        version: The toolchain's full version.
        include_dirs: The toolchain's own headers.
        flags: The toolchain's own flags.
        folder: A private directory for this job. The pool makes it and removes it.
        output_limit_bytes: A larger result is refused.
        sandbox: None, or what the worker may read beside the job's own when it has confined itself,
            see `ajit._compile.worker.sandbox`.
        jobs: How many jobs a build may run at once.
    """

    job: CompileJob
    command: tuple[str, ...]
    version: str
    include_dirs: tuple[str, ...]
    flags: tuple[str, ...]
    folder: str
    output_limit_bytes: int
    sandbox: tuple[str, ...] | None = None
    jobs: int = 1


_NOT_ASKED = Seen(blind="the worker has not looked yet")


class JobFinished(msgspec.Struct, frozen=True, tag="finished"):
    """The job gave a result.

    Attributes:
        output: The result.
        seen: What the compiler read.
    """

    output: CompileOutput
    seen: Seen = _NOT_ASKED


class JobFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The job gave none.

    Attributes:
        kind: ``compile`` (the source was rejected), ``entry`` (it has no such kernel), ``arch``
            (the compiler does not build for it), ``output`` (the result is too large), ``limit``
            (the system gives no more processes) or ``crash`` (the compiler broke off).
        log: What the compiler printed.
        entry: The unknown entry point.
        known: Architectures that the compiler knows.
        signal: Name of the signal that killed the compiler, or "".
        exit_code: Its exit code, or None if it was a signal.
        size_bytes: Size of a result that is too large.
        seen: What the compiler read.
    """

    kind: Literal["compile", "entry", "arch", "output", "limit", "crash"]
    log: str = ""
    entry: str = ""
    known: tuple[str, ...] = ()
    signal: str = ""
    exit_code: int | None = None
    size_bytes: int = 0
    seen: Seen = _NOT_ASKED


WorkerAnswer = JobFinished | JobFailed


def cut_short(fault: str, log: str) -> JobFailed:
    """Return the failure of a compiler that said it succeeded, with a result that is not whole."""
    why = f"the compiler said it succeeded, but its result is cut short: {fault}"
    return JobFailed(kind="crash", log=f"{why}\n{log}".strip(), exit_code=0)


def frame(message: msgspec.Struct) -> bytes:
    """Return the bytes of a message as they go over a pipe."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(HEADER_BYTES, "little") + body
