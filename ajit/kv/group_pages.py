"""Pages of a hybrid model: those of all its groups, saved and loaded as one."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from ajit._core.factory import FactoryMade
from ajit._gpu.device import Device
from ajit.errors import AjitError, UsageError
from ajit.kv.held import refuse_gaps
from ajit.kv.pages import open_pages
from ajit.kv.registering import register

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    from ajit._runtime.runtime import Runtime
    from ajit.kv.group_store import GroupChunks, GroupLease, GroupReservation
    from ajit.kv.groups import Groups
    from ajit.kv.pages import Pages
    from ajit.kv.registering import RegisteredStore, SlabSource
    from ajit.kv.transfer import Transfer

__all__ = ["GroupPages", "GroupTransfer", "open_group_pages"]


class GroupTransfer(metaclass=FactoryMade, factory="await pages.load() or pages.save()"):
    """A submitted load or save of all groups. Awaiting it waits until the device is done with all.

    Attributes:
        transfers: Of each group, in their order; None where there was nothing to copy.
    """

    __slots__ = ("transfers",)

    def __init__(self, transfers: Sequence[Transfer | None]) -> None:
        """Made by `GroupPages`."""
        self.transfers = tuple(transfers)

    @property
    def nbytes(self) -> int:
        """How much it copies."""
        return sum(each.nbytes for each in self.transfers if each is not None)

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait for all groups, also if one fails; then raise what awaiting the first of these does.

        A prefix of which one group could not be loaded has to be computed.
        """
        return _wait_for_all(self.transfers).__await__()

    def __repr__(self) -> str:
        return f"<GroupTransfer of {self.nbytes} bytes in {len(self.transfers)} groups>"


async def _wait_for_all(transfers: Sequence[Transfer | None]) -> None:
    failure: AjitError | None = None
    for transfer in transfers:
        try:
            if transfer is not None:
                await transfer
        except AjitError as error:
            failure = failure or error
    if failure is not None:
        raise failure


class GroupPages(metaclass=FactoryMade, factory="async with ajit.kv.open_group_pages()"):
    """The pages of all groups of a model. Get it with `open_group_pages`.

    Attributes:
        groups: Of the model.
        pages: Of each group, in their order.
    """

    __slots__ = ("_registered", "groups", "pages")

    def __init__(
        self, groups: Groups, pages: Sequence[Pages], registered: RegisteredStore | None
    ) -> None:
        """Made by `open_group_pages`."""
        self.groups, self.pages = groups, tuple(pages)
        self._registered = registered

    async def wait_registered(self) -> None:
        """Wait until the driver knows all slabs that the store has by now; at once without one."""
        if self._registered is not None:
            await self._registered.wait_registered()

    async def load(self, hit: GroupLease, tables: Sequence[Any], **how: Any) -> GroupTransfer:
        """Submit the copy of a prefix into pages: of each group, what it needs of it.

        Args:
            hit: From `GroupStore.lease`.
            tables: For each group, numbers of the pages of the whole prompt from its start, as
                `Pages.load` takes them. What a window has left is not looked at.
            **how: What else `Pages.load` takes, for all groups.

        Raises:
            UsageError: There is not one table for each group, or one is too short. Nothing was
                submitted.
            ArgumentError: As `Pages.load`, for one group. What was submitted for others is over.
        """
        return await self._copy(hit.groups, tables, how, to_host=False)

    async def save(
        self, tables: Sequence[Any], slots: GroupReservation, **how: Any
    ) -> GroupTransfer:
        """Submit the copy of pages into what is reserved. Takes and raises what `load` does.

        A gap among the pages that a group needs is refused with `UsageError`.
        """
        return await self._copy(slots.groups, tables, how, to_host=True)

    async def _copy(
        self,
        parts: Sequence[GroupChunks[Any]],
        tables: Sequence[Any],
        how: dict[str, Any],
        *,
        to_host: bool,
    ) -> GroupTransfer:
        if len(tables) != len(self.pages):
            raise UsageError(f"{len(tables)} tables of pages for {len(self.pages)} groups")
        asked = [
            _blocks_of(part, table, to_host=to_host)
            for part, table in zip(parts, tables, strict=True)
        ]
        submitted: list[Transfer | None] = []
        try:
            for pages, part, blocks in zip(self.pages, parts, asked, strict=True):
                chunks = part.joined()
                if not len(chunks):
                    submitted.append(None)
                elif to_host:
                    submitted.append(await pages.save(blocks, chunks, **how))
                else:
                    submitted.append(await pages.load(chunks, blocks, **how))
        except BaseException:
            await _end(submitted)
            raise
        return GroupTransfer.make(submitted)

    def __repr__(self) -> str:
        return f"<GroupPages of {self.groups!r}>"


async def _end(submitted: Sequence[Transfer | None]) -> None:
    """Wait for what was submitted of a request that failed: its pages may be used again then."""
    with anyio.CancelScope(shield=True):
        try:
            await _wait_for_all(submitted)
        except AjitError:
            return


def _blocks_of(part: GroupChunks[Any], table: Any, *, to_host: bool) -> Any:
    """Return the numbers of the pages of some chunks; pages that a window has left are gaps."""
    pages = part.group.layout.chunk_pages
    if part.ranges and len(table) < part.ranges[-1][1] * pages:
        needed = part.ranges[-1][1] * pages
        raise UsageError(
            f"the table of group {part.group.name!r} has {len(table)} of {needed} pages"
        )
    if len(part.ranges) == 1 and not part.ranges[0][2]:
        first, stop, _ = part.ranges[0]
        piece = table[first * pages : stop * pages]
        if to_host:
            refuse_gaps(piece)
        return piece
    numbers: list[int] = []
    for first, stop, skip in part.ranges:
        piece = table[first * pages + skip : stop * pages]
        if to_host:
            refuse_gaps(piece)
        numbers += [-1] * skip
        numbers += piece.tolist() if hasattr(piece, "tolist") else list(piece)
    return numbers


@asynccontextmanager
async def open_group_pages(
    where: Runtime | Device,
    groups: Groups,
    tensors: Sequence[Sequence[Any]],
    *,
    check: bool = True,
    store: SlabSource | None = None,
) -> AsyncGenerator[GroupPages, None]:
    """Bind the layouts of all groups to the tensors of an engine.

    Leaving the block waits for transfers in flight.

    Args:
        where: See `open_pages`.
        groups: Of the model.
        tensors: For each group, those of its layout.
        check: See `open_pages`.
        store: The same.

    Raises:
        UsageError: There is not one list of tensors for each group.
        ArgumentError: The tensors of a group are not as declared, see `open_pages`.
    """
    if len(tensors) != len(groups):
        raise UsageError(f"tensors for {len(tensors)} groups of {len(groups)}")
    device = where if isinstance(where, Device) else where.device
    async with AsyncExitStack() as stack:
        registered = None
        if store is not None:
            registered = await stack.enter_async_context(register(device, store))
        opened = [
            await stack.enter_async_context(open_pages(where, group.layout, each, check=check))
            for group, each in zip(groups.groups, tensors, strict=True)
        ]
        pages: GroupPages = GroupPages.make(groups, opened, registered)
        yield pages
