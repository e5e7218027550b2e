"""Running a compiler program inside a worker process: output capped, killed with the worker.

The worker has one thread, so a child may be prepared in Python between fork and exec. Children stay
in the worker's process group and get a death signal of their own, for the case that the worker is
killed alone (by the kernel's memory killer).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._compile.worker.messages import LOG_LIMIT_BYTES, JobFailed
from ajit._compile.worker.records import FILE_VARIABLE, LIBRARY_VARIABLE
from ajit._compile.worker.text import capped, without_folder, without_paths
from ajit._compile.worker.watching import watched
from ajit._compile.worker.zig import zig_caches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ajit._compile.worker.messages import WorkerRequest

__all__ = ["Ran", "broke_off", "run_compiler", "shown_command"]

PR_SET_PDEATHSIG = 1
CHUNK_BYTES = 64 * 1024
INTERMEDIATE_BYTES = 256 * 1024 * 1024

_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Ran:
    """A compiler program that has ended.

    Attributes:
        returncode: As `subprocess` has it: negative for a signal.
        log: What it printed on both outputs.
        seconds: Wall time.
    """

    returncode: int
    log: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it says that it succeeded."""
        return self.returncode == 0

    def killed(self, number: int) -> Ran:
        """The same, told that a process below was ended by a signal."""
        return Ran(_SHELL_SIGNAL_BASE + number, self.log, self.seconds)

    def then(self, following: Ran) -> Ran:
        """Join this one, which succeeded, with the one after it."""
        log = "\n".join(filter(None, (self.log, following.log)))
        return Ran(following.returncode, log, self.seconds + following.seconds)


def run_compiler(
    request: WorkerRequest,
    arguments: Sequence[str],
    command: Sequence[str] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> Ran:
    """Run a toolchain's program in the job's folder and wait for it.

    Args:
        request: The job.
        arguments: What comes after the command.
        command: Another one than the toolchain's.
        environment: Another one than a compiler's.
    """
    started = time.perf_counter()
    command = command or request.command
    with (
        watched(command[0]) as enter,
        subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=request.folder,
            env=_environment(request, environment, recording=enter is None),
            # One thread of Python here; that of a watch waits, and holds nothing.
            preexec_fn=lambda: _prepare(request.output_limit_bytes, enter),  # noqa: PLW1509
        ) as process,
    ):
        assert process.stdout is not None
        raw = _read_capped(process.stdout.fileno())
        returncode = process.wait()
    log = without_folder(capped(raw, LOG_LIMIT_BYTES), request).strip()
    return Ran(returncode, log, time.perf_counter() - started)


def broke_off(ran: Ran) -> JobFailed | None:
    """Return the failure of a compiler that was killed by a signal, or None if it was not."""
    if ran.returncode < 0:
        return _killed(-ran.returncode, ran.log)
    # A shell, and compiler drivers as shells do, report a child's signal N as exit code 128 + N.
    if ran.returncode > _SHELL_SIGNAL_BASE:
        return _killed(ran.returncode - _SHELL_SIGNAL_BASE, ran.log)
    return None


def shown_command(request: WorkerRequest, arguments: Sequence[str]) -> tuple[str, ...]:
    """Return a command line as it is kept in an entry: without paths of this machine."""
    return tuple(without_paths(part, request) for part in (*request.command, *arguments))


_SHELL_SIGNAL_BASE = 128


def _killed(number: int, log: str) -> JobFailed:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return JobFailed(kind="crash", log=log, exit_code=_SHELL_SIGNAL_BASE + number)
    return JobFailed(kind="crash", log=log, signal=name)


def _prepare(output_limit_bytes: int, enter: Callable[[], object] | None) -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A runaway compiler must not fill the temporary directory, which is often memory. Intermediate
    # files are larger than results, so this is no more than a safety net.
    limit = INTERMEDIATE_BYTES + 4 * output_limit_bytes
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if enter is not None:
        enter()  # last: each look of this process for a file is now told to the worker


def _read_capped(pipe: int) -> bytes:
    """Read to the end, keeping the beginning and the end of what is more than twice the limit."""
    kept = bytearray()
    while chunk := os.read(pipe, CHUNK_BYTES):
        kept += chunk
        if len(kept) > 4 * LOG_LIMIT_BYTES:
            del kept[LOG_LIMIT_BYTES:-LOG_LIMIT_BYTES]
    return bytes(kept)


def _environment(
    request: WorkerRequest, given: Mapping[str, str] | None, *, recording: bool
) -> dict[str, str]:
    env = {**os.environ, "TMPDIR": request.folder, **zig_caches(request)}
    if given is not None:
        env = dict(given)
    if not recording:  # what is watched need not be recorded by what it starts as well
        for name in (LIBRARY_VARIABLE, FILE_VARIABLE):
            env.pop(name, None)
    return env
