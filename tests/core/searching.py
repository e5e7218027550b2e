"""The search over all worlds that a model can get into, breadth first.

A model says which worlds there are at first, which steps lead from one to the next, and which of
them are fair: what happens in the end if nothing else does.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

__all__ = ["search", "story_of", "that_cannot_reach"]

W = TypeVar("W", bound="Hashable")


def search(
    first: Iterable[W],
    steps: Callable[[W], Iterable[tuple[str, W, bool]]],
    check: Callable[[W], None],
    origins: dict[W, tuple[W, str] | None],
    before: dict[W, list[W]],
) -> None:
    """Visit and check every world.

    Args:
        first: Where it begins.
        steps: From a world: what happens, the world after it, and whether that is fair.
        check: Raises if a world breaks a promise.
        origins: Is filled: world to the one before it and what happened, on a shortest way.
        before: Is filled: world to those from which a fair step leads to it.
    """
    origins.update(dict.fromkeys(first))
    queue = deque(origins)
    while queue:
        world = queue.popleft()
        check(world)
        for label, after, fair in steps(world):
            if after not in origins:
                origins[after] = (world, label)
                queue.append(after)
            if fair:
                before.setdefault(after, []).append(world)


def that_cannot_reach(
    ends: Callable[[W], bool],
    origins: dict[W, tuple[W, str] | None],
    before: dict[W, list[W]],
) -> W | None:
    """Return a world from which no fair steps lead to an end, if there is one."""
    reached = [world for world in origins if ends(world)]
    fine = set(reached)
    while reached:
        for earlier in before.get(reached.pop(), ()):
            if earlier not in fine:
                fine.add(earlier)
                reached.append(earlier)
    return next((world for world in origins if world not in fine), None)


def story_of(origins: dict[W, tuple[W, str] | None], world: W) -> str:
    """How a world came about, a line for each step."""
    lines = []
    while origin := origins[world]:
        world, label = origin
        lines.append(f"  {label}")
    return "\n".join(reversed(lines))
