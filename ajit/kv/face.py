"""The calls that a store in process and a client of the service have in common."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ajit._system.loop import LoopHandle
from ajit.errors import RuntimeClosed, UsageError
from ajit.kv.handles import Lease, Opening, Reservation
from ajit.kv.keys import DIGEST_BYTES, digest_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit.kv.feed import SlabFeed
    from ajit.kv.keys import Namespace, Tokens

__all__ = ["AnyStore", "check_digests", "digests_of"]


class AnyStore:
    """Chunks of a paged KV cache in host memory, in this process or in a service.

    What a store cannot do is no error of the engine: it misses, or stores nothing. It belongs to
    the event loop that it was opened in, and to any number of its tasks.

    Attributes:
        slabs: Its memory that is mapped here, for `open_pages` and `register`.
    """

    slabs: SlabFeed

    def __init__(self) -> None:
        self._loop = LoopHandle.current()
        self._closed = False

    def _check_usable(self) -> None:
        """Refuse what another event loop calls, or who is too late.

        Raises:
            UsageError: One does. Nothing was done.
            RuntimeClosed: Its block has ended. Nothing was done.
        """
        if self._closed:
            raise RuntimeClosed(f"{self!r} is closed: its async with block has ended")
        if not self._loop.is_running_here:
            raise UsageError(
                f"{self!r} belongs to the event loop that it was opened in; open one for each loop"
            )

    def lease(
        self,
        namespace: Namespace,
        tokens: Tokens | None = None,
        *,
        digests: Sequence[bytes] | None = None,
        wait_seconds: float = 0.0,
        checksums: bool = False,
    ) -> Opening[Lease]:
        """Look a prompt up: ``async with store.lease(namespace, tokens) as lease``.

        Args:
            namespace: What the chunks belong to.
            tokens: Of the prompt, from its start; or give `digests`.
            digests: What `digest_tokens` made of them.
            wait_seconds: How long to wait for a chunk that another engine stores right now.
            checksums: Whether to ask for what the writers said of their chunks.

        Returns:
            A lease on the longest part that is here, which may be none of it.

        Raises:
            UsageError: Neither tokens nor digests, or both, or no digests.

        Cancelling leaves nothing leased.
        """
        return Opening(partial(self._lease, namespace, tokens, digests, wait_seconds, checksums))

    def reserve(
        self, namespace: Namespace, digests: Sequence[bytes], *, first: int = 0
    ) -> Opening[Reservation]:
        """Ask for memory for a prompt: ``async with store.reserve(namespace, digests) as slots``.

        Args:
            namespace: What the chunks belong to.
            digests: Of the whole prompt, from its start.
            first: How many of these are here, by a lease that the caller has: they are not sent.
                With 0 the store looks by itself, and `Reservation.first` says where it begins.

        Returns:
            A reservation of the chunks that are not here, as many as there is room for, and 1024 at
            most. It may be none: then its `Reservation.reason` says why, and the engine goes on
            without.

        Raises:
            UsageError: They are no digests.

        Cancelling leaves nothing reserved.
        """
        return Opening(partial(self._reserve, namespace, digests, first))

    async def discard(self, namespace: Namespace, digest: bytes) -> int:
        """Take a chunk whose bytes are not what they should be out of the index.

        Returns:
            How many chunks were removed: those after it are of no use without it.
        """
        raise NotImplementedError

    async def _lease(
        self,
        namespace: Namespace,
        tokens: Tokens | None,
        digests: Sequence[bytes] | None,
        wait_seconds: float,
        checksums: bool,  # noqa: FBT001  # called by `lease` only
    ) -> Lease:
        raise NotImplementedError

    async def _reserve(
        self, namespace: Namespace, digests: Sequence[bytes], first: int
    ) -> Reservation:
        raise NotImplementedError


async def digests_of(
    namespace: Namespace, tokens: Tokens | None, digests: Sequence[bytes] | None
) -> list[bytes]:
    """Return the digests that a caller means.

    Raises:
        UsageError: Neither tokens nor digests were given, or both, or no digests.
    """
    if (tokens is None) == (digests is None):
        raise UsageError("give the tokens of the prompt, or their digests")
    if tokens is not None:
        return await digest_tokens(namespace, tokens)
    check_digests(digests or (), 0)
    return list(digests or ())


def check_digests(digests: Sequence[object], first: int) -> None:
    """Refuse what are no digests.

    Raises:
        UsageError: They are none, or there are not so many.
    """
    if not 0 <= first <= len(digests):
        raise UsageError(
            f"there are {len(digests)} digests, and {first} of them are said to be here"
        )
    if any(not isinstance(digest, bytes) or len(digest) != DIGEST_BYTES for digest in digests):
        raise UsageError(f"a digest has {DIGEST_BYTES} bytes; see ajit.kv.digest_tokens")
