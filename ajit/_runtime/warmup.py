"""Warm-up: make kernels ready before the first request.

A warm-up is a queue of specs, of which a few are in progress at a time. A request that comes in
meanwhile waits for at most the compiles that are already running. A spec that fails does not stop
the others: the report says what failed and why.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from ajit._core.events import WarmupProgress
from ajit._core.short_repr import short_repr
from ajit.errors import AjitError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ajit._core.events import Tier
    from ajit._core.spec import Spec

__all__ = ["Ready", "WarmupFailure", "WarmupReport", "run_warmup"]


@dataclass(frozen=True, slots=True)
class Ready:
    """A spec that is ready: its key, and the tier that it came from."""

    key: str
    tier: Tier


@dataclass(frozen=True, slots=True)
class WarmupFailure:
    """A spec that could not be made ready, and why."""

    spec: Spec
    error: AjitError

    def __repr__(self) -> str:
        return short_repr(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupReport:
    """What a warm-up did.

    Attributes:
        total: Specs asked for, repeated ones counted once.
        from_disk: Specs that were found in the cache.
        compiled: Specs that were compiled.
        from_memory: Specs that were loaded already.
        failures: Specs that failed, in the order in which they did.
        seconds: Wall time of the whole warm-up.
    """

    total: int
    from_disk: int
    compiled: int
    from_memory: int
    failures: tuple[WarmupFailure, ...]
    seconds: float

    def __repr__(self) -> str:
        return short_repr(self)


async def run_warmup(
    specs: Iterable[Spec],
    prepare: Callable[[Spec, Callable[[], None]], Awaitable[Ready]],
    *,
    at_once: int,
    on_progress: Callable[[WarmupProgress], None],
) -> WarmupReport:
    """Make specs ready, ``at_once`` at a time.

    While a spec waits for another process's compile, the next one begins here. So if several
    processes warm up the same specs, each does a part.

    Args:
        specs: What to make ready; repeated specs are done once.
        prepare: Makes one spec ready; calls the function that it is given when it begins to wait
            for another compile.
        at_once: How many are in progress at a time.
        on_progress: Called in this task's loop after each spec.

    Cancelling stops the queue; what was made ready stays ready.
    """
    begun = time.monotonic()
    queue = deque(dict.fromkeys(specs))
    total = len(queue)
    tiers: list[str] = []
    failures: list[WarmupFailure] = []

    async def do(spec: Spec, on_wait: Callable[[], None]) -> None:
        key, error = "", ""
        tier: Tier | None = None
        try:
            ready = await prepare(spec, on_wait)
        except AjitError as exc:
            failures.append(WarmupFailure(spec, exc))
            error = str(exc)
        else:
            key, tier = ready.key, ready.tier
            tiers.append(tier)
        done = len(tiers) + len(failures)
        on_progress(
            WarmupProgress(name=spec.name, key=key, done=done, total=total, tier=tier, error=error)
        )

    async def work() -> None:
        worker = _Worker(lambda: group.start_soon(work))
        while queue and not worker.replaced:
            with worker:
                await do(queue.popleft(), worker.be_replaced)

    async with anyio.create_task_group() as group:
        for _ in range(min(at_once, total)):
            group.start_soon(work)
    return WarmupReport(
        total=total,
        from_disk=tiers.count("disk"),
        compiled=tiers.count("compiled"),
        from_memory=tiers.count("memory"),
        failures=tuple(failures),
        seconds=time.monotonic() - begun,
    )


class _Worker:
    """Takes specs from the queue, until another worker replaces it because it waits.

    Args:
        replace: Starts another one.
    """

    def __init__(self, replace: Callable[[], object]) -> None:
        self.replaced = False
        self._replace = replace
        self._at_work = False

    def be_replaced(self) -> None:
        # Called by the resolution, which may go on when this worker was cancelled.
        if self._at_work and not self.replaced:
            self.replaced = True
            self._replace()

    def __enter__(self) -> None:
        self._at_work = True

    def __exit__(self, *_: object) -> None:
        self._at_work = False
