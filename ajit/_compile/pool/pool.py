"""The compile pool: runs compile jobs in worker processes, a few at a time, off the event loop.

Every slot is a thread that owns at most one worker process and does one job at a time. Threads and
workers are started when there is work for them. The threads are daemons: a server that ends without
closing its runtime is not kept alive, and the kernel ends the workers with their threads.

Guarantees:

- Nothing here blocks the event loop: `CompilePool.compile` takes a lock for microseconds, and waits
  for a promise. Files, child processes and toolchains are touched by slot threads only.
- Cancelling `compile` ends the job: a queued one is dropped, a running one's process group is
  killed; and the call returns only after the group is gone (bounded by `KILL_SECONDS`).
- After `aclose` no thread, process or temporary file of the pool is left.

What starts next, and when, is decided in `ajit._compile.pool.admission`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import anyio

from ajit._compile.pool.admission import Admission
from ajit._compile.pool.folders import sweep_folders
from ajit._compile.pool.slot import WorkerSlot, check_sandbox
from ajit._compile.pool.statistics import PoolStatistics
from ajit._compile.pool.task import Task
from ajit._system.in_thread import run_in_thread
from ajit._system.loop import Promise
from ajit._system.warn import warn_only
from ajit.errors import AjitError, ForkedRuntime, RuntimeClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._compile.pool.admission import Gate, HeldBack
    from ajit._compile.pool.pack import Pack
    from ajit._compile.pool.task import BeatPhase, OnBeat
    from ajit._compile.toolchains.identity import Toolchain
    from ajit._compile.toolchains.toolchains import Toolchains
    from ajit._core.job import CompileJob, CompileOutput, Seen
    from ajit._system.priority_line import Priority
    from ajit.settings import Settings

__all__ = ["CompilePool", "PoolStatistics"]

BEAT_SECONDS = 1.0
CLOSE_SECONDS = 10.0
"""How long `CompilePool.aclose` waits for its threads by default: they end their workers in a
second or two, unless a compiler hangs in the kernel. Then only the thread is left, a daemon, and a
warning."""

IDLE_SECONDS = 30.0
"""After this time without work a slot ends its worker: NVRTC keeps 100 MB. Pretty arbitrary."""

KILL_SECONDS = 2.0
"""How long a cancelled call waits for its killed compiler; SIGKILL needs milliseconds, unless the
compiler hangs in the kernel on a dead file system."""


class CompilePool:
    """Compiles jobs. One pool per runtime; it belongs to the event loop that it is made in."""

    def __init__(
        self, settings: Settings, toolchains: Toolchains, *, admission: Gate | None = None
    ) -> None:
        """Make a pool; nothing is started before the first job.

        Args:
            settings: Settings.
            toolchains: Where compilers are found.
            admission: A further condition for the start of a compile, if any.

        Raises:
            SettingsError: The settings ask for a sandbox that this machine cannot make.
        """
        check_sandbox(settings)
        self._settings = settings
        self._toolchains = toolchains
        self._admission = Admission(settings, admission)
        self._pid = os.getpid()
        # Only the event loop's thread touches these two.
        self._slots: list[WorkerSlot] = []
        self._threads: list[threading.Thread] = []
        # Guards the two below. Held for microseconds; never while waiting for anything else.
        self._lock = threading.Lock()
        self._running: dict[Task, WorkerSlot] = {}
        self._counts = dict.fromkeys(("finished", "failed", "killed"), 0)

    def __repr__(self) -> str:
        s = self.statistics()
        state = "closed" if self._admission.closing else "open"
        return f"<CompilePool {state} slots={s.slots} running={s.running} queued={s.queued}>"

    async def compile(
        self,
        job: CompileJob,
        *,
        on_beat: OnBeat,
        on_seen: Callable[[Seen], None] = lambda _: None,
        on_pack: Callable[[Pack], None] = lambda _: None,
        toolchain: Toolchain | None = None,
        priority: Priority = "foreground",
    ) -> CompileOutput:
        """Compile one job and return its output.

        Args:
            job: The job.
            on_beat: Called about once a second with the phase, ``queued`` or ``compiling``, and the
                CPU seconds that the compiler has used, from threads of the pool and never from the
                event loop. It must not block: the limits
                on a compile are looked after by the same thread. An exception ends the beats,
                with a warning, and not the compile.
            on_seen: Called before this returns or raises, from a thread of the pool, with what the
                compiler read; not if it ended without an answer.
            on_pack: Called likewise with the files of a bundle, if it made one.
            toolchain: The toolchain that the job's key was made with; None takes the current one.
            priority: ``foreground`` if a request waits for the result, ``background`` for warm-up
                work, which starts after all foreground jobs and may be promoted (`promote`).

        Raises:
            CompileError: The source was rejected; `UnknownEntryPoint` if it has no such kernel.
            UnknownArch: The compiler does not build for the job's arch.
            CompilerNotFound: There is no such compiler; nothing was started.
            CompilerCrashed: The compiler died or broke off; its process group is gone.
            CompileTimeout: It ran past ``compile_timeout_seconds``; its process group is gone.
            CompilerStalled: It was stopped for ``patience_seconds``, or used no CPU time for a
                minute; likewise.
            CompileMemoryExceeded: It took more than ``compile_memory_limit_bytes``; likewise.
            CompileOutputExceeded: Its result is above ``compile_output_limit_bytes``.
            RuntimeClosed: The pool is closed, or was closed meanwhile.
            ForkedRuntime: The pool belongs to the parent process.

        Cancelling drops a queued job, and kills a running one's process group within a second.
        """
        self._check_usable()
        task = Task(job, toolchain, on_beat, Promise(), priority, on_seen, on_pack)
        self._submit(task)
        try:
            return await task.promise.wait()
        except anyio.get_cancelled_exc_class():
            self._abandon(task)
            with (
                anyio.CancelScope(shield=True),
                anyio.move_on_after(KILL_SECONDS),
                contextlib.suppress(AjitError),
            ):
                await task.promise.wait()
            raise

    async def aclose(self, seconds: float = CLOSE_SECONDS) -> None:
        """End everything: queued jobs, running ones, workers, threads. Safe to call again.

        Args:
            seconds: How long it waits for its threads.

        Jobs that are not finished raise `RuntimeClosed`. Cancelling does not interrupt it.
        """
        if os.getpid() != self._pid:
            return  # the threads and the workers are the parent's
        for task in self._admission.close():
            task.promise.reject(_closed())
        with self._lock:
            running = dict(self._running)
        for task, slot in running.items():
            slot.cancel(task)
        with anyio.CancelScope(shield=True):
            limiter = anyio.CapacityLimiter(1)  # a separate one: the default may be used up
            join = partial(_join, self._threads, seconds)
            stuck = await run_in_thread(join, limiter=limiter)
        if stuck:
            warn_only(f"threads that did not end within {seconds:.1f} s: {', '.join(stuck)}")

    def promote(self, key: str) -> bool:
        """Promote a queued background job, because a request waits for it now.

        Returns:
            False if no background job of that key is queued: it runs already, has ended, or was
            never queued. Any thread may call this.
        """
        return self._admission.promote(key)

    @property
    def held_back(self) -> HeldBack:
        """What the next task waits for although a slot is free. Any thread."""
        return self._admission.held_back

    def phase(self, key: str) -> BeatPhase | None:
        """Return the state of a key's job; None if there is no such job. Any thread."""
        if self._admission.is_queued(key):
            return "queued"
        with self._lock:
            compiles = any(task.key == key for task in self._running)
        return "compiling" if compiles else None

    def statistics(self) -> PoolStatistics:
        """Return the pool's numbers. Any thread."""
        running, queued, background = self._admission.counts()
        with self._lock:
            return PoolStatistics(
                slots=self._settings.compile_slots,
                running=running,
                queued=queued,
                queued_background=background,
                held_back=self._admission.held_back,
                workers=sum(slot.worker_pid is not None for slot in self._slots),
                workers_started=sum(slot.started for slot in self._slots),
                workers_recycled=sum(slot.recycled for slot in self._slots),
                **self._counts,
            )

    # --- the event loop's side

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedRuntime("this compile pool belongs to the parent process")
        if self._admission.closing:
            raise _closed()

    def _submit(self, task: Task) -> None:
        if not self._admission.submit(task):
            return
        try:
            self._add_thread()
        except RuntimeError:
            # No thread can be started. The slots that there are will do the task, if there are any.
            if not self._slots and self._admission.withdraw(task):
                raise

    def _add_thread(self) -> None:
        """Start one more slot, if there may be one. Not under the lock: starting takes a while."""
        if not self._threads:
            self._start(self._beat_queued, "ajit-compile-beat")
        if len(self._slots) < self._settings.compile_slots:
            slot = WorkerSlot(self._settings, self._toolchains)
            self._start(lambda: self._serve(slot), f"ajit-compile-{len(self._slots) + 1}")
            self._slots.append(slot)

    def _start(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _abandon(self, task: Task) -> None:
        if self._admission.withdraw(task):
            task.promise.reject(_cancelled())
            return
        with self._lock:
            task.cancelled.set()  # its slot may be just about to begin
            slot = self._running.get(task)
        if slot is not None:
            slot.cancel(task)

    # --- the slot threads' side

    def _serve(self, slot: WorkerSlot) -> None:
        try:
            while (task := self._admission.take(IDLE_SECONDS, slot.close)) is not None:
                self._perform(slot, task)
        finally:
            slot.close()

    def _perform(self, slot: WorkerSlot, task: Task) -> None:
        output: CompileOutput | None = None
        error: BaseException | None = None
        with self._lock:
            self._running[task] = slot
        if self._admission.closing:
            task.cancelled.set()  # `aclose` may have looked before the line above
        try:
            output = slot.perform(task)
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the waiting task gets it
            error = exc
        self._count(task, error)
        if output is not None:
            task.promise.resolve(output)
        elif error is not None:
            task.promise.reject(_closed() if self._admission.closing else error)
        self._admission.release(task)  # last: it may hang on a dead file system

    def _count(self, task: Task, error: BaseException | None) -> None:
        with self._lock:
            del self._running[task]
            outcome = "killed" if task.cancelled.is_set() else "failed" if error else "finished"
            self._counts[outcome] += 1
        self._admission.finish(task)

    def _beat_queued(self) -> None:
        """Beat for the tasks that are queued."""
        sweep_folders()  # in this thread, since no request waits for it
        while (waiting := self._admission.await_queued(BEAT_SECONDS)) is not None:
            for task in waiting:
                task.beat("queued")


def _join(threads: list[threading.Thread], seconds: float) -> list[str]:
    """Wait for threads, within bounds; return the names of those that go on."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread.name for thread in threads if thread.is_alive()]


def _closed() -> RuntimeClosed:
    return RuntimeClosed("the compile pool is closed; open a new runtime")


def _cancelled() -> AjitError:
    return AjitError("the compile was cancelled while it was queued")
