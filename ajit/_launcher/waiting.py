"""Waiting for the lease of a compile, as long as its holder shows that it lives."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import anyio

from ajit._cache.leases.pulse import Pulse
from ajit._cache.leases.table import Glimpse, Lease, Unavailable
from ajit._launcher.cache import CacheGone, Hit
from ajit.errors import CompileError

if TYPE_CHECKING:
    from ajit._launcher.base import Wanted
    from ajit._launcher.cache import LauncherCache

__all__ = ["Outcome", "wait_for_lease"]

LOOK_SECONDS = 0.9
"""Between two looks at the holder's beat, which comes every second."""

Outcome: TypeAlias = "Lease | Hit | CompileError | None"
"""The lease; what its holder published, or the error that it got; None: compile without it."""


def wait_for_lease(cache: LauncherCache, wanted: Wanted, key: str) -> Outcome:
    """Wait until the lease is ours, its holder has published, or patience ends. Blocks."""
    return anyio.run(_wait, cache, wanted, key)


async def _wait(cache: LauncherCache, wanted: Wanted, key: str) -> Outcome:
    glance = partial(_glance, cache, wanted)
    name = wanted.command.sources[0].rpartition("/")[2]
    begun = last = time.monotonic()
    silence, pulse = 0.0, Pulse(paced=cache.trust.required != "none")
    with cache.leases.wait(key, wanted.command.family, glance, name=name) as place:
        while True:
            with anyio.move_on_after(LOOK_SECONDS):
                won = await place.wait()
                if isinstance(won, Glimpse):
                    found: Outcome = won.value
                    return found
                return None if isinstance(won, Unavailable) else won
            now = time.monotonic()
            # A process that was stopped itself knows nothing of the holder in that time.
            silence += min(now - last, 2 * LOOK_SECONDS)
            last = now
            try:
                holder = cache.ask(partial(cache.leases.read_holder, key))
                found = cache.look(wanted)
            except CacheGone:
                return None
            if found is not None:
                return found
            if pulse.is_beat(holder, now, time.time()):
                silence = 0.0
            if silence > cache.settings.patience_seconds:
                return None
            total = cache.settings.patience_total_seconds
            if 0 < total < now - begun:
                return None


def _glance(cache: LauncherCache, wanted: Wanted) -> Hit | CompileError | None:
    """Look under the lock, in its thread."""
    return cache.look_now(wanted) or cache.failure_now(wanted)
