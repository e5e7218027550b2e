"""Where the bytes of a bundle are: in the cache, or in the first layer that has them.

A look-up has verified the head of an entry; its files are still on disk. To copy them, the
entry is opened anew: it may have been evicted meanwhile, or have come from a layer into the cache.
Each place has its own guard, so that a layer which hangs is not taken for a cache that hangs.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec

from ajit._cache.entries.bundles import Damaged
from ajit._cache.entries.results import entry_name
from ajit._core.entry import EntryInvalid
from ajit._system.guarded_calls import NoAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._cache.entries.bundles import BundleStore, OpenBundle
    from ajit._core.bundle import BundleArtifact
    from ajit._resolve.layers import Layer
    from ajit._resolve.services import Services

__all__ = ["BundleGone", "with_bundle"]

T = TypeVar("T")

SLOWEST_BYTES_PER_SECOND = 8 * 1024 * 1024
"""A place from which a bundle comes more slowly than this counts as one that hangs."""


class BundleGone(Exception):
    """The entry of a bundle is nowhere any more, or is not what it was."""


async def with_bundle(
    services: Services, artifact: BundleArtifact, use: Callable[[OpenBundle], T]
) -> T:
    """Open the entry of a bundle where it is, and let a function read its files. In a thread.

    With the setting ``cache_layers_copy``, what a layer has is put into the cache then.

    Args:
        services: The runtime's.
        artifact: The bundle, whose bytes are in no pack.
        use: Reads the files, and raises `Damaged` if they are not what they should be.

    Raises:
        BundleGone: No place has it, or what they have is damaged. A damaged entry of the cache was
            removed.
        Exception: What the function raised.
    """
    seconds = artifact.size_bytes / SLOWEST_BYTES_PER_SECOND
    seconds += 2 * services.settings.patience_seconds
    try:
        of_cache = partial(_read, services.store.bundles, artifact.key, use, removes=True)
        return await services.on_cache(of_cache, seconds=seconds)
    except (BundleGone, NoAnswer) as exc:
        reason = exc
    for layer in services.layers:
        if layer.directory.access == "none":
            continue
        read = partial(_read, layer.bundles, artifact.key, use, removes=False)
        try:
            result = await layer.guard.call(read, seconds=min(seconds, services.seconds_left()))
        except (BundleGone, NoAnswer) as exc:
            reason = exc
            continue
        if services.settings.cache_layers_copy:
            await _copy(services, layer, artifact, seconds)
        return result
    raise BundleGone(str(reason)) from reason


def _read(
    bundles: BundleStore,
    key: str,
    use: Callable[[OpenBundle], T],
    *,
    removes: bool,
) -> T:
    try:
        opened = bundles.open(key, entry_name(key))
    except (OSError, EntryInvalid) as exc:
        raise BundleGone(str(exc)) from exc
    with opened:
        try:
            return use(opened)
        except Damaged as exc:
            if removes:
                bundles.remove_damaged(key, opened.identity)
            raise BundleGone(str(exc)) from exc


async def _copy(services: Services, layer: Layer, artifact: BundleArtifact, seconds: float) -> None:
    """Put what a layer has into the cache, with the lists that may lead to it."""
    try:
        await services.on_cache(_put, services, layer, artifact, seconds=seconds)
    except NoAnswer:
        return


def _put(services: Services, layer: Layer, artifact: BundleArtifact) -> None:
    def publish(opened: OpenBundle) -> None:
        services.store.bundles.publish(msgspec.structs.replace(opened.artifact, pack=opened))

    try:
        _read(layer.bundles, artifact.key, publish, removes=False)
    except BundleGone:
        return
    for _, listed in layer.lists(artifact.base, services.settings.patience_seconds):
        services.lists.publish(artifact.base, listed)
