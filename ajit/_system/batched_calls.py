"""Batched calls: short blocking calls that tasks make at the same time share one hop to a thread.

A server that starts asks for hundreds of kernels in one turn of its loop. Each call takes 70 µs in
a thread, and the hop there and back takes twice that. So one thread makes the calls of one turn, up
to `BATCH_CALLS` of them, one after the other. More threads would not help: the calls are short
stretches between two system calls, and two threads that take turns with the GIL need twice the time
of one (measured: one thread reads 200 entries in 4 ms, two threads in 9 ms).

Belongs to one event loop. The batch is a shared task of the runtime, so no caller's cancellation
reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._system.shared_tasks import SharedTasks

__all__ = ["BATCH_CALLS", "BatchedCalls", "Moment"]

T = TypeVar("T")

Moment: TypeAlias = dict[object, object]
"""What the calls of a batch have found out, by anything that tells it apart."""

BATCH_CALLS = 16
"""Calls of one batch. Pretty arbitrary: it saves most of the hops, and a slow call, such as one
that reads headers from a network disk, delays at most 15 others."""


class InThread(Protocol):
    """Runs a function in a thread; not abandoned on cancellation."""

    async def __call__(self, function: Callable[..., T], *args: object) -> T:
        """Return what the function returns."""


@dataclass(slots=True, eq=False)
class _Batch:
    """Calls that share a hop.

    Attributes:
        calls: What to call.
        outcomes: The value of each, or its error.
    """

    calls: list[Callable[[Moment], object]] = field(default_factory=list)
    outcomes: list[tuple[object, Exception | None]] = field(default_factory=list)

    def run(self) -> None:
        """Make the calls. In the thread."""
        moment: Moment = {}
        for call in self.calls:
            try:
                self.outcomes.append((call(moment), None))
            except Exception as exc:  # noqa: BLE001  # its caller raises it
                self.outcomes.append((None, exc))


class BatchedCalls:
    """The batched calls of one runtime.

    Args:
        tasks: Where batches run.
        in_thread: Makes the hop.
    """

    def __init__(self, tasks: SharedTasks, in_thread: InThread) -> None:
        self._tasks = tasks
        self._in_thread = in_thread
        self._open: _Batch | None = None

    async def call(self, function: Callable[[Moment], T]) -> T:
        """Run a short blocking function in a thread, together with others.

        Args:
            function: Called with what the calls of this batch share. All of them were asked for
                before the first one began, so what one finds out holds for the others.

        Raises:
            RuntimeClosed: The runtime was closed meanwhile.
            Exception: What the function raised, or why there is no thread.

        Cancelling only ends this wait: the function still runs.
        """
        batch = self._open
        if batch is None or len(batch.calls) == BATCH_CALLS:
            batch = self._open = _Batch()
        index = len(batch.calls)
        batch.calls.append(function)
        await self._tasks.join(batch, lambda: self._run(batch), kept=True)
        value, error = batch.outcomes[index]
        if error is not None:
            raise error
        return cast("T", value)

    async def _run(self, batch: _Batch) -> None:
        # In a task that starts in the loop's next turn: all calls of this turn are in the batch.
        if self._open is batch:
            self._open = None
        await self._in_thread(batch.run)
