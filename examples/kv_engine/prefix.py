"""The prefix cache: prompts that some engine has computed, found in the store and kept there.

Nothing here is an error of a request. What the store does not have, or cannot take now, is counted.
A copy may go on when the request that began it has gone: so each has a *hold* on its memory in the
store, which a task of the engine gives back when the device is done.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit import kv
from examples.kv_engine.decoder import is_over

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import TaskGroup

    import ajit

__all__ = ["Found", "PrefixCache"]


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of a prompt, and is on its way into the pages.

    Attributes:
        tokens: How many.
        transfer: The load.
    """

    tokens: int
    transfer: kv.Transfer


class PrefixCache:
    """Prompts in a store, for one engine. Belongs to its event loop.

    Attributes:
        counts: Of chunks: ``loaded``, ``saved``, and ``skipped: REASON``, as the reservations say.
    """

    def __init__(
        self, store: kv.StoreClient, pages: kv.Pages, namespace: kv.Namespace, tasks: TaskGroup
    ) -> None:
        """Make it.

        Args:
            store: Where prompts are kept.
            pages: Of this engine.
            namespace: Of its model.
            tasks: Of the engine. They wait for copies whose requests have gone.
        """
        self._store, self._pages, self._namespace = store, pages, namespace
        self._tasks = tasks
        self.counts: Counter[str] = Counter()

    async def load(self, tokens: Sequence[int], blocks: list[int], *, gates: bool) -> Found | None:
        """Begin to load what the store has of a prompt, but never all of it: one token is left.

        Args:
            tokens: The prompt.
            blocks: Its pages. The first ones are written to until the transfer is done.
            gates: Whether streams will wait for single layers.

        Returns:
            What is being loaded; None if there is nothing.
        """
        digests = await kv.digest_tokens(self._namespace, tokens[:-1])
        if not digests:
            return None
        async with self._store.lease(self._namespace, digests=digests) as lease:
            if not lease:
                return None
            count = len(lease) * self._pages.layout.chunk_pages
            hold = lease.hold()
            try:
                transfer = await self._pages.load(lease.views(), blocks[:count], gates=gates)
            except BaseException:
                hold.release()  # nothing was submitted
                raise
            self._tasks.start_soon(_release_when_done, hold, transfer)
            self.counts["loaded"] += len(lease)
            return Found(lease.tokens, transfer)

    async def save(self, tokens: Sequence[int], blocks: list[int], after: ajit.Stream) -> None:
        """Store the chunks of a sequence that are not stored.

        Args:
            tokens: Whose keys and values are in the pages.
            blocks: The pages. They are read until this returns.
            after: What computes them.
        """
        digests = await kv.digest_tokens(self._namespace, tokens)
        if not digests:
            return
        async with self._store.reserve(self._namespace, digests) as slots:
            if not slots:
                self.counts[f"skipped: {slots.reason}"] += len(digests)
                return
            first, count = slots.first, len(slots)
            pages = self._pages.layout.chunk_pages
            hold = slots.hold()
            try:
                transfer = await self._pages.save(
                    blocks[first * pages : (first + count) * pages], slots.views(), after=after
                )
            except BaseException:
                hold.release()  # nothing was submitted
                raise
            await _release_when_done(hold, transfer)
            await transfer  # done; raises if it has failed
            committed = await slots.commit()
            self.counts["saved" if committed else "skipped: too late"] += count


async def _release_when_done(hold: kv.Hold, transfer: kv.Transfer) -> None:
    """Give a hold back when the device is done with it, also if the engine ends meanwhile."""
    if await is_over(transfer):
        hold.release()
