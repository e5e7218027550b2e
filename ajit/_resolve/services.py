"""What resolutions use: cache, locks, toolchains and the compile pool. Opens and closes them.

Blocking calls run in daemon threads that can be left to themselves, and never in the event loop's
own, of which 40 are shared with the whole process. Each call on the cache has a deadline, the
patience, and counts as "there is nothing" past it (`ajit._system.guarded_calls`). A runtime that is
being closed waits for the cache for `CLOSE_SECONDS` at most, whatever it does.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from ajit._cache.entries.disk import DiskStore
from ajit._cache.entries.failures import FailureStore
from ajit._cache.entries.lists import ListStore
from ajit._cache.entries.node_digests import NodeDigests
from ajit._cache.entries.views import Views
from ajit._cache.files.directory import (
    open_configured_cache,
    silent_cache,
)
from ajit._cache.leases.permits import CompilePermits
from ajit._cache.leases.table import LeaseTable
from ajit._compile.pool.pool import CompilePool
from ajit._compile.recorder.digests import digests
from ajit._compile.toolchains.toolchains import Toolchains
from ajit._core import events
from ajit._resolve.budget import LEAST_SECONDS
from ajit._resolve.credits import Credits
from ajit._resolve.late import Freeze
from ajit._resolve.layers import Layer, Layers, open_layers
from ajit._resolve.lookup import Seeker
from ajit._resolve.tally import Tally
from ajit._system.guarded_calls import LINGER_SECONDS, GuardedCalls, NoAnswer, guarded_calls
from ajit._system.in_thread import run_in_thread
from ajit._system.uncancelled import uncancelled
from ajit._system.warn import warn_only

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AsyncExitStack

    from ajit._cache.entries.bundles import BundleStore
    from ajit._core.seal import Trust
    from ajit._resolve.budget import Budget
    from ajit._resolve.request import Request
    from ajit._system.guarded_calls import LaneName
    from ajit.settings import Settings

__all__ = ["Services", "look_ahead", "open_services", "shielded"]

T = TypeVar("T")

CLOSE_SECONDS = 1.5
"""How long closing waits for the cache, and for compilers that are killed, all in all; each step
that begins later gets `LEAST_SECONDS` even then."""


@dataclass(kw_only=True)
class Services:
    """What a runtime resolves with. Belongs to the runtime's event loop."""

    settings: Settings
    store: DiskStore
    lists: ListStore
    seeker: Seeker
    bundle_seeker: Seeker
    views: Views
    failures: FailureStore
    node_digests: NodeDigests
    leases: LeaseTable
    toolchains: Toolchains
    pool: CompilePool
    credits: Credits
    emitter: events.Emitter
    guard: GuardedCalls
    permits: CompilePermits
    trust: Trust
    freeze: Freeze
    layers: Layers
    tally: Tally = field(default_factory=Tally)
    waits: dict[str, events.Waiting] = field(default_factory=dict)
    """Key to the holder that a resolution waits for now, as last reported."""
    making: dict[object, events.MakingKey] = field(default_factory=dict)
    """Requests whose keys have been in the making for a while, as last reported."""
    _told: set[str] = field(default_factory=set)
    _warned_unwritable: bool = False
    _warned_unseen: bool = False
    _close_by: float = float("inf")
    _silent_since: float | None = None
    _silent_layers: dict[str, float] = field(default_factory=dict)
    _under_way: set[anyio.CancelScope] = field(default_factory=set)

    def seeker_for(self, request: Request) -> Seeker:
        """What looks for the answer of a request."""
        return self.bundle_seeker if request.for_bundle else self.seeker

    def store_for(self, request: Request) -> DiskStore | BundleStore:
        """What reads and publishes the answer of a request."""
        return self.store.bundles if request.for_bundle else self.store

    async def on_cache(
        self,
        function: Callable[..., T],
        *args: object,
        late: Callable[[T], object] | None = None,
        lane: LaneName = "io",
        seconds: float | None = None,
        budget: Budget | None = None,
    ) -> T:
        """Make a short call on the cache, in a thread.

        Args:
            function: What is called.
            *args: Its arguments.
            late: Takes a result that comes after the deadline, or after this was cancelled.
            lane: ``watch`` for the looks of waiters.
            seconds: The deadline; None is what the budget has, or the patience.
            budget: That of the request; a call that is not answered takes from it.

        Raises:
            NoAnswer: It was not answered in time, or not made because the cache does not answer.

        Cancelling waits for the thread, for a few seconds at most.
        """
        if seconds is None:
            seconds = budget.seconds if budget else self.settings.patience_seconds
        seconds = min(seconds, self.seconds_left())
        begun = time.monotonic()
        try:
            with self._until_closed():
                value = await self.guard.call(
                    partial(function, *args),
                    seconds=seconds,
                    late=late,
                    lane=lane,
                    linger=self._linger_seconds,
                )
        except NoAnswer:
            if budget is not None:
                budget.take(min(seconds, time.monotonic() - begun))
            self.tell_silence()
            raise
        if self._silent_since is not None:
            self.tell_silence()
        return value

    async def in_thread(
        self,
        function: Callable[..., T],
        *args: object,
        seconds: float = float("inf"),
        lane: LaneName = "local",
    ) -> T:
        """Make a blocking call in a thread, whether the cache answers or not.

        Raises:
            NoAnswer: It takes longer than ``seconds``.

        Cancelling waits for the thread, for a few seconds at most.
        """
        with self._until_closed():
            return await self.guard.call(
                partial(function, *args),
                seconds=min(seconds, self.seconds_left()),
                lane=lane,
                linger=self._linger_seconds,
            )

    @contextmanager
    def _until_closed(self) -> Iterator[None]:
        """Leave a call behind when closing has no time left for it, even if it is shielded.

        Raises:
            NoAnswer: It was left behind.
        """
        with anyio.CancelScope() as scope:
            self._under_way.add(scope)
            try:
                yield
            finally:
                self._under_way.discard(scope)
        if scope.cancelled_caught:
            raise NoAnswer("the runtime is being closed")

    def _linger_seconds(self) -> float:
        return min(LINGER_SECONDS, max(0.0, self._close_by - time.monotonic()))

    def begin_closing(self) -> None:
        """From now on all calls together wait for `CLOSE_SECONDS` at most.

        Compilers that are asked for their version end now: their threads are waited for no more.
        """
        now = time.monotonic()
        self._close_by = min(self._close_by, now + CLOSE_SECONDS)
        for scope in self._under_way:  # those that begin later have a deadline
            scope.deadline = min(scope.deadline, anyio.current_time() + self._close_by - now)
        self.permits.close()
        self.toolchains.close()

    def seconds_left(self) -> float:
        """How long a step may take: without end, unless the runtime is being closed."""
        return max(LEAST_SECONDS, self._close_by - time.monotonic())

    async def close_pool(self) -> None:
        """End the compilers."""
        await self.pool.aclose(self.seconds_left())

    async def keep_digests(self) -> None:
        """Write what this node has learned of its files. Waits for a slow disk, but not long."""
        digests.detach(self.node_digests)
        left = LEAST_SECONDS if self.guard.is_open else min(self.seconds_left(), CLOSE_SECONDS)
        with suppress(NoAnswer):
            await self.in_thread(self.node_digests.close, left, seconds=left + LEAST_SECONDS)

    def tell_silence(self) -> None:
        """Emit an event and warn if the cache does not answer; emit another when it does again."""
        reason, now = self.guard.reason, time.monotonic()
        if reason and self._silent_since is None:
            self._silent_since = now
            self._emit(events.CacheUnresponsive, reason=reason)
            warn_only(
                f"the kernel cache {self.settings.cache_dir} does not answer; until it does, "
                f"kernels are compiled and returned, but not looked for nor kept in it"
            )
        elif not reason and self._silent_since is not None:
            since, self._silent_since = self._silent_since, None
            self._emit(events.CacheResponsive, seconds=now - since)
        for layer in self.layers:
            self._tell_silence_of(layer, now)

    def _tell_silence_of(self, layer: Layer, now: float) -> None:
        """The same for a layer."""
        reason, path = layer.guard.reason, layer.directory.path
        if reason and path not in self._silent_layers:
            self._silent_layers[path] = now
            self._emit(events.CacheUnresponsive, reason=reason)
            warn_only(f"the cache layer {path} does not answer; it is not used until it does")
        elif not reason and path in self._silent_layers:
            self._emit(events.CacheResponsive, seconds=now - self._silent_layers.pop(path))

    def _emit(self, event: type[events.Event], **facts: Any) -> None:
        if self.emitter.listening:
            self.emitter.emit(event(name="", key="", **facts))

    def tell_background(self, doing: str, reason: str) -> None:
        """Count what failed where no request gets the error, and tell the first of its kind."""
        self.tally.background_errors += 1
        if doing not in self._told:
            self._told.add(doing)
            self._emit(events.BackgroundFailed, doing=doing, reason=reason)

    def hurry(self, key: str) -> None:
        """Promote a key in every line, because a request waits for it now."""
        self.credits.promote(key)
        self.pool.promote(key)

    def warn_unwritable(self, reason: str) -> None:
        """Warn, once per runtime, that kernels are not cached."""
        if not self._warned_unwritable and self._silent_since is None:
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
    trust: Trust,
    emitter: events.Emitter,
    limiter: anyio.CapacityLimiter,
) -> Services:
    """Open cache and compile pool; the stack closes the pool, and writes the digests of this node.

    Args:
        stack: Closes what was opened.
        settings: The runtime's.
        trust: Which seals are asked for, and what is sealed with.
        emitter: Takes events.
        limiter: For the thread that does this.

    Raises:
        CacheError: The cache cannot be used; nothing was started.
        SettingsError: There is no such sandbox on this machine; nothing was started.
    """
    store = await _open_store(settings, trust)
    layers = await open_layers(settings, trust)
    # The modules of NVRTC and the permits read a few files of the system.
    freeze = Freeze("error" if settings.mode == "frozen" else None, emitter)
    assemble = partial(_assemble, settings, trust, emitter, store, layers, freeze)
    services = await run_in_thread(assemble, limiter=limiter)
    services.tell_silence()
    stack.push_async_callback(shielded, services.keep_digests)
    stack.push_async_callback(shielded, services.close_pool)
    stack.callback(services.begin_closing)
    stack.callback(freeze.close)
    return services


async def _open_store(settings: Settings, trust: Trust) -> DiskStore:
    """Open the cache. If it does not answer, it is without access until it does."""
    silent = silent_cache(settings, "it does not answer")
    guard = guarded_calls(silent.path)

    def adopt(store: DiskStore) -> None:
        silent.adopt(store.directory)

    def open_it() -> DiskStore:
        directory = open_configured_cache(settings)
        return DiskStore(directory, trust, settings.compile_output_limit_bytes)

    try:
        return await guard.call(open_it, seconds=settings.patience_seconds, late=adopt)
    except NoAnswer:
        return DiskStore(silent, trust, settings.compile_output_limit_bytes)


def _assemble(
    settings: Settings,
    trust: Trust,
    emitter: events.Emitter,
    store: DiskStore,
    layers: Layers,
    freeze: Freeze,
) -> Services:
    directory = store.directory
    guard = guarded_calls(directory.path)
    guard.follow(directory)
    toolchains = Toolchains(settings)
    permits = CompilePermits(
        directory,
        settings.node_compile_slots,
        patience_seconds=settings.patience_seconds,
        patience_total_seconds=settings.patience_total_seconds,
        trust=trust,
    )
    lists = ListStore(directory)
    failures = FailureStore(directory, settings.failure_seconds, trust)
    services = Services(
        settings=settings,
        store=store,
        lists=lists,
        seeker=Seeker(store, lists, failures, layers, copies=settings.cache_layers_copy),
        layers=layers,
        # What a layer has of a bundle is copied, if at all, when its files are.
        bundle_seeker=Seeker(store.bundles, lists, failures, layers.of_bundles()),
        views=Views(settings.views_dir, settings.views_limit_bytes, settings.patience_seconds),
        failures=failures,
        node_digests=NodeDigests(directory, trust),
        leases=LeaseTable(directory, trust),
        trust=trust,
        toolchains=toolchains,
        pool=CompilePool(settings, toolchains, admission=permits),
        credits=Credits(settings.compile_slots),
        emitter=emitter,
        guard=guard,
        permits=permits,
        freeze=freeze,
    )
    # Last, since whatever attaches it must detach it. It tells what the process knows already.
    digests.attach(services.node_digests)
    return services


async def look_ahead(services: Services) -> None:
    """Look for NVRTC before the first kernel is asked for: no key is made without it.

    The other compilers are not looked for: finding one means running it.
    """
    # The first request looks for it again, and gets the error.
    with suppress(Exception):
        await services.in_thread(services.toolchains.find, "nvrtc")


async def shielded(close: Callable[[], Awaitable[None]]) -> None:
    """Close something completely, also while the caller is being cancelled.

    Args:
        close: Called again if the task was cancelled meanwhile, see `uncancelled`.
    """
    with anyio.CancelScope(shield=True):
        await uncancelled(close)
