"""Groups: the caches of a hybrid model, whose layers do not all look back equally far.

Layers of full attention need all chunks of a prefix, those of a window only the last ones, and a
recurrent state is one chunk at its end. Each such group has a layout, tensors and page numbers of
its own. A prefix can be loaded if *all* groups have what they need for it: what one group has is no
hit by itself (LMCache #2863 reported such hits, and the answers were garbled).

Here is only what follows from numbers: which chunks are needed, and what they are called.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit.errors import UsageError
from ajit.kv.keys import DIGEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit.kv.keys import Namespace
    from ajit.kv.layout import Layout

__all__ = ["Group", "Groups", "Needed", "name_in_part"]


@dataclass(frozen=True)
class Needed:
    """What a group needs of a prefix.

    Attributes:
        first: The first chunk, and with the one after the last all between them.
        stop: The one after the last.
        skip_pages: So many pages of the first chunk are not needed.
    """

    first: int
    stop: int
    skip_pages: int = 0


@dataclass(frozen=True)
class Group:
    """Layers that look back equally far.

    Attributes:
        name: Of the group, part of the names of its chunks.
        layout: Of its cache.
        window: How many tokens before the next one its layers look at: for a sliding window that
            counts the token itself, one less than that. 1 for a recurrent state, whose layout has
            pages of a whole chunk. 0: all of them.

    Raises:
        UsageError: The window is negative.
    """

    name: str
    layout: Layout
    window: int = 0

    def __post_init__(self) -> None:
        """Check it."""
        if self.window < 0:
            raise UsageError(f"the window of group {self.name!r} is {self.window}")

    def needed(self, chunks: int) -> Needed:
        """Return what the group needs of a prefix of so many whole chunks."""
        tokens = self.layout.chunk_tokens
        start = max(0, chunks * tokens - self.window) if self.window else 0
        first, within = divmod(start, tokens)
        return Needed(first, chunks, within // self.layout.page_tokens)


class Groups:
    """The groups of a model, in the order in which their tensors and page numbers are given.

    Raises:
        UsageError: There is none, two have one name, or their chunks have different tokens.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = tuple(groups)
        names = [group.name for group in self.groups]
        sizes = sorted({group.layout.chunk_tokens for group in self.groups})
        if not names or len(set(names)) != len(names):
            raise UsageError(f"groups have names of their own, at least one: {names}")
        if len(sizes) != 1:
            raise UsageError(f"groups have chunks of one number of tokens, and not of {sizes}")
        self.chunk_tokens = sizes[0]

    def namespaces(
        self, model: str, weights: str, *, rank: int = 0, extra: str = "", **others: str
    ) -> list[Namespace]:
        """Return what the chunks of each group are called in a store.

        Args:
            model: See `Namespace`.
            weights: The same.
            rank: Which of the equal parts of the KV heads these are, as with tensor parallelism.
            extra: See `Namespace`; a group's name and window are added.
            **others: ``rope``, ``lora`` and ``salt`` of a `Namespace`.
        """
        return [
            group.layout.namespace(
                model, weights, extra=f"{extra}|group {group.name} window {group.window}",
                heads=(rank * group.layout.heads, (rank + 1) * group.layout.heads), **others,
            )
            for group in self.groups
        ]  # fmt: skip

    def __len__(self) -> int:
        return len(self.groups)

    def __repr__(self) -> str:
        told = ", ".join(f"{each.name} {each.window or 'all'}" for each in self.groups)
        return f"<Groups of {told}>"


def name_in_part(digest: bytes, skip_pages: int) -> bytes:
    """Return what a chunk is called whose first pages are missing: they left the window.

    It is another name, so that it is never taken for one that is complete.
    """
    if not skip_pages:
        return digest
    return hashlib.blake2b(digest + b"without %d" % skip_pages, digest_size=DIGEST_BYTES).digest()
