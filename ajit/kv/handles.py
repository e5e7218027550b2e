"""What users hold of a store: leases and reservations, and what keeps either while it is copied.

The same handles serve a store in process and one behind a socket; both have the few methods of
`Backend`. A handle ends once, whatever is called and however often. While it has *holds* its end
waits for them: a copy that was submitted takes a hold and gives it back when its ticket has
retired, so a task that is cancelled may leave its block at once, and the memory stays until the
device is done with it.
"""

from __future__ import annotations

from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import anyio

from ajit._system.loop import LoopHandle
from ajit._system.warn import warn_only
from ajit.errors import UsageError
from ajit.kv.arena import Place, place_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
    from types import TracebackType
    from typing import Self

    from ajit.kv.keys import Namespace

__all__ = ["Backend", "Hold", "Lease", "Opening", "Reservation"]

T = TypeVar("T", bound="Ending")


class Ending(Protocol):
    """What ends when its block does."""

    def release(self) -> None:
        """End it. Never waits; twice is nothing."""
        ...


class Backend(Protocol):
    """What a handle needs of its store. All but `commit` return at once, and never raise."""

    def view(self, slot: int, size: int) -> memoryview:
        """The bytes of a slot."""
        ...

    def release(self, lease: int) -> None:
        """End a lease."""
        ...

    def abort(self, reservation: int) -> None:
        """Give a reservation up."""
        ...

    async def commit(self, reservation: int, checksums: Sequence[int], *, last: bool) -> bool:
        """Let lookups find the next chunks of a reservation; whether they do.

        It is over if they do not, or if those are the last ones.
        """
        ...


class Hold:
    """Keeps a lease or a reservation until `release` is called, by any thread."""

    __slots__ = ("_follows", "_handle")

    def __init__(self, handle: Handle) -> None:
        self._handle: Handle | None = handle
        self._follows = False

    def follow(self, copy: Awaitable[object]) -> None:
        """Say that it is the hold of a copy, which a commit awaits first: of its ticket.

        So bytes that are not all there are never found.
        """
        if self._handle is not None:
            self._handle._follow(copy, first=not self._follows)  # noqa: SLF001  # the two are one thing
            self._follows = True

    def release(self) -> None:
        """Give it back; twice is nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle._let_go(follows=self._follows)  # noqa: SLF001  # the same


class Handle:
    """What a lease and a reservation have in common: slots, and an end.

    Attributes:
        namespace: Of its chunks.
        slots: Numbers of the slots, in the order of the prompt.
    """

    def __init__(
        self, backend: Backend, number: int, namespace: Namespace, slots: Sequence[int]
    ) -> None:
        self.namespace, self.slots = namespace, tuple(slots)
        self._backend, self._number = backend, number
        self._loop = LoopHandle.current()
        self._holds = 0
        self._following = 0  # of the holds: those whose end a commit can wait for
        self._copies: list[Awaitable[object]] = []
        self._over = not number
        self._ended = not number

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def places(self) -> list[Place]:
        """Slab and offset of each chunk."""
        size = self.namespace.chunk_bytes
        return [place_of(slot, size) for slot in self.slots]

    def view(self, index: int) -> memoryview:
        """The bytes of a chunk. They are its only until the handle ends.

        Raises:
            UsageError: It has ended.
        """
        if self._over:
            raise UsageError(f"{self!r} has ended; its memory may be another chunk's by now")
        return self._backend.view(self.slots[index], self.namespace.chunk_bytes)

    def views(self) -> list[memoryview]:
        """The bytes of each chunk, in order; see `view`."""
        return [self.view(index) for index in range(len(self.slots))]

    def hold(self) -> Hold:
        """Keep the memory until the hold is released, also if the handle is released before.

        Raises:
            UsageError: It has ended.
        """
        if self._over:
            raise UsageError(f"{self!r} has ended; nothing is left to hold")
        self._holds += 1
        return Hold(self)

    def release(self) -> None:
        """End it, as soon as nothing holds it. Never waits; twice is nothing. Any thread may."""
        self._over = True
        self._in_loop(self._end_if_free)

    def _follow(self, copy: Awaitable[object], *, first: bool) -> None:
        self._copies.append(copy)
        self._following += first

    def _let_go(self, *, follows: bool) -> None:
        self._in_loop(partial(self._let_go_now, follows=follows))

    def _let_go_now(self, *, follows: bool) -> None:
        self._holds -= 1
        self._following -= follows
        self._end_if_free()

    def _in_loop(self, function: Callable[[], None]) -> None:
        """Call it: in the loop's own thread at once, from another one soon."""
        if self._loop.thread_id == get_ident():
            function()
        else:
            self._loop.call_soon(function)

    def _end_if_free(self) -> None:
        if self._over and not self._holds and not self._ended:
            self._ended = True
            self._end()

    def _end(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        if getattr(self, "_holds", 0):
            # A copy may be on its way: so the memory stays, as long as the process lives.
            warn_only(f"a hold of a {type(self).__name__.lower()} was dropped, and not released")
            return
        # Any thread, in the middle of anything: so the loop is asked to end it.
        if not getattr(self, "_ended", True):
            warn_only(f"a {type(self).__name__.lower()} was dropped without being released")
            self._ended = True
            self._loop.call_soon(self._finalizer())

    def _finalizer(self) -> Callable[[], None]:
        raise NotImplementedError

    def __repr__(self) -> str:
        state = "ended" if self._ended else "held" if self._over else "open"
        return f"<{type(self).__name__} of {len(self.slots)} chunks, {state}>"


class Lease(Handle):
    """The longest part of a prompt, from its start, that the store has: pinned until released.

    Attributes:
        first: Index of its first chunk in the prompt: always 0.
        checksums: What the writer of each chunk said of it, if it was asked for; 0 if nothing.
        pending: Whether another engine stores the next chunk right now.
    """

    first = 0
    writable = False

    def __init__(
        self,
        backend: Backend,
        number: int,
        namespace: Namespace,
        slots: Sequence[int] = (),
        checksums: Sequence[int] = (),
        *,
        pending: bool = False,
    ) -> None:
        super().__init__(backend, number, namespace, slots)
        self.checksums, self.pending = tuple(checksums), pending

    @property
    def tokens(self) -> int:
        """How many tokens of the prompt are here."""
        return len(self.slots) * self.namespace.chunk_tokens

    def _end(self) -> None:
        self._backend.release(self._number)

    def _finalizer(self) -> Callable[[], None]:
        backend, number = self._backend, self._number
        return lambda: backend.release(number)

    def view(self, index: int) -> memoryview:
        """The bytes of a chunk, to be read only: other engines read them, too.

        Raises:
            UsageError: It has ended.
        """
        return super().view(index).toreadonly()


class Reservation(Handle):
    """Memory for the next chunks of a prompt: this engine's to write until committed or released.

    Without a slot there is nothing to store, and `reason` says why.

    Attributes:
        first: Index of its first chunk in the prompt.
        reason: "" if there are slots; else ``short`` (the prompt has not one whole chunk),
            ``stored``, ``pending`` (another engine stores it right
            now), ``parent`` (what is before it is not here), ``busy``, ``size`` (a chunk does not
            fit into a slab, or is tiny), ``disconnected`` or ``failed``.
        retry_after: Seconds after which a busy store is worth another try.
    """

    def __init__(
        self,
        backend: Backend,
        number: int,
        namespace: Namespace,
        slots: Sequence[int] = (),
        *,
        first: int = 0,
        reason: str = "",
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(backend, number, namespace, slots)
        self.first, self.reason, self.retry_after = first, reason, retry_after
        self.committed = 0
        self._committing = anyio.Lock()

    def view(self, index: int) -> memoryview:
        """The bytes of a chunk, to be written. They are its only until it is committed.

        Raises:
            UsageError: It is committed: others read it now. Or the reservation has ended.
        """
        view = super().view(index)
        if range(len(self.slots))[index] < self.committed:
            raise UsageError(
                f"chunk {index} of {self!r} is committed: others read it, so none writes"
            )
        return view

    async def commit(
        self, count: int | None = None, checksums: Sequence[int] | None = None
    ) -> bool:
        """Let lookups find the next chunks, whose bytes are all there: before this returns.

        Copies that `Pages.save` has submitted into the reservation are waited for first.

        Args:
            count: How many; default: all that are left.
            checksums: One for each, unsigned 64-bit, handed to readers as it is; default: 0.

        Returns:
            False if they are not found: the reservation took too long (then also if no one else
            has stored them meanwhile), or the service is gone. Nothing else is lost; the engine
            goes on without. True if there are no slots: `reason` says whether that was all.

        Raises:
            UsageError: There are not so many, or it has ended; or these are the last ones, and a
                hold is left that was not told what to `Hold.follow`: its copy may still write.
                Nothing was committed.
            DeviceError: A copy into it has failed; or what else awaiting its ticket raises. Nothing
                was committed, nor will be.

        Cancelling may leave them committed or not.
        """
        if self.slots and not self._loop.is_running_here:
            raise UsageError(f"{self!r} belongs to the event loop that it was reserved in")
        async with self._committing:  # the next one has to know what came of this one
            return await self._commit(count, checksums)

    async def _commit(self, count: int | None, checksums: Sequence[int] | None) -> bool:
        for copy in self._copies:
            await copy
        left = len(self.slots) - self.committed
        number = left if count is None else count
        sums = [0] * number if checksums is None else list(checksums)
        if not self.slots and not number and not sums:  # there was no room, or no need
            return True
        last = number == left
        self._check(number, sums, last=last)
        if not number:
            return True
        self.committed += number
        if last:
            self._over = True  # no copy begins any more
        done = await self._backend.commit(self._number, sums, last=last)
        if done and last:
            self._ended = True
        elif not done:
            # What copies hold is given back when they have ended, and not before.
            self._over = True
            self._end_if_free()
        return done

    def _check(self, number: int, sums: Sequence[int], *, last: bool) -> None:
        if self._over:
            raise UsageError(f"{self!r} cannot be committed any more: it was committed or released")
        left = len(self.slots) - self.committed
        if not 0 <= number <= left or len(sums) != number:
            raise UsageError(f"{self!r} has {left} chunks to commit, not {number}")
        if not all(0 <= each < 1 << 64 for each in sums):
            raise UsageError("a checksum is an unsigned number of 64 bits")
        if last and self._holds > self._following:
            raise UsageError(
                f"{self!r} has a hold, so a copy into it may not have ended; release the hold "
                "before the last commit, or tell it what to follow"
            )

    def _end(self) -> None:
        self._backend.abort(self._number)

    def _finalizer(self) -> Callable[[], None]:
        backend, number = self._backend, self._number
        return lambda: backend.abort(number)


class Opening(Generic[T]):
    """A handle that is asked for: ``await`` it, or use it with ``async with``, once."""

    __slots__ = ("_ask", "_handle")

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._ask = ask
        self._handle: T | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self._ask().__await__()

    async def __aenter__(self) -> T:
        self._handle = await self._ask()
        return self._handle

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            self._handle.release()
