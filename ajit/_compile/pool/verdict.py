"""Turns the end of a job into one of ajit's errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ajit._compile.worker.messages import LOG_LIMIT_BYTES, JobFailed
from ajit.errors import (
    AjitError,
    CompileError,
    CompileMemoryExceeded,
    CompileOutputExceeded,
    CompilerCrashed,
    CompileTimeout,
    UnknownArch,
    UnknownEntryPoint,
)

if TYPE_CHECKING:
    from ajit._compile.toolchains.identity import Toolchain
    from ajit._core.job import CompileJob
    from ajit.settings import Settings

__all__ = ["Verdict"]


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
            return UnknownArch(arch=job.arch, compiler=self._compiler, known=failed.known)
        if failed.kind == "crash":
            return self.crashed(failed.log, failed.signal, failed.exit_code)
        if failed.kind == "output":
            return self.output_exceeded(failed.size_bytes)
        if trouble:
            return self.crashed(f"{trouble}\n{failed.log}", exit_code=failed.exit_code or 1)
        if failed.kind == "entry":
            return UnknownEntryPoint(entry=failed.entry, log=failed.log, **self._about())
        return CompileError(log=failed.log, **self._about())

    def crashed(self, log: str, signal: str = "", exit_code: int | None = None) -> CompilerCrashed:
        """The compiler broke off, or could not even be started."""
        log = log[-LOG_LIMIT_BYTES:]
        return CompilerCrashed(signal=signal, exit_code=exit_code, log=log, **self._about())

    def timed_out(self) -> CompileTimeout:
        """It ran past its limit."""
        limit = self._settings.compile_timeout_seconds
        return CompileTimeout(limit_seconds=limit, **self._about())

    def memory_exceeded(self, used_bytes: int) -> CompileMemoryExceeded:
        """It took too much memory."""
        limit = self._settings.compile_memory_limit_bytes
        return CompileMemoryExceeded(used_bytes=used_bytes, limit_bytes=limit, **self._about())

    def output_exceeded(self, size_bytes: int) -> CompileOutputExceeded:
        """It made too much."""
        limit = self._settings.compile_output_limit_bytes
        return CompileOutputExceeded(size_bytes=size_bytes, limit_bytes=limit, **self._about())

    def _about(self) -> dict[str, str]:
        return {"name": self._job.name, "key": self._job.key, "compiler": self._compiler}
