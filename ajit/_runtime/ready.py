"""Readiness: a server's kernels are made ready, on all of its ranks, and an endpoint says how far.

The work goes on in the runtime, and `Readiness` watches it. It is an ASGI application as well, with
no framework: mount it where a load balancer or an orchestrator asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import msgspec

from ajit._core.factory import FactoryMade
from ajit._core.readiness import State
from ajit._core.short_repr import short_repr
from ajit._runtime.terms import checked_work
from ajit._runtime.warmer import ranks_of
from ajit._system.exceptions import copy_of
from ajit.errors import RanksNotReady

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    from ajit._core.events import WarmupProgress
    from ajit._core.spec import Spec
    from ajit._runtime.rank_group import RankGroup
    from ajit._runtime.ranks import RankStatus
    from ajit._runtime.runtime import Runtime
    from ajit._runtime.warmup import WarmupReport
    from ajit._runtime.work import Work

__all__ = ["Readiness", "ReadinessStatus", "ready"]

Message: TypeAlias = "MutableMapping[str, Any]"
Receive: TypeAlias = "Callable[[], Awaitable[Message]]"
Send: TypeAlias = "Callable[[Message], Awaitable[None]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessStatus:
    """How far a server is.

    Attributes:
        ready: Whether all ranks have everything. It stays so.
        ranks: What each rank is to this one, this one included.
        missing: Those that have not everything yet, or never will.
        error: Why this rank's warm-up was broken off, or "".
    """

    ready: bool
    ranks: tuple[RankStatus, ...]
    missing: tuple[RankStatus, ...]
    error: str = ""

    def __repr__(self) -> str:
        return short_repr(self)


def ready(
    runtime: Runtime,
    specs: Iterable[Spec | Work] | Work,
    *,
    on_progress: Callable[[WarmupProgress], None] | None = None,
) -> Readiness:
    """Begin to make kernels ready, on all ranks of a server, and return what says how far it is.

    Call it in the runtime's event loop. The work goes on in the background, whether or not anybody
    waits for it, until it is done or the runtime is closed.

    Args:
        runtime: Of this rank.
        specs: What to make ready, as for `Runtime.warmup`. The ranks are those that it names; where
            it names none, this process is the only one.
        on_progress: Called in the event loop after each kernel; must not block.

    Raises:
        SpecError: Something is neither a spec nor other work; nothing was started.
        UsageError: Several sets of ranks are named; nothing was started.
    """
    works = checked_work(specs)
    runtime._check_usable()  # noqa: SLF001  # its other half
    warmer = runtime._warmer  # noqa: SLF001  # the same
    group = warmer.join(works, ranks_of(works))
    made = Readiness.make(runtime, group)

    async def work() -> None:
        made._finish(await warmer.warm_up(works, on_progress, group))  # noqa: SLF001  # the same

    warmer.begin(work, made._fail)  # noqa: SLF001  # the same
    return made


class Readiness(metaclass=FactoryMade, factory="ajit.ready()"):
    """Says whether a server is ready. Get it from `ajit.ready`.

    Called as an ASGI application it answers every request: 200 once all ranks are ready, 503 until
    then, with a JSON object that has ``ready``, ``ranks``, ``error``, and in ``missing`` for each
    rank that is waited for its ``rank``, ``standing``, ``host``, ``pid``, ``done``, ``total`` and
    ``detail``.
    """

    def __init__(self, runtime: Runtime, group: RankGroup) -> None:
        self._runtime, self._group = runtime, group
        self._done = anyio.Event()
        self._report: WarmupReport | None = None
        self._error: Exception | None = None

    @property
    def is_ready(self) -> bool:
        """Whether all ranks have everything. It stays so."""
        return self._group.state is State.READY

    async def wait(self) -> WarmupReport:
        """Wait until all ranks have everything; return what this one has done.

        Raises:
            RanksNotReady: A rank is dead, silent or missing, or could not make its kernels ready;
                this one may be the rank. Raised as soon as that is known; the work of this rank
                goes on, and it may be waited for again, in a loop: after it was raised, it is
                raised again once there is news (another rank, another process of it, or another
                standing), or after ``patience_seconds``.
            RecordError: A record cannot be read; nothing was made ready.
            RuntimeClosed: The runtime was closed meanwhile.

        Cancelling only ends this wait.
        """
        try:
            await self._group.wait_ready()
        except RanksNotReady:
            self._runtime._check_usable()  # noqa: SLF001  # closing, this rank leaves
            if self._error is not None:
                raise copy_of(self._error) from None
            raise
        await self._done.wait()
        assert self._report is not None  # no rank is ready before its warm-up has ended
        return self._report

    def status(self) -> ReadinessStatus:
        """Return how far it is. Any thread may call this."""
        ranks = tuple(self._group.status())
        is_ready = self.is_ready
        missing = () if is_ready else tuple(one for one in ranks if one.standing != "ready")
        error = "" if self._error is None else str(self._error)
        return ReadinessStatus(ready=is_ready, ranks=ranks, missing=missing, error=error)

    async def __call__(
        self,
        scope: Message,
        receive: Receive,
        send: Send,
    ) -> None:
        """Answer a request, as an ASGI application."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, send)

    async def _answer(
        self,
        scope: Message,
        send: Send,
    ) -> None:
        status = self.status()
        body = msgspec.json.encode(
            {
                "ready": status.ready,
                "ranks": len(status.ranks),
                "missing": status.missing,
                "error": status.error,
            }
        )
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if not status.ready:
            headers.append((b"retry-after", b"1"))
        code = 200 if status.ready else 503
        await send({"type": "http.response.start", "status": code, "headers": headers})
        body = b"" if scope.get("method") == "HEAD" else body
        await send({"type": "http.response.body", "body": body})

    def _finish(self, report: WarmupReport) -> None:
        self._report = report
        self._done.set()

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._done.set()

    def __repr__(self) -> str:
        status = self.status()
        waits = ", ".join(str(one.rank) for one in status.missing)
        return f"<Readiness {'ready' if status.ready else f'waiting for ranks {waits}'}>"


async def _live(
    receive: Receive,
    send: Send,
) -> None:
    """Take part in the life of a server that has nothing but this application."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
