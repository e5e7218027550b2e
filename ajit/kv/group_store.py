"""A store as a hybrid model uses it: a prefix is found if all groups have what they need for it.

Chunks of a group without a window are a path, as always: who has one has all before it. Those of a
window are each found by themselves, for those before them are not kept. The first one of a window
may lack its first pages, and has a name of its own then.

Belongs to one event loop, as its store does.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from ajit.errors import UsageError
from ajit.kv.groups import name_in_part
from ajit.kv.handles import Handle, Lease, Opening, Reservation
from ajit.kv.joined import JoinedChunks
from ajit.kv.keys import Namespace, digest_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from ajit.kv.face import AnyStore
    from ajit.kv.groups import Group, Groups, Needed
    from ajit.kv.keys import Tokens

__all__ = ["GroupChunks", "GroupLease", "GroupReservation", "GroupStore"]

MOST_LOOKUPS = 256
"""Single chunks that are looked for in one lookup; what is further back counts as missing. Pretty
arbitrary: about 30 ms with a service."""

H = TypeVar("H", Lease, Reservation)


class GroupChunks(Generic[H]):
    """What one group has of a prompt: handles, and which chunks they are.

    Attributes:
        group: The group.
        namespace: Of its chunks.
        ranges: Of chunks, from the first to before the last, and how many pages of the first of
            each are missing.
        handles: For each range.
    """

    def __init__(self, group: Group, namespace: Namespace) -> None:
        self.group, self.namespace = group, namespace
        self.ranges: list[tuple[int, int, int]] = []
        self.handles: list[H] = []

    def add(self, handle: H, first: int, stop: int, skip_pages: int = 0) -> None:
        """Add the first chunks of a handle."""
        if stop > first:
            self.ranges.append((first, stop, skip_pages))
            self.handles.append(handle)

    def joined(self) -> JoinedChunks:
        """All of them as one, in order."""
        counts = (stop - first for first, stop, _ in self.ranges)
        return JoinedChunks(self.namespace, list(zip(self.handles, counts, strict=True)))


class _Held(Generic[H]):
    """Handles that end together.

    Attributes:
        groups: What each group has, in their order.
    """

    groups: list[GroupChunks[H]]

    def __init__(self, groups: list[GroupChunks[H]], others: Sequence[Handle] = ()) -> None:
        self.groups, self._others = groups, others

    def release(self) -> None:
        """End all, as soon as no copy holds them. Twice is nothing."""
        for group in self.groups:
            for handle in group.handles:
                handle.release()
        for other in self._others:
            other.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()


class GroupLease(_Held[Lease]):
    """The longest prefix for which all groups have what they need: pinned until released.

    Attributes:
        groups: What each group has of it, in their order.
        chunks: How many whole chunks it has.
        tokens: How many tokens.
    """

    def __init__(self, groups: list[GroupChunks[Lease]], chunks: int, tokens: int) -> None:
        super().__init__(groups)
        self.chunks, self.tokens = chunks, tokens


class GroupReservation(_Held[Reservation]):
    """Memory for what a store does not have of a prompt, as far as there was room.

    Attributes:
        groups: What each group may write, in their order.
        reason: "" if that is all that the store lacks; else why it is not, as
            `Reservation.reason` says it for one group: ``busy``, ``size``, ``disconnected``, ...
            What is stored all the same is no hit as long as a group lacks its part.
    """

    reason = ""

    async def commit(self) -> bool:
        """Let lookups find all of it, once the copies into it have ended.

        Returns:
            Whether the whole prompt is found: False if `reason` says that a part had no memory.
            Groups with a window come first, so that what all of them need is there before a prefix
            is as long.

        Raises:
            DeviceError: A copy into it has failed, see `Reservation.commit`. What is committed by
                then stays: a prefix for which a group lacks something is no hit.
        """
        done = True
        for part in sorted(self.groups, key=lambda part: not part.group.window):
            for handle in part.handles:
                done &= await handle.commit()
        return done and not self.reason

    def note(self, slots: Reservation, wanted: int) -> None:
        """Note whether a part has memory for all that it lacks."""
        if slots.first + len(slots) < wanted and slots.reason not in ("stored", "short"):
            self.reason = self.reason or slots.reason or "busy"

    def __len__(self) -> int:
        """How many chunks it has, of all groups."""
        return sum(stop - first for part in self.groups for first, stop, _ in part.ranges)

    def __repr__(self) -> str:
        why = f", {self.reason}" if self.reason else ""
        return f"<GroupReservation of {len(self)} chunks{why}>"


class GroupStore:
    """A store, for the groups of a model.

    Args:
        store: From `open_store` or `connect`.
        groups: Of the model.
        namespaces: From `Groups.namespaces`: one for each group, in their order.

    Raises:
        UsageError: They are not those of the groups. Nothing was done.
    """

    def __init__(self, store: AnyStore, groups: Groups, namespaces: Sequence[Namespace]) -> None:
        if isinstance(namespaces, Namespace) or len(namespaces) != len(groups.groups):
            raise UsageError(
                f"{len(groups.groups)} groups have a namespace each, in their order; "
                "groups.namespaces() makes them"
            )
        self.store, self.groups, self.namespaces = store, groups, list(namespaces)
        for group, namespace in zip(groups.groups, self.namespaces, strict=True):
            group.layout.check_namespace(namespace)

    def lease(self, tokens: Tokens) -> Opening[GroupLease]:
        """Look a prompt up: ``async with store.lease(tokens) as hit``.

        Cancelling leaves nothing leased.
        """
        return Opening(partial(self._lease, tokens))

    def reserve(self, tokens: Tokens) -> Opening[GroupReservation]:
        """Ask for memory: ``async with store.reserve(tokens) as slots``.

        Of each group it is what would be needed to load all whole chunks of these tokens, and is
        not here. Cancelling leaves nothing reserved.
        """
        return Opening(partial(self._reserve, tokens))

    # --- lookups ---

    async def _lease(self, tokens: Tokens) -> GroupLease:
        looking = [
            _Looking(self.store, group, namespace, await digest_tokens(namespace, tokens))
            for group, namespace in zip(self.groups.groups, self.namespaces, strict=True)
        ]
        try:
            chunks = await self._longest(looking)
            parts = [each.take(each.group.needed(chunks)) for each in looking]
        except BaseException:
            for each in looking:
                each.release_all()
            raise
        return GroupLease(parts, chunks, chunks * self.groups.chunk_tokens)

    async def _longest(self, looking: list[_Looking]) -> int:
        chunks = min(len(each.digests) for each in looking)
        for each in looking:
            if not each.group.window and chunks:
                chunks = min(chunks, await each.path())
        agreed = 0
        while chunks and agreed < len(looking):  # until every group agrees to one length
            agreed = 0
            for each in looking:
                fits = await each.longest(chunks) if each.group.window else chunks
                agreed += fits == chunks
                chunks = fits
        return chunks

    # --- stores ---

    async def _reserve(self, tokens: Tokens) -> GroupReservation:
        parts: list[GroupChunks[Reservation]] = []
        others: list[Handle] = []
        reserved = GroupReservation(parts, others)
        try:
            for group, namespace in zip(self.groups.groups, self.namespaces, strict=True):
                digests = await digest_tokens(namespace, tokens)
                parts.append(GroupChunks(group, namespace))
                if not group.window:
                    slots = await self.store.reserve(namespace, digests)
                    others.append(slots)
                    reserved.note(slots, len(digests))
                    parts[-1].add(slots, slots.first, slots.first + len(slots))
                else:
                    needed = group.needed(len(digests))
                    await self._reserve_window(reserved, parts[-1], digests, needed)
        except BaseException:
            reserved.release()
            raise
        return reserved

    async def _reserve_window(
        self,
        reserved: GroupReservation,
        part: GroupChunks[Reservation],
        digests: list[bytes],
        needed: Needed,
    ) -> None:
        for index in range(needed.first, needed.stop):
            skip = needed.skip_pages if index == needed.first else 0
            if skip and await self._is_here(part.namespace, digests[index]):
                continue
            name = name_in_part(digests[index], skip)
            slots = await self.store.reserve(part.namespace, [name])
            reserved.note(slots, 1)
            part.add(slots, index, index + len(slots), skip)

    async def _is_here(self, namespace: Namespace, digest: bytes) -> bool:
        async with self.store.lease(namespace, digests=[digest]) as lease:
            return len(lease) > 0

    def __repr__(self) -> str:
        return f"<GroupStore of {self.groups!r} in {self.store!r}>"


class _Looking:
    """What is known of one group's chunks during a lookup, and leased so far."""

    def __init__(
        self, store: AnyStore, group: Group, namespace: Namespace, digests: list[bytes]
    ) -> None:
        self.group, self.digests = group, digests
        self._store, self._namespace = store, namespace
        self._leases: dict[bytes, Lease] = {}
        self._path: Lease | None = None

    async def path(self) -> int:
        """Lease the prefix; how many chunks it has."""
        self._path = await self._store.lease(self._namespace, digests=self.digests)
        return len(self._path)

    async def longest(self, chunks: int) -> int:
        """Lease what a prefix of at most so many chunks needs; how many it can have.

        All lengths between a missing chunk and that need it, too: windows are whole there, for the
        first chunk of a window moves with its last.
        """
        while chunks and (missing := await self._missing(self.group.needed(chunks))) is not None:
            chunks = missing
        return chunks

    async def _missing(self, needed: Needed) -> int | None:
        for index in range(needed.stop - 1, needed.first - 1, -1):
            if not await self._find(index, needed):
                return index
        return None

    async def _find(self, index: int, needed: Needed) -> bool:
        if await self._is_leased(self.digests[index]):
            return True
        return index == needed.first and await self._is_leased(self._name_of_first(needed))

    def _name_of_first(self, needed: Needed) -> bytes:
        return name_in_part(self.digests[needed.first], needed.skip_pages)

    async def _is_leased(self, name: bytes) -> bool:
        if name not in self._leases:
            if len(self._leases) >= MOST_LOOKUPS:
                return False
            self._leases[name] = await self._store.lease(self._namespace, digests=[name])
        return len(self._leases[name]) > 0

    def take(self, needed: Needed) -> GroupChunks[Lease]:
        """Return the leases of what is needed; the others are released."""
        part: GroupChunks[Lease] = GroupChunks(self.group, self._namespace)
        if self._path is not None:
            part.add(self._path, 0, needed.stop)
        for index in range(needed.first, needed.stop) if self.group.window else ():
            first = index == needed.first
            lease = self._leases[self.digests[index]]
            if first and not lease:
                lease = self._leases[self._name_of_first(needed)]
            part.add(lease, index, index + 1, needed.skip_pages if first else 0)
        for lease in self._all():
            if lease not in part.handles:
                lease.release()
        return part

    def _all(self) -> list[Lease]:
        return [*self._leases.values(), *([] if self._path is None else [self._path])]

    def release_all(self) -> None:
        """Release what is leased."""
        for lease in self._all():
            lease.release()
