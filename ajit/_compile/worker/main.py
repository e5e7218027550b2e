"""The worker process: takes one job at a time from a pipe, compiles, answers.

`ajit._compile.pool.worker_process` starts it. It does what might crash, hang or leak in the server:
NVRTC runs inside it, nvcc and host compilers as its children. It leads a new process group, so
killing the group leaves no compiler behind, nor anything that a compiler has started.

It dies with the server. The kernel sends it SIGTERM when the thread that started it ends
(``PR_SET_PDEATHSIG``), by SIGKILL of the server as well. While a child compiles, the handler then
ends the whole group and removes the job's directory; nvcc alone would leave cicc and ptxas running.
Inside NVRTC a Python handler could not run, so SIGTERM has its default effect there.

Standard output is taken away from libraries: frames go over a private copy, and whatever is printed
to descriptor 1 goes to standard error.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import msgspec

from ajit._compile.worker.messages import (
    HEADER_BYTES,
    JobFailed,
    WorkerAnswer,
    WorkerRequest,
    frame,
)
from ajit._compile.worker.place import leave_root, outward_path, remove_job_folder
from ajit._compile.worker.recording import Recorder
from ajit._compile.worker.signals import restore_signals

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["main"]

PR_SET_PDEATHSIG = 1


def main(parent: int, niceness: int) -> None:
    """Serve jobs until standard input ends.

    Args:
        parent: Process id of the server.
        niceness: How much to lower this process's priority.
    """
    restore_signals()
    requests, answers = _claim_pipes()
    guard = DeathGuard()
    _die_with(parent)
    os.nice(niceness)
    leave_root()
    # A crashed compiler would write a core file of gigabytes.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    recorder = Recorder()
    while (request := _read(requests)) is not None:
        recorder.begin()
        answer = _perform(request, guard, recorder)
        answer = msgspec.structs.replace(answer, seen=recorder.seen(request))
        # Before answering: the pool looks at this process's size when it has the answer.
        _return_memory()
        answers.write(frame(answer))
        answers.flush()


class DeathGuard:
    """What happens to this process and its children when the server dies."""

    def __init__(self) -> None:
        self._folder: str | None = None
        signal.signal(signal.SIGTERM, self._end_group)

    def in_library(self) -> None:
        """Die at once: the main thread will be in C code, and there is no child."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def in_child(self, folder: str) -> None:
        """End children first, then remove the job's folder, then die."""
        self._folder = folder
        signal.signal(signal.SIGTERM, self._end_group)

    def _end_group(self, _signal: int, _frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
        if self._folder is not None:
            remove_job_folder(self._folder)
        os.killpg(0, signal.SIGKILL)
        os._exit(1)


def _perform(request: WorkerRequest, guard: DeathGuard, recorder: Recorder) -> WorkerAnswer:
    if (why := outward_path(request.job)) is not None:
        return JobFailed(kind="compile", log=why)
    # Each compiler's module is imported by the worker that needs it: NVRTC's takes 60 ms.
    try:
        if request.job.compiler == "nvrtc":
            guard.in_library()
            from ajit._compile.worker import nvrtc  # noqa: PLC0415

            if request.sandbox is not None:
                nvrtc.load(request)  # the bindings look for the library where they like
                _confine(request)
            return nvrtc.compile_job(request, recorder)
        guard.in_child(request.folder)
        from ajit._compile.worker import external  # noqa: PLC0415

        if request.sandbox is not None:
            _confine(request)
        return external.compile_job(request, recorder)
    except BlockingIOError as exc:
        return JobFailed(kind="limit", log=str(exc))
    except Exception as exc:  # noqa: BLE001 - whatever it is, the pool must hear of it
        return JobFailed(kind="crash", log=f"{type(exc).__name__}: {exc}", exit_code=1)


def _confine(request: WorkerRequest) -> None:
    from ajit._compile.worker import sandbox  # noqa: PLC0415 - most workers have none

    try:
        sandbox.enter(request)
    except OSError as exc:
        raise RuntimeError(f"the sandbox cannot be made, and nothing was compiled: {exc}") from exc


def _claim_pipes() -> tuple[BinaryIO, BinaryIO]:
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _die_with(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The server may have died before the line above; then nothing would ever be sent.
    if os.getppid() != parent:
        sys.exit(1)


def _read(requests: BinaryIO) -> WorkerRequest | None:
    header = requests.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return None
    body = requests.read(int.from_bytes(header, "little"))
    return msgspec.msgpack.decode(body, type=WorkerRequest)


def _return_memory() -> None:
    """Give freed memory back: after a CUB kernel 400 MB stay with malloc, 100 MB are in use.

    Takes 1 ms after a small kernel, 25 ms after one that took two seconds.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
