"""The beat, in the enumeration of ``tests/core``: there, patience may end at any time.

Here it ends only when the holder is silent, and a second compile is excused only if the holder had
stalled. So a slow compile that beats is not repeated; without the beat, spin (`test_model`) and the
enumeration both find that it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ajit._core.plan import State
from tests.core.plan_check import check
from tests.core.plan_things import BAD, NONE, Move, Violation
from tests.core.plan_worlds import Exploration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.core.plan_worlds import Step, World

PATIENCE = "loses patience"


@dataclass
class HeardExploration(Exploration):
    """Every world in which patience ends by silence only.

    Attributes:
        beats: Whether a holder that compiles beats.
    """

    beats: bool = True

    def _steps(self, world: World) -> Iterator[tuple[Step, World, bool]]:
        silent = self._is_silent(world)
        for step, after, fair in super()._steps(world):
            if step.what != PATIENCE:
                yield step, after, fair
            elif silent:  # then it only needs time
                yield step, after, True

    def _after(self, world: World, index: int, move: Move) -> World:
        if move.label == PATIENCE:
            if not self._is_silent(world):
                return world  # not taken, see above
            stalled = any(process.life == "stalled" for process in self.processes(world))
            move = move._replace(excuses=stalled)
        return super()._after(world, index, move)

    def _is_silent(self, world: World) -> bool:
        (holder,) = [process for process in self.processes(world) if process.holds] or [None]
        if holder is None:
            return False
        silent_at_work = holder.plan.state is State.COMPILING and not self.beats
        return holder.life == "stalled" or silent_at_work


@pytest.mark.parametrize("disk", [NONE, BAD])
def test_slow_compile_that_beats_is_not_repeated(disk):
    """Every promise holds with silence as the only end of patience: it is enough."""
    check(HeardExploration(disk, 2))


def test_without_the_beat_a_slow_compile_is_repeated():
    """A waiter cannot tell a slow holder from one that has stopped."""
    with pytest.raises(Violation, match="compiled twice"):
        check(HeardExploration(NONE, 2, beats=False))
