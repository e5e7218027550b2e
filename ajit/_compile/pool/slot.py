"""One slot of the compile pool: a thread's work on one task at a time, and its worker process."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from ajit._compile.pool.folders import private_folder
from ajit._compile.pool.pack import Pack
from ajit._compile.pool.verdict import Verdict, output_limit_bytes, timeout_seconds
from ajit._compile.pool.watch import MemoryExceeded, Stalled, Watch
from ajit._compile.pool.worker_process import FrameTooLarge, WorkerDied, WorkerProcess
from ajit._compile.recorder.flags import with_absolute_dirs
from ajit._compile.toolchains.places import cuda_roots
from ajit._compile.worker import landlock
from ajit._compile.worker.messages import JobFailed, JobFinished, WorkerAnswer, WorkerRequest, frame
from ajit._compile.worker.sandbox import parts_of
from ajit._system.scarce import limit_of
from ajit.errors import CompilerNotFound, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._compile.pool.task import Task
    from ajit._compile.toolchains.identity import Toolchain
    from ajit._compile.toolchains.toolchains import Toolchains
    from ajit._core.job import BuildRun, CompileJob, CompileOutput
    from ajit.settings import Settings

__all__ = ["WorkerSlot", "check_sandbox"]

OVERHEAD_BYTES = 16 * 1024 * 1024
"""What an answer may have beside the artifact: log, names, command."""


def check_sandbox(settings: Settings) -> None:
    """Refuse a sandbox that this machine cannot make.

    Raises:
        SettingsError: It cannot; says why.
    """
    if settings.sandbox != "off" and (why := landlock.missing()):
        raise SettingsError(
            name="sandbox",
            value=settings.sandbox,
            origin=settings.origins.get("sandbox", "argument"),
            expected=f"off here: {why}",
        )


class WorkerSlot:
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
        """Do a task: find its toolchain, compile it in the worker, translate errors.

        Raises:
            AjitError: What went wrong, in terms of the job.
        """
        toolchain = self._toolchain(task)
        verdict = Verdict(task.job, toolchain, self._settings)
        try:
            with private_folder(task.job) as folder:
                return self._compile(task, toolchain, folder, verdict)
        except (OSError, ValueError, msgspec.MsgspecError) as exc:
            if limit := limit_of(exc):
                raise limit from exc
            # No space, no memory, or a path that is not text: not the source's fault.
            raise verdict.crashed(f"cannot run the compiler: {exc}") from exc

    def _toolchain(self, task: Task) -> Toolchain:
        if task.toolchain is None:
            return self._toolchains.find(task.job.compiler)
        if not task.toolchain.is_current():
            # Its result would be published under the old compiler's key.
            raise CompilerNotFound(
                compiler=task.job.compiler,
                searched=[task.toolchain.path],
                install="it was replaced after the key was made: request the kernel again",
            )
        return task.toolchain

    def cancel(self, task: Task) -> None:
        """Kill the worker if this slot does the task. Does not wait. Any thread may call it."""
        with self._lock:
            task.cancelled.set()
            if self._task is task and self._worker is not None:
                self._worker.kill()

    def close(self) -> None:
        """End the worker. Only the slot's own thread, with no task at hand."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _compile(
        self, task: Task, toolchain: Toolchain, folder: str, verdict: Verdict
    ) -> CompileOutput:
        settings = self._settings
        # Of a build each job may take as much as a compile.
        memory_bytes = settings.compile_memory_limit_bytes * task.jobs
        watch = Watch(task, folder, memory_bytes, settings.patience_seconds)
        request = _request(task, toolchain, folder, settings)
        answer = self._answer(task, request, watch, verdict)
        task.on_seen(answer.seen)
        if isinstance(answer, JobFinished):
            if answer.output.kind == "bundle":
                task.on_pack(Pack.take(folder))  # before the folder is removed
            return answer.output
        # NVRTC has no child that could be killed in its place, and it writes no file.
        trouble = watch.trouble() if task.job.compiler != "nvrtc" else ""
        raise verdict.failed(answer, trouble)

    def _answer(
        self, task: Task, request: WorkerRequest, watch: Watch, verdict: Verdict
    ) -> WorkerAnswer:
        """Return the worker's answer; raise, without a worker left, if there is none."""
        try:
            worker = self._worker_for(task)
            answer = self._exchange(worker, request, watch)
            self._recycle(worker)
        except BaseException as exc:
            self._forget()
            if isinstance(exc, WorkerDied):
                raise verdict.crashed(exc.log, exc.signal, exc.exit_code) from None
            if isinstance(exc, FrameTooLarge):
                raise verdict.output_exceeded(exc.size_bytes) from None
            if isinstance(exc, MemoryExceeded):
                raise verdict.memory_exceeded(exc.used_bytes, task.jobs) from None
            if isinstance(exc, Stalled):
                raise verdict.stalled(exc.reason, exc.cpu_seconds) from None
            if isinstance(exc, TimeoutError):
                raise verdict.timed_out() from None
            raise
        finally:
            self._release(task)
        return answer

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

    def _exchange(
        self, worker: WorkerProcess, request: WorkerRequest, watch: Watch
    ) -> WorkerAnswer:
        body = worker.exchange(
            frame(request),
            limit_bytes=self._settings.compile_output_limit_bytes + OVERHEAD_BYTES,
            deadline=time.monotonic() + timeout_seconds(request.job, self._settings),
            on_tick=lambda: watch.look(worker.pid),
        )
        answer: WorkerAnswer = msgspec.msgpack.decode(body, type=JobFinished | JobFailed)
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
            self._settings.sandbox != "off"  # it is confined to what this job may touch
            or worker.jobs >= self._settings.worker_max_jobs
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


def _request(task: Task, toolchain: Toolchain, folder: str, settings: Settings) -> WorkerRequest:
    dirs = tuple(os.path.abspath(path) for path in task.job.include_dirs)
    options = with_absolute_dirs(task.job.options)
    return WorkerRequest(
        job=msgspec.structs.replace(task.job, include_dirs=dirs, options=options),
        command=toolchain.command,
        version=toolchain.version,
        include_dirs=toolchain.include_dirs,
        flags=toolchain.flags,
        folder=folder,
        output_limit_bytes=output_limit_bytes(task.job, settings),
        jobs=task.jobs,
        sandbox=None
        if settings.sandbox == "off"
        else tuple(_readable(task.job, toolchain, settings)),
    )


def _readable_by(run: BuildRun) -> Iterator[str]:
    """What a build itself names: files that are copied, and where Python imports from."""
    yield from (path for _, path in run.copies if os.path.isabs(path))
    if run.function:
        yield from (path for path in sys.path if os.path.isabs(path))
        yield from parts_of(sys.prefix)
        yield from parts_of(sys.base_prefix)


def _readable(job: CompileJob, toolchain: Toolchain, settings: Settings) -> Iterator[str]:
    """What compilers in a sandbox may read beside what the worker itself knows of."""
    yield from filter(None, settings.sandbox_paths.split(os.pathsep))
    if job.build is not None:
        yield from _readable_by(job.build)
    if toolchain.kind == "nvcc":
        # The program on PATH may be a script that starts one of these. The environment of this
        # Python is a root as well; it holds more than compilers.
        for root in cuda_roots():
            if root != os.path.realpath(sys.prefix):
                yield from parts_of(root)
