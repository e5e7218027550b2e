"""Warm-up: make kernels ready before the first request.

A warm-up is a queue of items, of which a few are in progress at a time. A request that comes in
meanwhile waits for at most the compiles that are already running. An item that fails does not stop
the others: the report says what failed and why.

Over several ranks each does its share, then waits for the shares of the others, and then takes
those from the cache. What a rank that is lost should have made, the others make.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from ajit._core.events import WarmupProgress
from ajit._core.readiness import Happening
from ajit._core.short_repr import short_repr
from ajit._runtime.work import Unresolved
from ajit.errors import AjitError, CompileError, CompilerError, CompilerNotFound, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ajit._core.events import Tier
    from ajit._core.spec import Spec
    from ajit._runtime.rank_group import RankGroup
    from ajit._runtime.work import Item, Listing

__all__ = ["Warmup", "WarmupFailure", "WarmupReport"]


@dataclass(frozen=True, slots=True)
class WarmupFailure:
    """A kernel that could not be made ready, and why.

    Attributes:
        spec: What was asked for; None if it was no spec, but a key of another kind of family.
        error: Why it failed.
        name: Its label.
    """

    spec: Spec | None
    error: AjitError
    name: str = ""

    def __repr__(self) -> str:
        return short_repr(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupReport:
    """What a warm-up did.

    Attributes:
        total: Kernels asked for, repeated ones counted once.
        from_disk: Kernels that were found in the cache.
        compiled: Kernels that were compiled.
        from_memory: Kernels that were loaded already.
        failures: Kernels that failed, in the order in which they did.
        seconds: Wall time of the whole warm-up.
        share: How many of the total were this rank's part.
        unresolved: Lines of a record that lead to no kernel any more: no failures.
        skipped: Lines of a record that are for other archs.
    """

    total: int
    from_disk: int
    compiled: int
    from_memory: int
    failures: tuple[WarmupFailure, ...]
    seconds: float
    share: int = 0
    unresolved: tuple[Unresolved, ...] = ()
    skipped: int = 0

    def __repr__(self) -> str:
        return short_repr(self)


class Warmup:
    """One warm-up, in the task that awaits it.

    Args:
        listing: What is to be made ready.
        at_once: How many items are in progress at a time.
        check_usable: Raises if the runtime cannot be used any more.
        on_progress: Called in this task's loop after each item.

    Attributes:
        items: What is to be made ready, repeated ones once.
    """

    def __init__(
        self,
        listing: Listing,
        *,
        at_once: int,
        check_usable: Callable[[], None],
        on_progress: Callable[[WarmupProgress], None],
    ) -> None:
        self._begun = time.monotonic()
        self.items = list({item.what: item for item in reversed(listing.items)}.values())[::-1]
        self._at_once, self._on_progress = at_once, on_progress
        self._check_usable = check_usable
        self._tiers: list[str] = []
        self._failed: dict[Item, AjitError] = {}
        self._unresolved = tuple(listing.unresolved)
        self._passed_over: list[Unresolved] = []
        self._skipped = listing.skipped
        self._share = len(self.items)
        self._group: RankGroup | None = None

    async def run(self) -> WarmupReport:
        """Make everything ready here.

        Cancelling stops the queue; what was made ready stays ready.
        """
        await self._make(self.items)
        return self._report()

    async def run_ranked(self, group: RankGroup, share: Sequence[Item]) -> WarmupReport:
        """Make this rank's share ready, wait for those of the others, and take these.

        Args:
            group: The ranks, to be told how far this one is.
            share: Which of the items are this rank's.

        Cancelling stops the queue, and the others are told that this rank has failed.
        """
        self._group, self._share = group, len(share)
        mine = set(share)
        try:
            await self._make(share)
            group.happened(Happening.SHARE_DONE)
            await group.wait_shares()
            await self._make([item for item in self.items if item not in mine] + self._again())
        except BaseException as exc:
            group.broke(exc)
            raise
        if self._failed:
            item, error = next(iter(self._failed.items()))
            group.happened(Happening.BROKE, f"{item.name}: {_first_line(error)}")
        else:
            group.happened(Happening.HAS_ALL)
        return self._report()

    def _again(self) -> list[Item]:
        """Take out what failed for a reason that may have passed, or not concern others."""
        again = [item for item, error in self._failed.items() if isinstance(error, CompilerError)]
        for item in again:
            del self._failed[item]
        return again

    async def _make(self, items: Iterable[Item]) -> None:
        """Make items ready, some at a time.

        While one waits for another process's compile, the next one begins here. So if several
        processes warm up the same kernels, each does a part.
        """
        queue = deque(items)

        async def work() -> None:
            worker = _Worker(lambda: group.start_soon(work))
            while queue and not worker.replaced:
                with worker:
                    await self._make_one(queue.popleft(), worker.be_replaced)

        async with anyio.create_task_group() as group:
            for _ in range(min(self._at_once, len(queue))):
                group.start_soon(work)

    async def _make_one(self, item: Item, on_wait: Callable[[], None]) -> None:
        key, error = "", ""
        tier: Tier | None = None
        try:
            self._check_usable()
            ready = await item.make(on_wait)
        except AjitError as exc:
            error = str(exc)
            if item.kind and isinstance(exc, _NO_LONGER):
                self._passed_over.append(Unresolved(item.name, item.kind, error))
            else:
                self._failed[item] = exc
        else:
            key, tier = ready.key, ready.tier
            self._tiers.append(tier)
        done, total = len(self._tiers) + len(self._failed) + len(self._passed_over), len(self.items)
        if self._group is not None:
            self._group.progress(done - len(self._failed), total)
        self._on_progress(
            WarmupProgress(name=item.name, key=key, done=done, total=total, tier=tier, error=error)
        )

    def _report(self) -> WarmupReport:
        failures = [
            WarmupFailure(item.spec, error, item.name) for item, error in self._failed.items()
        ]
        return WarmupReport(
            total=len(self.items),
            from_disk=self._tiers.count("disk"),
            compiled=self._tiers.count("compiled"),
            from_memory=self._tiers.count("memory"),
            failures=tuple(failures),
            seconds=time.monotonic() - self._begun,
            share=self._share,
            unresolved=(*self._unresolved, *self._passed_over),
            skipped=self._skipped,
        )


_NO_LONGER = (SpecError, CompileError, CompilerNotFound)
"""What a line of a record says when the sources or compilers of its time are gone."""


def _first_line(error: AjitError) -> str:
    return str(error).partition("\n")[0]


class _Worker:
    """Takes items from the queue, until another worker replaces it because it waits.

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
