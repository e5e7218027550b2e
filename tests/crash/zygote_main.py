"""Processes that resolve a kernel as told, made by a fork of one that has imported everything.

The crash tests need thousands of processes, and a Python that imports ajit takes most of a second
under ``strace``. Each connection to this program's socket talks to a new process, line by line in
JSON, which ends when the talk does:

1. It says ``{"pid", "threads"}``. All its calls on the cache come from these two threads,
   ``worker`` (reads, publishes, takes and releases leases) and ``helper`` (waits for a lease), in
   one order, so that "the third fsync of the worker" is the same call in each run.
2. It is told ``{"do": "resolve", ...}``, opens a runtime, resolves, and says ``answer`` or
   ``failure``. It keeps the runtime open until the next line: a server lives on after a hiccup.
3. Or it is told ``{"do": "verify", ...}`` and runs ``ajit cache verify``.

The compiler is a stand-in at the seam that the pool is: it beats, and gives bytes that follow from
the key, or rejects the source. Everything else is ajit's.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import hashlib
import io
import json
import os
import platform
import queue
import select
import signal
import socket
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import anyio

import ajit
from ajit._cache.leases.lease import lock_threads
from ajit._compile.recorder.digests import FileStamp
from ajit._compile.toolchains.identity import Toolchain
from ajit._core import events
from ajit._core.job import CompileOutput, Seen, SeenRead
from ajit._core.key import ToolchainId
from ajit._resolve import services as _services
from ajit._resolve import waiting as _waiting
from ajit._runtime import opening as _opening
from ajit._system import lanes as _lanes
from ajit._system.in_thread import run_in_thread
from ajit.cli import main as command_line
from ajit.errors import CompileError
from tests.crash.sources import HEADER_NAME, HEADERS, LOG, compiled_bytes, is_broken

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._compile.pool.pack import Pack
    from ajit._core.job import CompileJob
    from ajit._resolve.request import Resolution

CLOCK_REALTIME_COARSE = 5
"""From Linux' ``time.h``: by it, a compile's reads are dated."""

PR_SET_PTRACER = 0x59616D61
ANY_PROCESS = ctypes.c_ulong(-1)

TOOLCHAIN = Toolchain(
    kind="host",
    version="1",
    path="stand-in",
    command=("stand-in",),
    identity=ToolchainId("host", "stand-in", hashlib.sha256(b"stand-in").hexdigest()),
    arches=(platform.machine(),),
)


class StandInToolchains:
    """Finds the stand-in."""

    def __init__(self, settings: ajit.Settings) -> None:
        del settings

    def find(self, kind: str) -> Toolchain:
        """Return it."""
        assert kind == "host"
        return TOOLCHAIN

    def close(self) -> None:
        """Nothing is asked, so there is nothing to end."""


class StandInPool:
    """Compiles at once, with one beat before, in a thread, as the pool does it."""

    def __init__(
        self, settings: ajit.Settings, toolchains: StandInToolchains, *, admission: object
    ) -> None:
        del settings, toolchains, admission

    async def compile(
        self,
        job: CompileJob,
        *,
        on_beat: Callable[[str, float], None],
        on_seen: Callable[[Seen], None],
        on_pack: Callable[[Pack], None],
        toolchain: Toolchain,
        priority: str,
    ) -> CompileOutput:
        """Return the bytes that the source and its header stand for."""
        del on_pack  # no kernel has files
        assert priority == "foreground"
        await run_in_thread(on_beat, "compiling", 0.0, limiter=anyio.CapacityLimiter(1))
        on_seen(seen_of(job))
        if is_broken(job.source):
            raise CompileError(name=job.name, key=job.key, compiler="stand-in", log=LOG)
        return CompileOutput(
            kind="elf",
            data=compiled_bytes(job.source),
            lowered={name: name for name in job.entries},
            log="",
            command=toolchain.command,
            seconds=0.0,
        )

    async def aclose(self, seconds: float) -> None:
        """There is nothing to end."""
        del seconds


class OneThread:
    """Makes all guarded calls, those within others as well, in one order."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.known: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def run(self, function: Callable[..., object], *args: object) -> None:
        """Make a call: now, if this is within another one."""
        if threading.current_thread() is self._thread:
            function(*args)
        else:
            self._calls.put(functools.partial(function, *args))

    def run_and_tell(self, function: Callable[..., Callable[[], object]], *args: object) -> None:
        """The same, for a function that returns what tells its outcome."""
        self.run(lambda: function(*args)())  # noqa: PLW0108  # called in the thread, not here

    def _serve(self) -> None:
        self.known.put(threading.get_native_id())
        while True:
            self._calls.get()()


def seen_of(job: CompileJob) -> Seen:
    """What the stand-in asks for: the header, if there is one, in the spec's one directory."""
    if not job.include_dirs:
        return Seen()
    stamp = FileStamp.of(str(HEADERS / HEADER_NAME))
    opened_ns = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    return Seen((SeenRead("i0", HEADER_NAME, "file", stamp, opened_ns),))


async def look_nowhere(services: _services.Services) -> None:
    """Look for no toolchain ahead: that would be in the worker's thread, or beside it."""
    del services


class Talk:
    """One line of JSON each way."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("r")

    def say(self, **facts: Any) -> None:
        """Write a line."""
        self._connection.sendall(json.dumps(facts).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        """Read a line; the end of the talk is the end of the process."""
        line = self._lines.readline()
        if not line:
            os._exit(0)
        return dict(json.loads(line))


async def resolve(talk: Talk) -> None:
    """Say which threads to trace, then open a runtime and resolve a kernel as told."""
    calls = OneThread()
    _lanes._threads = calls  # type: ignore[assignment]
    worker = calls.known.get()
    talk.say(pid=os.getpid(), threads={"worker": worker, "helper": helper_thread()})
    # Blocks the event loop, on purpose: nothing else is to happen meanwhile.
    order = talk.hear()
    if order.pop("do") == "verify":
        talk.say(**verify(order["cache_dir"]))
        return
    spec = ajit.Spec(
        order.pop("source"), "kernel", name="kernel", include_dirs=order.pop("include_dirs")
    )
    _waiting.WATCH_SECONDS = order.pop("watch_seconds")

    def on_event(event: object) -> None:
        if isinstance(event, events.Waiting):
            talk.say(waiting=True)

    # A board is made beside the work, and its calls would shift the numbers of those on the cache.
    order |= {"device": "none", "board": "off"}
    async with ajit.open_runtime(subscribers=[on_event], **order) as runtime:
        try:
            talk.say(**outcome(await runtime.resolve(spec, arch=platform.machine())))
        except CompileError as error:
            talk.say(failure=type(error).__name__, base=error.key, log=error.log, waited_seconds=0)
        talk.hear()
    talk.say(closed=True)


def outcome(resolution: Resolution) -> dict[str, Any]:
    """The answer for a kernel that was found."""
    return {
        "answer": resolution.tier,
        "base": resolution.artifact.base,
        "key": resolution.artifact.key,
        "digest": hashlib.sha256(resolution.artifact.data).hexdigest(),
        "waited_seconds": resolution.waited_for.seconds if resolution.waited_for else 0.0,
    }


def helper_thread() -> int:
    """Start the thread that will wait for locks, and return its id."""
    known: list[int] = []
    started = threading.Event()

    def tell() -> None:
        known.append(threading.get_native_id())
        started.set()

    lock_threads.run(tell)
    started.wait()
    while not lock_threads.idle():
        os.sched_yield()
    return known[0]


def verify(cache_dir: str) -> dict[str, Any]:
    """Run ``ajit cache verify``."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = command_line.run(["cache", "verify", "--json", "--cache-dir", cache_dir])
    return {"code": code, **json.loads(output.getvalue())}


def child(connection: socket.socket) -> None:
    """Be one process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Where Yama is at work, only a parent may trace. Elsewhere this fails, and nothing is lost.
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANY_PROCESS, 0, 0, 0)
    talk = Talk(connection)
    try:
        anyio.run(resolve, talk)
    except BaseException as error:  # noqa: BLE001  # told to the test, which decides
        talk.say(defect=type(error).__name__, text=str(error))
        talk.hear()
    os._exit(0)


def main(path: str) -> None:
    """Fork a process for each connection, until standard input ends."""
    warnings.simplefilter("ignore", ajit.AjitWarning)
    _services.CompilePool = StandInPool  # type: ignore[assignment,misc]
    _services.Toolchains = StandInToolchains  # type: ignore[assignment,misc]
    _opening.look_ahead = look_nowhere
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    anyio.run(anyio.sleep, 0)  # loads the event loop, once and not in each child
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(16)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        gc.freeze()
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                child(connection)
            connection.close()


if __name__ == "__main__":
    main(sys.argv[1])
