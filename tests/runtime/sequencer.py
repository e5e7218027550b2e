"""Something done at the n-th await of the runtime's own work, for every n.

A task only ever loses control where it suspends, so these are all the places at which it can be
cancelled or closed under. Instead of patching each seam (threads, pool, lease, device), the
runtime's coroutines are driven by hand: every suspension of any of them passes through here, is
counted and named, and at the chosen one the test's action runs, in the loop's thread, before the
suspension takes effect. A new await in ajit is thereby covered without a new line here.
"""

from __future__ import annotations

import itertools
import types
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ajit._resolve.waiting import LeaseWaiter
from ajit._system.shared_tasks import SharedTasks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterator

    import pytest

__all__ = ["Sequencer", "every_await"]

INNER_TASKS = (
    (SharedTasks, "_run"),
    (LeaseWaiter, "_win"),
    (LeaseWaiter, "_watch"),
)
"""Coroutines that run as separate tasks: an await in one is not an await of another."""


@dataclass
class Sequencer:
    """Counts suspensions and acts at one of them.

    Attributes:
        at: Which suspension to act at, counted from 1; 0 for none.
        points: Where each suspension so far was: ``file:function > file:function``.
        act: What to do there.
    """

    at: int = 0
    points: list[str] = field(default_factory=list)
    act: Callable[[], object] = lambda: None

    @property
    def acted(self) -> bool:
        """Whether the chosen suspension was reached."""
        return 0 < self.at <= len(self.points)

    def passed(self, function: str) -> bool:
        """Whether some suspension was inside a function, given as ``file:function``."""
        return any(function in point.split(" > ") for point in self.points)

    @types.coroutine
    def watch(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Run a coroutine to its end, counting each suspension."""
        step, argument = coroutine.send, None
        while True:
            try:
                yielded = step(argument)
            except StopIteration as stop:
                return stop.value
            self._suspending(coroutine)
            try:
                argument = yield yielded
                step = coroutine.send
            except BaseException as exc:  # noqa: BLE001  # passed on, cancellation included
                step, argument = coroutine.throw, exc

    def _suspending(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.points.append(_place(coroutine))
        if len(self.points) == self.at:
            self.act()


def every_await(monkeypatch: pytest.MonkeyPatch, must_see: set[str]) -> Iterator[Sequencer]:
    """Yield a sequencer for each await, until runs had no more of them; then check the places.

    A run may have an await less than another (a ticket that is done already is not waited for),
    so it takes two runs that come to their end.
    """
    seen = Sequencer()
    ended = 0
    for at in itertools.count(1):
        sequencer = Sequencer(at)
        with monkeypatch.context() as patch:
            _watch_runtime(patch, sequencer)
            yield sequencer
        seen.points += sequencer.points
        ended += not sequencer.acted
        if ended == 2:
            assert [place for place in must_see if not seen.passed(place)] == []
            return


def _watch_runtime(monkeypatch: pytest.MonkeyPatch, sequencer: Sequencer) -> None:
    """Let every task that runtimes start be watched by a sequencer."""
    for owner, name in INNER_TASKS:
        monkeypatch.setattr(owner, name, _watched(getattr(owner, name), sequencer))


def _watched(original: Callable[..., Any], sequencer: Sequencer) -> Callable[..., Any]:
    async def watched(*args: Any, **options: Any) -> Any:
        return await sequencer.watch(original(*args, **options))

    return watched


def _place(coroutine: Any) -> str:
    """Name the functions of ajit that are waiting for each other, outermost first."""
    places = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None and "ajit" in PurePath(frame.f_code.co_filename).parts:
            file = PurePath(frame.f_code.co_filename).stem
            places.append(f"{file}:{frame.f_code.co_name}")
        coroutine = getattr(coroutine, "cr_await", None)
    return " > ".join(places)
