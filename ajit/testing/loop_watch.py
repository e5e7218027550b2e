"""A watch over an event loop: where it was blocked, and for how long.

A thread asks the loop to answer, again and again, as its heartbeat. If the answer does not come
within a limit, the thread notes the stack of the loop's thread. Each slice of waiting counts for
its own length at most: time in which the whole process was stopped, or its machine too busy to run
even this thread, is not time in which the loop was blocked. So C code that keeps the GIL for long
is not seen; what runs Python, or waits without the GIL, is.
"""

from __future__ import annotations

import sys
import threading
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._system.loop import LoopHandle

if TYPE_CHECKING:
    from typing import Self

__all__ = ["LIMIT_SECONDS", "Block", "LoopWatch", "watch_loop"]

LIMIT_SECONDS = 0.25
"""A request that comes meanwhile waits that long, which a person notices. Pretty arbitrary."""

SLICES = 10
LEAST_SLICE_SECONDS = 0.001
MOST_FRAMES = 15


@dataclass
class Block:
    """A time in which an event loop did not answer.

    Attributes:
        seconds: How long; at least the limit.
        stack: Where the loop's thread was when the limit was reached, the innermost frame last.
    """

    seconds: float
    stack: str

    def __str__(self) -> str:
        return f"the event loop was blocked for {self.seconds:.2f} s, here:\n{self.stack}"


class LoopWatch:
    """Watches the event loop of the task that enters it. Get it from `watch_loop`.

    Attributes:
        limit_seconds: What is longer than that is noted.
        blocks: What was noted so far, in order.
    """

    def __init__(self, limit_seconds: float) -> None:
        if not limit_seconds > 0:
            raise ValueError(f"the limit must be above 0 s, got {limit_seconds!r}")
        self.limit_seconds = limit_seconds
        self.blocks: list[Block] = []
        self._slice = max(limit_seconds / SLICES, LEAST_SLICE_SECONDS)
        self._loop: LoopHandle | None = None
        self._signal = threading.Event()
        self._answered = self._ended = False

    def __enter__(self) -> Self:
        self._loop = LoopHandle.current()
        thread = threading.Thread(
            target=self._watch, args=(self._loop,), name="ajit-loop-watch", daemon=True
        )
        thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # The thread is not waited for: the loop must not be blocked by its watch.
        self._ended = True
        self._signal.set()

    def _answer(self) -> None:
        """In the loop."""
        self._answered = True
        self._signal.set()

    def _watch(self, loop: LoopHandle) -> None:
        while not self._ended:
            self._answered = False
            if not loop.call_soon(self._answer):
                return  # the loop has ended
            self._await_answer(loop.thread_id)
            self._signal.wait(self._slice)  # for the end: the loop has answered
            self._signal.clear()

    def _await_answer(self, thread_id: int) -> None:
        waited, block = 0.0, None
        while not self._answered and not self._ended:
            if self._signal.wait(self._slice):
                self._signal.clear()
                continue
            waited += self._slice
            if block is not None:
                block.seconds = waited
            elif waited >= self.limit_seconds:
                block = Block(waited, _stack_of(thread_id))
                self.blocks.append(block)
        self._signal.clear()


def watch_loop(limit_seconds: float = LIMIT_SECONDS) -> LoopWatch:
    """Watch the event loop of the caller, in a ``with`` block.

    Args:
        limit_seconds: How long the loop may take to answer.

    Raises:
        ValueError: The limit is not above 0.
    """
    return LoopWatch(limit_seconds)


def _stack_of(thread_id: int) -> str:
    frame = sys._current_frames().get(thread_id)  # noqa: SLF001  # there is no public one
    if frame is None:
        return "(its thread has ended)"
    return "".join(traceback.format_stack(frame)[-MOST_FRAMES:])
