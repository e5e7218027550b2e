"""Daemon threads for calls that another process may block for any time.

Not the event loop's own helper threads: there are 40 of those, and 40 of them blocked in locks
would starve every other thread hop of the process. Not `concurrent.futures` either: the
interpreter joins its threads at exit, so a blocked one would keep the process alive.

There is no limit on running threads: with one, a blocked lock could delay another. There is a limit
on idle threads, which one or two that become idle at the same time may exceed.

When the last runtime of the process closes, idle threads end, and busy ones after their call
(`kept_threads`): who runs no kernels any more pays for no thread.

No lock in here, only single operations of a list, which are atomic: a call may come from the
garbage collector, in the middle of another call of the same thread.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
import weakref
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio

from ajit._system.uncancelled import uncancelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["DaemonThreads", "kept_threads"]

IDLE_LIMIT = 4
"""Threads kept for the next call. Pretty arbitrary: starting one costs about 60 µs."""

IDLE_SECONDS = 10.0
"""How long one is kept. Pretty arbitrary, too: long enough for the next kernel of a warm-up."""

END_SECONDS = 1.0
"""How long closing waits for threads that have nothing to do but end. They need microseconds."""

END_POLL_SECONDS = 0.001
"""How often it looks."""

Job = tuple["Callable[..., Any]", tuple[Any, ...], bool]
"""A function, its arguments, and whether it returns what is to be called afterwards."""
Idle = tuple["queue.SimpleQueue[Job]", threading.Thread]


class DaemonThreads:
    """A cache of daemon threads. Any thread may use it; a forked child begins without threads.

    Args:
        name: What the threads are called, before a number.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._forget()
        _all.add(self)
        os.register_at_fork(after_in_child=self._forget)

    def run(self, function: Callable[..., object], *args: Any) -> None:
        """Start ``function(*args)`` in a thread, and return.

        An exception of the function goes to `threading.excepthook`.

        Raises:
            RuntimeError: No thread can be started. The function is not called.
        """
        self._start((function, args, False))

    def run_and_tell(self, function: Callable[..., Callable[[], object]], *args: Any) -> None:
        """The same, for a function that returns what tells its outcome.

        That is called when the thread is idle again, so who makes one call after another, each upon
        the outcome of the last, always has the same thread.
        """
        self._start((function, args, True))

    def _start(self, job: Job) -> None:
        with suppress(IndexError):
            mailbox, _ = self._idle.pop()
            mailbox.put(job)
            return
        mailbox = queue.SimpleQueue()
        mailbox.put(job)
        name = f"{self._name}-{next(self._numbers)}"
        threading.Thread(target=self._work, args=(mailbox,), name=name, daemon=True).start()

    def idle(self) -> int:
        """How many threads wait for a call."""
        return len(self._idle)

    def end_idle(self) -> list[threading.Thread]:
        """Let those end that wait for a call, and return them."""
        ended = []
        with suppress(IndexError):
            while True:
                mailbox, thread = self._idle.pop()
                mailbox.put(_END)
                ended.append(thread)
        return ended

    def _forget(self) -> None:
        self._idle: list[Idle] = []
        self._numbers = itertools.count(1)

    def _work(self, mailbox: queue.SimpleQueue[Job]) -> None:
        job = mailbox.get()
        while job is not _END:
            function, args, tells = job
            told = function(*args)
            tell = told if tells else _nothing
            del job, function, args, told  # an idle thread keeps nothing of its last call alive
            if len(self._idle) >= IDLE_LIMIT:
                tell()
                return
            idle = mailbox, threading.current_thread()
            self._idle.append(idle)
            tell()
            del tell
            job = self._next(mailbox, idle)

    def _next(self, mailbox: queue.SimpleQueue[Job], idle: Idle) -> Job:
        try:
            # The thread is in the list by now: who ends the idle ones has either seen it there, or
            # left before this look.
            return mailbox.get(timeout=0.0 if _keepers.have_left else IDLE_SECONDS)
        except queue.Empty:
            with suppress(ValueError):
                self._idle.remove(idle)
                return _END
            # It was taken from the list just now, so a call is on its way.
            return mailbox.get()


def _nothing() -> None:
    pass


_END: Job = (_nothing, (), False)


class _Keepers:
    """Those for whom idle threads are kept: the open runtimes of the process."""

    def __init__(self) -> None:
        self._present: list[object] = []
        self._any_yet = False

    @property
    def have_left(self) -> bool:
        """Whether there were some, and none is left."""
        return self._any_yet and not self._present

    def enter(self, keeper: object) -> None:
        self._present.append(keeper)
        self._any_yet = True

    def leave(self, keeper: object) -> None:
        with suppress(ValueError):  # in a forked child there are none
            self._present.remove(keeper)


_keepers = _Keepers()
_all: weakref.WeakSet[DaemonThreads] = weakref.WeakSet()


@asynccontextmanager
async def kept_threads() -> AsyncIterator[None]:
    """Keep idle threads in the block. The end of the last block ends them, and waits for that."""
    keeper = object()
    _keepers.enter(keeper)
    try:
        yield
    finally:
        _keepers.leave(keeper)
        if _keepers.have_left:
            with anyio.CancelScope(shield=True):
                await uncancelled(_end_idle)


async def _end_idle() -> None:
    ended = [thread for pool in list(_all) for thread in pool.end_idle()]
    deadline = time.monotonic() + END_SECONDS
    # The last thing that a thread does is to end: nothing of it could set an event after that.
    while any(thread.is_alive() for thread in ended) and time.monotonic() < deadline:  # noqa: ASYNC110  # see above
        await anyio.sleep(END_POLL_SECONDS)
