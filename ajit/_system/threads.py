"""Daemon threads for calls that another process may block for any time.

Not the event loop's own helper threads: there are 40 of those, and 40 of them blocked in locks
would starve every other thread hop of the process. Not `concurrent.futures` either: the
interpreter joins its threads at exit, so a blocked one would keep the process alive.

There is no limit on running threads: with one, a blocked lock could delay another. There is a limit
on idle threads, which one or two that become idle at the same time may exceed.

No lock in here, only single operations of a list, which are atomic: a call may come from the
garbage collector, in the middle of another call of the same thread.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DaemonThreads"]

IDLE_LIMIT = 4
"""Threads kept for the next call. Pretty arbitrary: starting one costs about 60 µs."""

IDLE_SECONDS = 10.0
"""How long one is kept. Pretty arbitrary, too: long enough for the next kernel of a warm-up."""

Job = tuple["Callable[..., object]", tuple[Any, ...]]


class DaemonThreads:
    """A cache of daemon threads. Any thread may use it; a forked child begins without threads.

    Args:
        name: What the threads are called, before a number.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def run(self, function: Callable[..., object], *args: Any) -> None:
        """Start ``function(*args)`` in a thread, and return.

        An exception of the function goes to `threading.excepthook`.

        Raises:
            RuntimeError: No thread can be started. The function is not called.
        """
        with suppress(IndexError):
            self._idle.pop().put((function, args))
            return
        mailbox: queue.SimpleQueue[Job] = queue.SimpleQueue()
        mailbox.put((function, args))
        name = f"{self._name}-{next(self._numbers)}"
        threading.Thread(target=self._work, args=(mailbox,), name=name, daemon=True).start()

    def idle(self) -> int:
        """How many threads wait for a call."""
        return len(self._idle)

    def _forget(self) -> None:
        self._idle: list[queue.SimpleQueue[Job]] = []
        self._numbers = itertools.count(1)

    def _work(self, mailbox: queue.SimpleQueue[Job]) -> None:
        function, args = mailbox.get()
        while True:
            function(*args)
            del function, args  # an idle thread keeps nothing of its last call alive
            if len(self._idle) >= IDLE_LIMIT:
                return
            self._idle.append(mailbox)
            try:
                function, args = mailbox.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with suppress(ValueError):
                    self._idle.remove(mailbox)
                    return
                # It was taken from the list just now, so a call is on its way.
                function, args = mailbox.get()
