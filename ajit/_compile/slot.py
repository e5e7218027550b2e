"""One slot of the compile pool: a thread's work on one task at a time, and its worker process."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
import warnings
from typing import TYPE_CHECKING, Literal

import msgspec

from ajit._compile.flags import with_absolute_dirs
from ajit._compile.messages import LOG_LIMIT_BYTES, Answer, Failed, Finished, Request, frame
from ajit._compile.process import FrameTooLarge, WorkerDied, WorkerProcess
from ajit.errors import (
    AjitError,
    AjitWarning,
    CompileError,
    CompilerCrashed,
    CompilerNotFound,
    CompileTimeout,
    UnknownArch,
    UnknownEntryPoint,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._bridge import Promise
    from ajit._compile.identity import Toolchain
    from ajit._compile.toolchain import Toolchains
    from ajit._core.job import CompileJob, CompileOutput
    from ajit.settings import Settings

__all__ = ["BeatPhase", "Slot", "Task", "TaskState"]

TaskState = Literal["queued", "running", "done"]
BeatPhase = Literal["queued", "compiling"]

OVERHEAD_BYTES = 16 * 1024 * 1024
"""What an answer may have beside the artifact: log, names, command."""


class Task:
    """One job on its way through the pool.

    `state` belongs to the pool's lock; `cancelled` is only ever set.
    """

    def __init__(
        self,
        job: CompileJob,
        toolchain: Toolchain | None,
        on_beat: Callable[[BeatPhase], None],
        promise: Promise[CompileOutput],
    ) -> None:
        self.job = job
        self.toolchain = toolchain
        self.promise = promise
        self.state: TaskState = "queued"
        self.cancelled = threading.Event()
        self._on_beat: Callable[[BeatPhase], None] | None = on_beat

    def beat(self, phase: BeatPhase) -> None:
        """Tell the owner that the task is alive. An exception ends the beats, not the compile."""
        on_beat = self._on_beat
        if on_beat is None:
            return
        try:
            on_beat(phase)
        except Exception as exc:  # noqa: BLE001 - the owner's code; the compile is worth more
            self._on_beat = None
            _warn(f"beat of {self.job.name} failed, it gets no more: {exc!r}")


class Slot:
    """Does tasks, one after another, in one thread; owns at most one worker process."""

    def __init__(self, settings: Settings, toolchains: Toolchains) -> None:
        self._settings = settings
        self._toolchains = toolchains
        self._lock = threading.Lock()
        self._worker: WorkerProcess | None = None
        self._task: Task | None = None
        self.started = 0
        self.recycled = 0

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker, if there is one."""
        worker = self._worker
        return worker.pid if worker else None

    def perform(self, task: Task) -> CompileOutput:
        """Do a task: find its toolchain, have it compiled, translate what went wrong.

        Raises:
            AjitError: What went wrong, in terms of the job.
        """
        toolchain = self._toolchain(task)
        try:
            return self._compile_in_folder(task, toolchain)
        except (OSError, ValueError, msgspec.MsgspecError) as exc:
            # No space, no process, no memory, or a path that is no text: not the source's fault.
            log = f"cannot run the compiler: {exc}"
            raise _crash(task.job, toolchain, "", None, log) from exc

    def _toolchain(self, task: Task) -> Toolchain:
        if task.toolchain is None:
            return self._toolchains.find(task.job.compiler)
        if not task.toolchain.is_current():
            # Its result would be published under the old compiler's key.
            raise CompilerNotFound(
                compiler=task.job.compiler,
                searched=[task.toolchain.path],
                install="it was replaced after the key was made: ask for the kernel again",
            )
        return task.toolchain

    def cancel(self, task: Task) -> None:
        """Kill what works on a task, if this slot does. Does not wait. Any thread."""
        with self._lock:
            task.cancelled.set()
            if self._task is task and self._worker is not None:
                self._worker.kill()

    def close(self) -> None:
        """End the worker. Only the slot's own thread, with no task at hand."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _compile_in_folder(self, task: Task, toolchain: Toolchain) -> CompileOutput:
        folder = tempfile.mkdtemp(prefix="ajit-")
        try:
            return self._compile(task, toolchain, folder)
        finally:
            # Not in the worker: it may have been killed.
            shutil.rmtree(folder, ignore_errors=True)

    def _compile(self, task: Task, toolchain: Toolchain, folder: str) -> CompileOutput:
        try:
            worker = self._worker_for(task)
            answer = self._exchange(worker, task, _request(task, toolchain, folder, self._settings))
            self._recycle(worker)
        except WorkerDied as died:
            self._forget()
            raise _crash(task.job, toolchain, died.signal, died.exit_code, died.log) from None
        except FrameTooLarge as exc:
            self._forget()
            log = f"the answer of {exc} bytes is above the limit"
            raise _crash(task.job, toolchain, "", 0, log) from None
        except TimeoutError:
            self._forget()
            raise CompileTimeout(
                name=task.job.name,
                key=task.job.key,
                compiler=str(toolchain.identity),
                limit_seconds=self._settings.compile_timeout_seconds,
            ) from None
        except BaseException:
            self._forget()
            raise
        finally:
            self._release(task)
        if isinstance(answer, Failed):
            raise _error(task.job, toolchain, answer)
        return answer.output

    def _worker_for(self, task: Task) -> WorkerProcess:
        """Return a living worker that `cancel` can kill from now on."""
        if self._worker is not None and not self._worker.is_alive():
            self._forget()  # it died idle; that is not this job's fault
        if self._worker is None:
            worker = WorkerProcess(self._settings.compiler_niceness)
            self.started += 1
            with self._lock:
                self._worker = worker
        with self._lock:
            self._task = task
            if task.cancelled.is_set():
                self._worker.kill()  # `cancel` came before there was anything to kill
            return self._worker

    def _exchange(self, worker: WorkerProcess, task: Task, request: Request) -> Answer:
        task.beat("compiling")
        body = worker.exchange(
            frame(request),
            limit_bytes=self._settings.compile_output_limit_bytes + OVERHEAD_BYTES,
            deadline=time.monotonic() + self._settings.compile_timeout_seconds,
            on_tick=lambda: task.beat("compiling"),
        )
        answer: Answer = msgspec.msgpack.decode(body, type=Finished | Failed)
        return answer

    def _release(self, task: Task) -> None:
        """Take the worker out of the reach of `cancel`; the next task must not get a killed one."""
        with self._lock:
            self._task = None
        if task.cancelled.is_set():
            self._forget()

    def _recycle(self, worker: WorkerProcess) -> None:
        """Replace a worker that has done its share, or has grown: compilers leak."""
        if (
            worker.jobs >= self._settings.worker_max_jobs
            or worker.resident_bytes() > self._settings.worker_max_bytes
        ):
            self.recycled += 1
            with self._lock:
                self._worker = None
            worker.close()

    def _forget(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.reap()


def _request(task: Task, toolchain: Toolchain, folder: str, settings: Settings) -> Request:
    dirs = tuple(os.path.abspath(path) for path in task.job.include_dirs)
    options = with_absolute_dirs(task.job.options)
    return Request(
        job=msgspec.structs.replace(task.job, include_dirs=dirs, options=options),
        command=toolchain.command,
        version=toolchain.version,
        include_dirs=toolchain.given_dirs,
        flags=toolchain.flags,
        folder=folder,
        output_limit_bytes=settings.compile_output_limit_bytes,
    )


def _error(job: CompileJob, toolchain: Toolchain, failed: Failed) -> AjitError:
    compiler = str(toolchain.identity)
    if failed.kind == "arch":
        return UnknownArch(arch=job.arch, compiler=compiler, known=failed.known)
    if failed.kind == "entry":
        return UnknownEntryPoint(
            entry=failed.entry, name=job.name, key=job.key, compiler=compiler, log=failed.log
        )
    if failed.kind == "crash":
        return _crash(job, toolchain, failed.signal, failed.exit_code, failed.log)
    return CompileError(name=job.name, key=job.key, compiler=compiler, log=failed.log)


def _crash(
    job: CompileJob, toolchain: Toolchain, signal: str, exit_code: int | None, log: str
) -> CompilerCrashed:
    return CompilerCrashed(
        name=job.name,
        key=job.key,
        compiler=str(toolchain.identity),
        signal=signal,
        exit_code=exit_code,
        log=log[-LOG_LIMIT_BYTES:],
    )


def _warn(message: str) -> None:
    # Where warnings are errors, this one is still not a reason to lose a compile.
    with contextlib.suppress(AjitWarning):
        warnings.warn(message, AjitWarning, stacklevel=2)
