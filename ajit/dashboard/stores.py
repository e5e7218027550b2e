"""KV stores as rows of the page: those of this process, and the service of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import anyio

from ajit.dashboard.snapshot import KvRow, Level, short
from ajit.kv.client import watch

if TYPE_CHECKING:
    from pathlib import Path

    from ajit.kv import StoreStatistics

__all__ = ["Countable", "service_rows", "store_row"]

ANSWER_SECONDS = 3.0
"""How long the service may take to answer."""


class Countable(Protocol):
    """What counts as a KV store."""

    def statistics(self) -> StoreStatistics:
        """What it holds, and what has happened so far."""


def store_row(name: str, store: Countable) -> KvRow:
    """Return the row of a store of this process."""
    counts = store.statistics()
    return KvRow(
        name=short(name),
        level="warning" if counts.problem else "quiet",
        text=short(counts.problem or "in this process"),
        used_bytes=counts.used_bytes,
        limit_bytes=counts.limit_bytes,
        chunks=counts.chunks,
        clients=counts.owners,
        found=counts.chunks_found,
        missed=counts.chunks_wanted - counts.chunks_found,
    )


def service_rows(socket: Path) -> tuple[KvRow, ...]:
    """Ask the KV service at a socket. No row if there is no such socket; blocks.

    Not to be called in an event loop: it runs one of its own.
    """
    if not socket.is_socket():
        return ()
    values = anyio.run(_ask, socket)
    name = short(f"service at {socket}")
    if values is None:
        return (_silent(name),)
    return (_service(name, values),)


async def _ask(socket: Path) -> dict[str, Any] | None:
    async with watch(socket, timeout=ANSWER_SECONDS) as store:
        return await store.service_statistics()


def _service(name: str, values: dict[str, Any]) -> KvRow:
    problem = str(values.get("problem", ""))
    lag = float(values.get("longest_lag_seconds", 0.0))
    level: Level = "warning" if problem else "quiet"
    return KvRow(
        name=name,
        level=level,
        text=short(problem or f"answers; its loop was at most {lag:.2f} s late"),
        used_bytes=int(values.get("used_bytes", 0)),
        limit_bytes=int(values.get("limit_bytes", 0)),
        chunks=int(values.get("chunks", 0)),
        clients=int(values.get("clients", 0)),
        found=int(values.get("chunks_found", 0)),
        missed=int(values.get("chunks_wanted", 0)) - int(values.get("chunks_found", 0)),
    )


def _silent(name: str) -> KvRow:
    text = f"does not answer within {ANSWER_SECONDS:.0f} s, or no service listens there"
    return KvRow(name=name, level="bad", text=text)
