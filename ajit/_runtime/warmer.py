"""The warm-ups of one runtime: what they are to make ready, and with which ranks.

Belongs to the runtime's event loop.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from ajit._runtime.rank_group import RankGroup
from ajit._runtime.ranks import Ranks
from ajit._runtime.warmup import Warmup
from ajit._runtime.work import Listing, Work, item_of_spec
from ajit._system.guarded_calls import NoAnswer
from ajit._system.warn import warn_only
from ajit.errors import RuntimeClosed, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ajit._core.events import WarmupProgress
    from ajit._core.spec import Spec
    from ajit._runtime.kernels import Kernels
    from ajit._runtime.warmup import WarmupReport
    from ajit._runtime.work import Item

__all__ = ["Warmer"]


class Warmer:
    """Warms up for one runtime.

    Args:
        kernels: The runtime's.
        check_usable: Raises if the runtime cannot be used any more.
    """

    def __init__(self, kernels: Kernels, check_usable: Callable[[], None]) -> None:
        self._kernels = kernels
        self._check_usable = check_usable
        self._groups: list[RankGroup] = []

    async def warm_up(
        self,
        works: Sequence[Spec | Work],
        on_progress: Callable[[WarmupProgress], None] | None,
        group: RankGroup | None = None,
    ) -> WarmupReport:
        """Make everything ready, as `Runtime.warmup` does.

        Args:
            works: What.
            on_progress: Told of each kernel.
            group: The ranks, joined before; None joins those that the works name, if any.
        """
        if group is None and (ranks := ranks_of(works)).ranks > 1:
            group = self.join(works, ranks)
        try:
            listing = await self._listing(works)
            warmup = Warmup(
                listing,
                at_once=max(1, self._kernels.services.settings.compile_slots),
                check_usable=self._check_usable,
                on_progress=partial(self._progress, on_progress),
            )
            share = None if group is None else await self._share(warmup.items, group.ranks)
        except BaseException as exc:
            if group is not None:
                group.broke(exc)
            raise
        if group is None or share is None:
            return await warmup.run()
        return await warmup.run_ranked(group, share)

    def join(self, works: Sequence[Spec | Work], ranks: Ranks) -> RankGroup:
        """Join the ranks that the works name, and beat from now on.

        Raises:
            LimitReached: No thread can be started.
        """
        scope = "\0".join(sorted(work.scope for work in works if isinstance(work, Work)))
        group = RankGroup(self._kernels.services, ranks, scope)
        group.start()
        self._groups.append(group)
        return group

    def begin(
        self, work: Callable[[], Awaitable[None]], on_error: Callable[[Exception], None]
    ) -> None:
        """Start work that goes on in the runtime, until it is done or the runtime is closed."""

        async def do() -> None:
            try:
                await work()
            except Exception as exc:  # noqa: BLE001  # who waits for it is told
                on_error(exc)
            except BaseException:
                on_error(RuntimeClosed("the runtime was closed during its warm-up"))
                raise

        self._kernels.begin(("warm-up", object()), do)

    async def aclose(self) -> None:
        """Let the ranks know, and end their threads."""
        services = self._kernels.services
        for group in self._groups:
            group.begin_closing()
        for group in self._groups:
            with suppress(NoAnswer):
                await services.in_thread(group.join, seconds=services.seconds_left())
        self._groups.clear()

    async def _listing(self, works: Sequence[Spec | Work]) -> Listing:
        """What all works come to."""
        listings = [
            await work.listing(self._kernels)
            if isinstance(work, Work)
            else Listing([item_of_spec(work, self._kernels)])
            for work in works
        ]
        return Listing(
            [item for listing in listings for item in listing.items],
            [line for listing in listings for line in listing.unresolved],
            sum(listing.skipped for listing in listings),
        )

    async def _share(self, items: Sequence[Item], ranks: Ranks) -> list[Item]:
        """This rank's part: the same cut in every process that has the same items."""

        def cut() -> set[Item]:
            ordered = sorted(items, key=lambda item: item.digest())
            return set(ordered[ranks.rank :: ranks.ranks])

        mine = await self._kernels.services.in_thread(cut)
        return [item for item in items if item in mine]

    def _progress(
        self, on_progress: Callable[[WarmupProgress], None] | None, event: WarmupProgress
    ) -> None:
        if on_progress is not None:
            try:
                on_progress(event)
            except Exception as exc:  # noqa: BLE001  # as for a subscriber
                warn_only(f"{on_progress!r} raised {type(exc).__name__}: {exc}", stacklevel=2)
        self._kernels.services.emitter.emit(event)


def ranks_of(works: Sequence[Spec | Work]) -> Ranks:
    """Return the ranks that works name.

    Raises:
        UsageError: They name different ones.
    """
    named = {work.ranks for work in works if isinstance(work, Work)}
    if len(named) > 1:
        raise UsageError(f"one warm-up has one set of ranks, and these are several: {named}")
    return named.pop() if named else Ranks()
