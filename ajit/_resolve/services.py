"""What resolutions use: cache, locks, toolchains and the compile pool. Opens and closes them.

Blocking calls run in threads under a limiter of this runtime, and never under the event loop's
default one, whose 40 threads are shared with the whole process.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio

from ajit._cache.entries.collector import Collector
from ajit._cache.entries.disk import DiskStore
from ajit._cache.entries.eviction import Limits
from ajit._cache.entries.failures import FailureStore
from ajit._cache.entries.lists import ListStore
from ajit._cache.entries.node_digests import NodeDigests
from ajit._cache.files.directory import open_configured_cache
from ajit._cache.leases.permits import CompilePermits
from ajit._cache.leases.table import LeaseTable
from ajit._compile.pool.pool import CompilePool
from ajit._compile.recorder.digests import digests
from ajit._compile.toolchains.toolchains import Toolchains
from ajit._resolve.credits import Credits
from ajit._resolve.lookup import Seeker
from ajit._system.warn import warn_only

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AsyncExitStack

    from ajit._core import events
    from ajit.settings import Settings

__all__ = ["Services", "keep_cache_small", "look_ahead", "open_services", "shielded"]

T = TypeVar("T")

IO_THREADS = 4
"""Threads for file and lock calls of one runtime. Pretty arbitrary: the calls are short."""

COLLECT_FIRST_SECONDS = 60.0
"""How long after opening a runtime first evicts; short-lived processes never do."""

COLLECT_EVERY_SECONDS = 600.0
"""How often one of the processes that share a cache looks for entries to evict."""

COLLECT_WORK_SECONDS = 2.0
"""How long it may remove files before it stops."""


@dataclass(kw_only=True)
class Services:
    """What a runtime resolves with. Belongs to the runtime's event loop."""

    settings: Settings
    store: DiskStore
    lists: ListStore
    seeker: Seeker
    failures: FailureStore
    node_digests: NodeDigests
    leases: LeaseTable
    toolchains: Toolchains
    pool: CompilePool
    credits: Credits
    emitter: events.Emitter
    _threads: anyio.CapacityLimiter = field(
        default_factory=partial(anyio.CapacityLimiter, IO_THREADS)
    )
    _watch_threads: anyio.CapacityLimiter = field(default_factory=partial(anyio.CapacityLimiter, 1))
    waits: dict[str, events.Waiting] = field(default_factory=dict)
    """Key to the holder that a resolution waits for now, as last reported."""
    _warned_unwritable: bool = False
    _warned_unseen: bool = False

    async def in_thread(
        self, function: Callable[..., T], *args: object, abandon: bool = False
    ) -> T:
        """Run a short blocking call in a thread; wait for it when cancelled, or ``abandon`` it."""
        return await anyio.to_thread.run_sync(
            function, *args, limiter=self._threads, abandon_on_cancel=abandon
        )

    async def in_watch_thread(self, function: Callable[..., T], *args: object) -> T:
        """The same, for the looks of waiters.

        They use a separate thread: the looks of a thousand waiters must not delay a publish or a
        beat, or processes would lose patience with each other.
        """
        return await anyio.to_thread.run_sync(function, *args, limiter=self._watch_threads)

    async def keep_digests(self) -> None:
        """Write what this node has learned of its files. Waits for a slow disk, but not long."""
        digests.detach(self.node_digests)
        await self.in_thread(self.node_digests.close)

    def hurry(self, key: str) -> None:
        """Promote a key in every line, because a request waits for it now."""
        self.credits.promote(key)
        self.pool.promote(key)

    def warn_unwritable(self, reason: str) -> None:
        """Warn, once per runtime, that kernels are not cached."""
        if not self._warned_unwritable:
            self._warned_unwritable = True
            warn_only(
                f"the kernel cache {self.settings.cache_dir} cannot be written: {reason}; "
                f"kernels are compiled and returned, but not kept in it"
            )

    def warn_unseen(self, reason: str) -> None:
        """Warn, once per runtime, that kernels are not cached because their reads are not seen."""
        if not self._warned_unseen:
            self._warned_unseen = True
            warn_only(
                f"{reason}; such kernels are compiled and returned, but not kept in the cache, "
                f"unless their spec has an extra_digest that changes with every file they read"
            )


async def open_services(
    stack: AsyncExitStack,
    settings: Settings,
    secret: bytes | None,
    emitter: events.Emitter,
    limiter: anyio.CapacityLimiter,
) -> Services:
    """Open cache and compile pool; the stack closes the pool, and writes the digests of this node.

    Args:
        stack: Closes what was opened.
        settings: The runtime's.
        secret: Authenticates entries.
        emitter: Takes events.
        limiter: For the thread that does this.

    Raises:
        CacheError: The cache cannot be used; nothing was started.
    """
    assemble = partial(_assemble, settings, secret, emitter)
    services = await anyio.to_thread.run_sync(assemble, limiter=limiter)
    stack.push_async_callback(shielded, services.keep_digests)
    stack.push_async_callback(shielded, services.pool.aclose)
    return services


def _assemble(settings: Settings, secret: bytes | None, emitter: events.Emitter) -> Services:
    directory = open_configured_cache(settings)
    toolchains = Toolchains(settings)
    permits = CompilePermits(
        directory, settings.node_compile_slots, patience_seconds=settings.patience_seconds
    )
    store, lists = DiskStore(directory, secret), ListStore(directory)
    failures = FailureStore(directory, settings.failure_seconds, secret)
    services = Services(
        settings=settings,
        store=store,
        lists=lists,
        seeker=Seeker(store, lists, failures),
        failures=failures,
        node_digests=NodeDigests(directory, secret),
        leases=LeaseTable(directory),
        toolchains=toolchains,
        pool=CompilePool(settings, toolchains, admission=permits),
        credits=Credits(settings.compile_slots),
        emitter=emitter,
    )
    # Last, since whatever attaches it must detach it. It tells what the process knows already.
    digests.attach(services.node_digests)
    return services


async def keep_cache_small(services: Services) -> None:
    """Evict entries above the cache's limits, at intervals, until cancelled."""
    settings = services.settings
    limits = Limits(
        max_bytes=settings.cache_limit_bytes,
        max_age_seconds=settings.cache_max_age_seconds,
        failure_seconds=settings.failure_seconds,
    )
    collector = Collector(services.store.directory, limits)
    collect = partial(
        collector.collect,
        every_seconds=COLLECT_EVERY_SECONDS,
        work_seconds=COLLECT_WORK_SECONDS,
    )
    await anyio.sleep(COLLECT_FIRST_SECONDS)
    while True:
        # A cache that cannot be listed or written is reported elsewhere.
        with suppress(OSError):
            await services.in_thread(collect)
        await anyio.sleep(COLLECT_EVERY_SECONDS)


async def look_ahead(services: Services) -> None:
    """Look for NVRTC before the first kernel is asked for: no key is made without it.

    The other compilers are not looked for: finding one means running it.
    """
    # The first request looks for it again, and gets the error.
    with suppress(Exception):
        await services.in_thread(services.toolchains.find, "nvrtc")


async def shielded(close: Callable[[], Awaitable[None]]) -> None:
    """Close something completely, also while the caller is being cancelled."""
    with anyio.CancelScope(shield=True):
        await close()
