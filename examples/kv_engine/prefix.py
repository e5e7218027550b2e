"""The prefix cache: prompts that some engine has computed, found in the store and kept there.

Nothing here is an error of a request. What the store does not have, or cannot take now, is counted.
A copy may go on when the request that began it has gone. What it uses in the store is kept until
the device is done, by `ajit.kv`; its pages are kept by the engine, which is told of each transfer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit import kv

if TYPE_CHECKING:
    import ajit
    from examples.kv_engine.decoder import Sequence

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

    def __init__(self, store: kv.StoreClient, pages: kv.Pages, namespace: kv.Namespace) -> None:
        """Make it.

        Args:
            store: Where prompts are kept.
            pages: Of this engine.
            namespace: Of its model.
        """
        self._store, self._pages, self._namespace = store, pages, namespace
        self.counts: Counter[str] = Counter()

    async def load(self, tokens: list[int], sequence: Sequence, *, gates: bool) -> Found | None:
        """Begin to load what the store has of a prompt, but never all of it: one token is left.

        Args:
            tokens: The prompt.
            sequence: Its first pages are written to until the transfer is done.
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
            transfer = await self._pages.load(lease, sequence.blocks, gates=gates)
            sequence.transfers.append(transfer)
            self.counts["loaded"] += len(lease)
            return Found(lease.tokens, transfer)

    async def save(self, tokens: list[int], sequence: Sequence, after: ajit.Stream) -> None:
        """Store the chunks of a sequence that are not stored.

        Args:
            tokens: Whose keys and values are in its pages.
            sequence: Its pages are read until the transfer is done.
            after: What computes them.

        Raises:
            AjitError: The copy has failed. Nothing was stored.
        """
        digests = await kv.digest_tokens(self._namespace, tokens)
        if not digests:
            return
        async with self._store.reserve(self._namespace, digests) as slots:
            if not slots:
                self.counts[f"skipped: {slots.reason}"] += len(digests)
                return
            # Of the whole prompt's pages it takes those of the chunks that are reserved.
            sequence.transfers.append(await self._pages.save(sequence.blocks, slots, after=after))
            # The commit waits for the copy, so nobody finds what is not all there.
            committed = await slots.commit()
            self.counts["saved" if committed else "skipped: too late"] += len(slots)
