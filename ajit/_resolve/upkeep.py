"""The upkeep of a runtime's cache: evicts at intervals, and tells what failed in the background."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from ajit._cache.entries.collector import Collector
from ajit._cache.entries.eviction import Limits
from ajit._core import events
from ajit._system.guarded_calls import NoAnswer

if TYPE_CHECKING:
    from ajit._cache.entries.collector import Collected
    from ajit._resolve.services import Services

__all__ = ["Upkeep"]

COLLECT_FIRST_SECONDS = 60.0
"""How long after opening a runtime first evicts; short-lived processes never do."""

COLLECT_EVERY_SECONDS = 600.0
"""How often one of the processes that share a cache looks for entries to evict."""

COLLECT_WORK_SECONDS = 2.0
"""How long it may remove files before it stops."""

COLLECT_ANSWER_SECONDS = 120.0
"""How long it may take in all: it looks at every file of the cache."""


class Upkeep:
    """Keeps a cache small. Belongs to the runtime's event loop.

    Args:
        services: The runtime's.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._told: set[str] = set()
        settings = services.settings
        limits = Limits(
            max_bytes=settings.cache_limit_bytes,
            max_age_seconds=settings.cache_max_age_seconds,
            failure_seconds=settings.failure_seconds,
        )
        collector = Collector(services.store.directory, limits, services.trust)
        self._collect = partial(
            collector.collect,
            every_seconds=COLLECT_EVERY_SECONDS,
            work_seconds=COLLECT_WORK_SECONDS,
        )

    async def run(self) -> None:
        """Evict entries above the cache's limits, at intervals, until cancelled."""
        await anyio.sleep(COLLECT_FIRST_SECONDS)
        while True:
            await self.collect()
            await anyio.sleep(COLLECT_EVERY_SECONDS)

    async def collect(self) -> None:
        """Evict once, unless another process has done it just now, and tell of it."""
        directory = self._services.store.directory
        try:
            # A cache that does not answer is reported elsewhere.
            with suppress(NoAnswer):
                self._note(
                    await self._services.on_cache(self._collect, seconds=COLLECT_ANSWER_SECONDS)
                )
        except OSError as exc:
            directory.troubles.note("evict", exc)
        for trouble in directory.troubles.take():
            self._services.tally.background_errors += trouble.count
            if trouble.doing not in self._told:  # the first of each kind
                self._told.add(trouble.doing)
                self._emit(events.BackgroundFailed, doing=trouble.doing, reason=trouble.reason)

    def _note(self, collected: Collected | None) -> None:
        if collected is None:
            return  # another process does it
        tally = self._services.tally
        tally.evicted_entries += collected.entries
        tally.evicted_bytes += collected.bytes
        tally.cache_entries, tally.cache_bytes = collected.kept_entries, collected.kept_bytes
        if collected.entries or collected.debris:
            self._emit(
                events.EntriesEvicted,
                entries=collected.entries,
                others=collected.debris,
                size_bytes=collected.bytes,
                kept_entries=collected.kept_entries,
                kept_bytes=collected.kept_bytes,
                limit_bytes=self._services.settings.cache_limit_bytes,
            )

    def _emit(self, event: type[events.Event], **facts: Any) -> None:
        if self._services.emitter.listening:
            self._services.emitter.emit(event(name="", key="", **facts))
