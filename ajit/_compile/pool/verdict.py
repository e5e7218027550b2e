"""Turns the end of a job into one of ajit's errors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ajit._compile.worker.messages import LOG_LIMIT_BYTES, JobFailed
from ajit._core.cxx import read_cxx
from ajit._core.signature import nearest_kernel
from ajit._core.spec import with_variants
from ajit._core.std_headers import missing_std_note
from ajit._printable import printable_line
from ajit._system.scarce import processes_reached
from ajit.errors import (
    AjitError,
    CompileError,
    CompileMemoryExceeded,
    CompileOutputExceeded,
    CompilerCrashed,
    CompilerStalled,
    CompileTimeout,
    UnknownArch,
    UnknownEntryPoint,
)

if TYPE_CHECKING:
    from ajit._compile.toolchains.identity import Toolchain
    from ajit._core.job import CompileJob
    from ajit.settings import Settings

__all__ = ["Verdict", "output_limit_bytes", "timeout_seconds"]

MOST_KERNELS = 1000
"""Named by an error. A generated source may have tens of thousands."""

_DENIED = re.compile(r"[Pp]ermission denied|[Nn]ot found|cannot open")
"""In a log: a file that was denied may be the reason."""

_BYTE_ORDER_MARK = r"\ufeff"
"""As `ajit._printable` shows it."""


def timeout_seconds(job: CompileJob, settings: Settings) -> float:
    """How long a job may take."""
    own = job.build.timeout_seconds if job.build else None
    return settings.compile_timeout_seconds if own is None else own


def output_limit_bytes(job: CompileJob, settings: Settings) -> int:
    """How much a job may make."""
    if job.build is None:
        return settings.compile_output_limit_bytes
    own = job.build.limit_bytes
    return settings.bundle_limit_bytes if own is None else own


class Verdict:
    """Makes the errors of one job with one toolchain."""

    def __init__(self, job: CompileJob, toolchain: Toolchain, settings: Settings) -> None:
        self._job = job
        self._compiler = str(toolchain.identity)
        self._settings = settings

    def failed(self, failed: JobFailed, trouble: str) -> AjitError:
        """The error of a worker's answer.

        Args:
            failed: The answer.
            trouble: A problem of the machine that may have caused the rejection, or "".
        """
        job = self._job
        if failed.kind == "arch":
            return UnknownArch(
                arch=job.arch, compiler=self._compiler, known=with_variants(failed.known)
            )
        if failed.kind in ("crash", "limit"):
            return self._broke_off(failed)
        if failed.kind == "output":
            return self.output_exceeded(failed.size_bytes)
        if trouble:
            return self.crashed(f"{trouble}\n{failed.log}", exit_code=failed.exit_code or 1)
        if failed.kind == "entry":
            declared = read_cxx(job.source, job.headers).kernel_names()
            kernels = sorted({printable_line(name) for name in declared})[:MOST_KERNELS]
            return UnknownEntryPoint(
                entry=failed.entry,
                kernels=kernels,
                nearest=nearest_kernel(failed.entry, kernels),
                log=failed.log,
                **self._about(),
            )
        error = CompileError(log=failed.log, **self._about())
        if self._settings.sandbox != "off" and _DENIED.search(failed.log):
            error.add_note(
                "the compiler ran in a sandbox (setting sandbox): it is denied any file but its "
                "own, the system's headers and libraries, include_dirs and sandbox_paths"
            )
        if note := missing_std_note(self._compiler, failed.log):
            error.add_note(note)
        if _BYTE_ORDER_MARK in failed.log:
            error.add_note(
                "the compiler names a byte order mark: NVRTC refuses a header that begins with one "
                "(save it without)"
            )
        return error

    def _broke_off(self, failed: JobFailed) -> AjitError:
        if failed.kind == "limit":
            limit = processes_reached()
            limit.add_note(failed.log)
            return limit
        return self.crashed(failed.log, failed.signal, failed.exit_code)

    def crashed(self, log: str, signal: str = "", exit_code: int | None = None) -> CompilerCrashed:
        """The compiler broke off, or could not even be started."""
        log = log[-LOG_LIMIT_BYTES:]
        return CompilerCrashed(signal=signal, exit_code=exit_code, log=log, **self._about())

    def timed_out(self) -> CompileTimeout:
        """It ran past its limit."""
        limit = timeout_seconds(self._job, self._settings)
        return CompileTimeout(limit_seconds=limit, **self._about())

    def stalled(self, reason: str, cpu_seconds: float) -> CompilerStalled:
        """It was stopped, or its processes wait for each other."""
        return CompilerStalled(reason=reason, cpu_seconds=cpu_seconds, **self._about())

    def memory_exceeded(self, used_bytes: int, jobs: int = 1) -> CompileMemoryExceeded:
        """It took too much memory."""
        limit = self._settings.compile_memory_limit_bytes * jobs
        return CompileMemoryExceeded(used_bytes=used_bytes, limit_bytes=limit, **self._about())

    def output_exceeded(self, size_bytes: int) -> CompileOutputExceeded:
        """It made too much."""
        limit = output_limit_bytes(self._job, self._settings)
        return CompileOutputExceeded(size_bytes=size_bytes, limit_bytes=limit, **self._about())

    def _about(self) -> dict[str, str]:
        return {"name": self._job.name, "key": self._job.key, "compiler": self._compiler}
