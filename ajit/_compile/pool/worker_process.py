"""A worker process, seen from the server: start it, give it a job, kill it.

Owned by one slot thread of the pool, which starts it, speaks to it and reaps it; that thread lives
as long as the process (``PR_SET_PDEATHSIG`` counts from the thread). Only `kill` may be called from
other threads.

Started without ``preexec_fn``: forking a process that has threads, to run Python in the child, can
deadlock. The worker itself sets its signals, its niceness and its limits as the first thing.
It inherits three pipes and nothing else, and a small environment.

In a server that ignores SIGCHLD the kernel reaps a worker as soon as it ends. Its exit status is
lost then, and its number may belong to another process: it is killed only while it is known to be
this worker's.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ajit._compile.pool.group import group_lives
from ajit._compile.toolchains.discovery import NATIVE_DIR
from ajit._compile.toolchains.environment import compiler_environment
from ajit._compile.worker.messages import HEADER_BYTES, LOG_LIMIT_BYTES
from ajit._compile.worker.run_program import LIBRARY_VARIABLE
from ajit._compile.worker.text import capped

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FrameTooLarge", "WorkerDied", "WorkerProcess"]

CHUNK_BYTES = 64 * 1024
TICK_SECONDS = 0.2
"""How often a compile is looked at: its memory, its deadline, whether it is time for a beat."""

END_POLL_SECONDS = 0.002
GROUP_SECONDS = 0.2
KILLED_SECONDS = 5.0
"""How long a killed process may take to end. A busy machine needs a fraction of a second to take
back some hundred MB; a process that hangs on a dead disk may never go."""

POLITE_SECONDS = 1.0
"""How long an idle worker may take to end by itself; it needs some 20 ms."""

_START = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given['path'];"
    "from ajit._compile.worker.main import main; main(given['parent'], given['niceness'])"
)


class WorkerDied(Exception):
    """The worker ended instead of answering.

    Attributes:
        signal: Name of the signal that ended it, or "".
        exit_code: Its exit code, or None.
        log: The last that it wrote to standard error.
    """

    def __init__(self, returncode: int | None, log: str) -> None:
        super().__init__(returncode)
        if returncode is None:
            log = f"its exit status is lost: this process ignores SIGCHLD\n{log}".rstrip()
        self.signal = signal_name(-returncode) if returncode and returncode < 0 else ""
        self.exit_code = returncode if returncode is not None and returncode >= 0 else None
        self.log = log


class FrameTooLarge(Exception):
    """The worker announced an answer above the limit."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.size_bytes = size_bytes


class WorkerProcess:
    """One worker process and its pipes."""

    def __init__(self, niceness: int) -> None:
        """Start a worker. Blocks for some milliseconds, until the interpreter has been executed.

        Raises:
            OSError: It cannot be started.
        """
        self.jobs = 0
        self._lock = threading.Lock()
        given = {"path": _import_path(), "parent": os.getpid(), "niceness": niceness}
        self._process = subprocess.Popen(
            # No site module, no user packages, no PYTHON* variables, whatever the server has.
            [sys.executable, "-I", "-S", "-c", _START, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=compiler_environment() | _preloaded(),
            cwd="/",
            process_group=0,
            bufsize=0,
        )
        for pipe in self._pipes():
            os.set_blocking(pipe, False)
        self._stderr = bytearray()
        self._stderr_open = True

    @property
    def pid(self) -> int:
        """Process id, which is the id of the process group as well."""
        return self._process.pid

    def exchange(
        self,
        request: bytes,
        *,
        limit_bytes: int,
        deadline: float,
        on_tick: Callable[[], None],
    ) -> bytes:
        """Send a request and return the answer's bytes.

        Args:
            request: A frame.
            limit_bytes: Largest answer that is accepted.
            deadline: By `time.monotonic`.
            on_tick: Called a few times a second meanwhile; what it raises ends the exchange, and
                the worker must be killed.

        Raises:
            WorkerDied: It ended without an answer; its group was killed and it is reaped.
            FrameTooLarge: The answer is too large; the worker must be killed.
            TimeoutError: The deadline has passed; the worker must be killed.
        """
        self.jobs += 1
        outgoing, incoming = memoryview(request), bytearray()
        next_tick = time.monotonic() + TICK_SECONDS
        while not _is_complete(incoming, limit_bytes):
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError
            if now >= next_tick:
                on_tick()
                next_tick = time.monotonic() + TICK_SECONDS
                continue
            ready = self._wait(min(next_tick, deadline) - now, writing=bool(outgoing))
            outgoing = self._write(outgoing) if self._stdin in ready else outgoing
            if self._stderr_pipe in ready:
                self._read_stderr()
            if self._stdout in ready and not self._read_into(incoming):
                raise self._died()
        return bytes(incoming[HEADER_BYTES:])

    def is_alive(self) -> bool:
        """Whether the worker has not ended. Only its owner's thread."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None
        except ChildProcessError:
            return False  # the kernel has reaped it

    def kill(self) -> None:
        """Kill the whole process group without waiting. Any thread, any number of times."""
        with self._lock:
            # Not after it has been reaped: another process may have the number then.
            if self._process.returncode is None:
                self._kill_group()

    def reap(self) -> int | None:
        """Kill the group, wait for the worker, close the pipes; return its exit status if known."""
        self.kill()
        self._await_end(None)
        with self._lock:
            # The unreaped leader still reserves the group's number: kill what is left in the group.
            self._kill_group()
            lost = not self._is_unreaped()
            self._process.wait()
        self._await_group()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return None if lost else self._process.returncode

    def close(self) -> None:
        """End an idle worker: politely by the end of its input, else by killing it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._await_end(POLITE_SECONDS)
        self.reap()

    def resident_bytes(self) -> int:
        """Memory in use by the worker, or 0 if it is gone."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return 0

    def _kill_group(self) -> None:
        # A number is not given again while the worker is unreaped, or its group has a member.
        if self._is_unreaped() or group_lives(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _is_unreaped(self) -> bool:
        """Whether the worker still has its number: it lives, or its status was not taken yet."""
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return False
        return True

    @property
    def _stdin(self) -> int:
        assert self._process.stdin is not None
        return self._process.stdin.fileno()

    @property
    def _stdout(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    @property
    def _stderr_pipe(self) -> int:
        assert self._process.stderr is not None
        return self._process.stderr.fileno()

    def _pipes(self) -> tuple[int, int, int]:
        return self._stdin, self._stdout, self._stderr_pipe

    def _wait(self, seconds: float, *, writing: bool) -> set[int]:
        poll = select.poll()  # select() fails for descriptors above 1023, which servers have
        poll.register(self._stdout, select.POLLIN)
        if self._stderr_open:  # at its end it would be ready all the time
            poll.register(self._stderr_pipe, select.POLLIN)
        if writing:
            poll.register(self._stdin, select.POLLOUT)
        return {pipe for pipe, _ in poll.poll(max(0.0, seconds) * 1000)}

    def _write(self, outgoing: memoryview) -> memoryview:
        try:
            return outgoing[os.write(self._stdin, outgoing[:CHUNK_BYTES]) :]
        except BlockingIOError:
            return outgoing
        except BrokenPipeError:
            return outgoing[:0]  # it is dying; the end of its output will say so

    def _read_into(self, incoming: bytearray) -> bool:
        try:
            chunk = os.read(self._stdout, CHUNK_BYTES)
        except BlockingIOError:
            return True
        incoming += chunk
        return bool(chunk)

    def _read_stderr(self) -> bool:
        try:
            chunk = os.read(self._stderr_pipe, CHUNK_BYTES)
        except BlockingIOError:
            return False
        self._stderr_open = bool(chunk)
        self._stderr += chunk
        del self._stderr[: max(0, len(self._stderr) - LOG_LIMIT_BYTES)]
        return bool(chunk)

    def _died(self) -> WorkerDied:
        while self._read_stderr():
            pass
        # It has closed its output, so it is ending: its own status must not become our SIGKILL.
        self._await_end(POLITE_SECONDS)
        return WorkerDied(self.reap(), capped(bytes(self._stderr), LOG_LIMIT_BYTES).strip())

    def _await_group(self) -> None:
        """Wait until no process is left that could write into the job's folder, within bounds.

        SIGKILL takes effect soon, but not at once: a process releases its memory first. In a
        container whose first process does not reap, dead members stay in the group for ever. So
        after a while living members are searched for, which costs more than asking the kernel.
        """
        looks_from = time.monotonic() + GROUP_SECONDS
        while (now := time.monotonic()) < looks_from + KILLED_SECONDS:
            try:
                os.killpg(self.pid, 0)
            except OSError:
                return
            if now > looks_from and not group_lives(self.pid):
                return
            time.sleep(END_POLL_SECONDS if now < looks_from else TICK_SECONDS / 10)

    def _await_end(self, seconds: float | None) -> None:
        """Wait until the worker has ended; leave it unreaped, so that its group can be killed."""
        deadline = None if seconds is None else time.monotonic() + seconds
        if self._process.returncode is not None:
            return
        while self.is_alive():
            if deadline is not None and time.monotonic() >= deadline:
                return
            # No blocking call waits with a limit and without reaping, other than pidfd_open, which
            # containers of some years ago forbid. A worker ends in some 20 ms.
            time.sleep(END_POLL_SECONDS)


def signal_name(number: int) -> str:
    """Return the name of a signal, such as ``SIGSEGV``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _is_complete(incoming: bytearray, limit_bytes: int) -> bool:
    if len(incoming) < HEADER_BYTES:
        return False
    length = int.from_bytes(incoming[:HEADER_BYTES], "little")
    if length > limit_bytes:
        raise FrameTooLarge(length)
    return len(incoming) >= HEADER_BYTES + length


@functools.cache
def _preloaded() -> dict[str, str]:
    """The variable by which the recorder gets into the worker and its compilers."""
    path = os.path.join(NATIVE_DIR, "libajit_recorder.so")
    if not os.path.exists(path):
        return {}  # the worker then says that it is blind
    if re.search(r"[\s:$]", path):
        # The loader takes these characters for its own. The descriptor stays open for good.
        path = f"/proc/{os.getpid()}/fd/{os.open(path, os.O_RDONLY | os.O_CLOEXEC)}"
    return {LIBRARY_VARIABLE: path}


def _import_path() -> list[str]:
    """Where this process imports from, so that a worker without site finds the same packages."""
    here = str(Path(__file__).resolve().parents[3])
    paths = [os.path.abspath(path) for path in sys.path if path and os.path.exists(path)]
    return [*paths, here]
