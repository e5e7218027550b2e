"""Running a compiler for a launcher: recorded, its output passed on and kept, ended with us."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ajit._compile.recorder.stat_files import LIBRARY
from ajit._compile.worker.records import FILE_VARIABLE, LIBRARY_VARIABLE, unpack_records
from ajit._launcher import runner
from ajit._launcher.environment import DISABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ajit._compile.worker.records import Record

__all__ = ["CannotRun", "Ran", "Stopped", "run"]

MAX_RECORD_BYTES = 256 * 1024 * 1024
"""Of records; a compile of CUB makes less than one MB."""

MAX_OUTPUT_BYTES = 64 * 1024 * 1024
"""Of each text that is kept. A compile that prints more is passed on, and not kept."""

TICK_SECONDS = 1.0
ENDED_SECONDS = 5.0
"""How long an interrupted launcher waits for its compiler to end."""

CHUNK_BYTES = 64 * 1024

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class CannotRun(Exception):
    """Nothing was started: the compiler has to be run in another way."""


class Stopped(BaseException):
    """A signal asked this process to end. The compiler has ended.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass(frozen=True, slots=True)
class Ran:
    """A compiler that has ended.

    Attributes:
        status: Its wait status.
        stdout: What it printed there; what is above the limit is lost.
        stderr: Likewise.
        records: What it asked for and wrote.
        folder: The private directory that it had for temporary files.
        whole: Whether all that it printed, and all records, are here.
        seconds: Wall time.
    """

    status: int
    stdout: bytes
    stderr: bytes
    records: list[Record]
    folder: str
    whole: bool
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it says that it succeeded."""
        return self.status == 0


def run(command: Sequence[str], on_tick: Callable[[], object]) -> Ran:
    """Run a compiler, and wait for it. Main thread only: signals are taken meanwhile.

    What it prints is printed at once.

    Args:
        command: The compiler's path and its arguments.
        on_tick: Called every second meanwhile.

    Raises:
        CannotRun: It was not started.
        Stopped: This process was told to end.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="ajit-cc-", ignore_cleanup_errors=True)
            )
            records = os.memfd_create("ajit-reads")
            stack.callback(os.close, records)
            flags = fcntl.fcntl(records, fcntl.F_GETFL)
            fcntl.fcntl(records, fcntl.F_SETFL, flags | os.O_APPEND)
            stop = stack.enter_context(_signals())
            started = time.perf_counter()
            running = _Running(command, folder, records)
        except OSError as exc:
            raise CannotRun(str(exc)) from exc
        status = running.wait(stop, on_tick)
        seconds = time.perf_counter() - started
        size = os.fstat(records).st_size
        whole = size <= MAX_RECORD_BYTES and running.whole
        listed = list(unpack_records(os.pread(records, size, 0))) if whole else []
        return Ran(status, *running.printed(), listed, folder, whole, seconds)


class _Running:
    """The runner, its pipes, and what came through them."""

    def __init__(self, command: Sequence[str], folder: str, records: int) -> None:
        control, self._control = os.pipe()
        self._answers, answers = os.pipe()
        variables = [
            f"{LIBRARY_VARIABLE}={_preloaded()}",
            f"{FILE_VARIABLE}=/proc/{os.getpid()}/fd/{records}",
            f"TMPDIR={folder}",
            f"{DISABLE}=1",  # what the compiler starts may be a launcher again
            "CCACHE_DISABLE=1",  # what it reads would be its own cache
        ]
        for fd in (control, answers):
            os.set_inheritable(fd, True)  # noqa: FBT003  # the only way to call it
        settings = [str(control), str(answers), folder, str(len(variables)), *variables]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(runner.__file__)), *settings, *command],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
                # What a build system lets its compilers inherit, as make does its job server.
                close_fds=False,
                bufsize=0,
            )
        except BaseException:
            os.close(self._control)
            os.close(self._answers)
            raise
        finally:
            os.close(control)
            os.close(answers)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._streams = {self._process.stdout.fileno(): 1, self._process.stderr.fileno(): 2}
        self._kept = {1: bytearray(), 2: bytearray()}
        self._answer = b""
        self.whole = True

    def printed(self) -> tuple[bytes, bytes]:
        return bytes(self._kept[1]), bytes(self._kept[2])

    def wait(self, stop: int, on_tick: Callable[[], object]) -> int:
        """Wait for the compiler's end, or for a signal; return its wait status."""
        try:
            while len(self._answer) < 16:
                number = self._turn(stop, on_tick)
                if number:
                    raise Stopped(number)
            self._drain()
            return int.from_bytes(self._answer[8:16], "little")
        finally:
            os.close(self._control)  # the runner ends what still runs
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDED_SECONDS)
            os.close(self._answers)
            for pipe in (self._process.stdout, self._process.stderr):
                if pipe is not None:
                    pipe.close()

    def _turn(self, stop: int, on_tick: Callable[[], object]) -> int:
        """Wait for whatever comes next; return the number of a signal, or 0."""
        poll = select.poll()
        for fd in (stop, self._answers, *self._streams):
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(TICK_SECONDS * 1000)]
        if not ready:
            on_tick()
        for fd in ready:
            if fd == stop:
                return os.read(stop, 1)[0]
            if fd in self._streams:
                self._pass_on(fd)
            elif fd == self._answers:
                self._hear()
        return 0

    def _hear(self) -> None:
        chunk = os.read(self._answers, 16)
        if chunk:
            self._answer += chunk
            return
        # The runner was killed. Its compiler must not be left behind.
        if len(self._answer) >= 8:
            with contextlib.suppress(OSError):
                os.killpg(int.from_bytes(self._answer[:8], "little"), signal.SIGKILL)
        self.whole = False
        self._answer = bytes(8) + signal.SIGKILL.to_bytes(8, "little")

    def _pass_on(self, fd: int) -> bool:
        chunk = os.read(fd, CHUNK_BYTES)
        if not chunk:
            del self._streams[fd]
            return False
        stream = self._streams[fd]
        kept = self._kept[stream]
        if len(kept) + len(chunk) <= MAX_OUTPUT_BYTES:
            kept += chunk
        else:
            self.whole = False
        with contextlib.suppress(OSError):  # no reader is left: that is not the compiler's fault
            while chunk:
                chunk = chunk[os.write(stream, chunk) :]
        return True

    def _drain(self) -> None:
        """Pass on what is left. A process that the compiler left behind may hold the pipes."""
        for fd in list(self._streams):
            os.set_blocking(fd, False)
            with contextlib.suppress(BlockingIOError):
                while self._pass_on(fd):
                    pass


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """Turn signals that end a process into bytes on a descriptor, which is yielded."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    handlers = {
        number: signal.signal(number, lambda *_: None)
        for number in _SIGNALS
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield reader
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


def _preloaded() -> str:
    """What to preload: the recorder, and what the user has preloaded."""
    library = str(LIBRARY.with_name("libajit_recorder.so"))
    if not os.path.exists(library):
        raise CannotRun("libajit_recorder.so is not there")
    if any(character in library for character in " \t\n:$"):
        # The loader takes these characters for its own; the descriptor is ours, and stays open.
        library = f"/proc/{os.getpid()}/fd/{os.open(library, os.O_RDONLY | os.O_CLOEXEC)}"
    return ":".join(filter(None, (library, os.environ.get(LIBRARY_VARIABLE, ""))))
