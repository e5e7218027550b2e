"""The feed of the live page: one snapshot a second, made in a thread, while it is asked for."""

from __future__ import annotations

import os
import platform
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from ajit import __version__
from ajit._printable import printable_line
from ajit.dashboard.background import Background, Seen
from ajit.dashboard.cache_reader import CacheReader
from ajit.dashboard.headline import headline_of
from ajit.dashboard.machine import process_rows, work_rows
from ajit.dashboard.past import log_rows
from ajit.dashboard.problems import merged, of_boards, of_history
from ajit.dashboard.rates import RateHistory
from ajit.dashboard.snapshot import CacheState, Snapshot, short
from ajit.dashboard.stores import service_rows
from ajit.dashboard.words import duration
from ajit.instrumentation import runtimes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ajit._cache.entries.holders import HeldLease
    from ajit.dashboard.snapshot import KvRow, Problem
    from ajit.settings import Settings

__all__ = ["TICK_SECONDS", "Feed"]

TICK_SECONDS = 1.0
"""Between two snapshots."""

LEASES_SECONDS = 15.0
"""What leases told is shown for so long. In a cache with many thousand of them looks are rare."""

HISTORY_SECONDS = 3.0
ENTRIES_SECONDS = 10.0
SERVICE_SECONDS = 3.0

SILENT_SECONDS = 10.0
"""A call on the cache that takes longer is said not to be answered."""

MOST_PROCESSES = 128
MOST_WORK = 128


class Feed:
    """Makes snapshots of all runtimes that use a cache, and of the cache.

    Args:
        settings: Returns which cache it is, and where boards are; called in threads.
        logs: Whether logs of compilers are shown.
        heard: Returns what the runtimes of this process have told; any thread.
        stores: Returns the KV stores of this process; likewise.
        kv_socket: Of the KV service that is shown if it is there; None for none.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        *,
        logs: bool,
        heard: Callable[[], Iterable[Problem]] = tuple,
        stores: Callable[[], Iterable[KvRow]] = tuple,
        kv_socket: Path | None = None,
    ) -> None:
        reader = CacheReader(settings)
        self._settings = settings
        self._logs = logs
        self._heard, self._stores = heard, stores
        self._rates = RateHistory()
        self._leases = Background(reader.leases, TICK_SECONDS, reader.close)
        self._history = Background(reader.history, HISTORY_SECONDS, reader.close)
        self._entries = Background(reader.entries, ENTRIES_SECONDS, reader.close)
        self._service = Background(partial(_service, kv_socket), SERVICE_SECONDS)
        self._encoded = Background(self._encode, TICK_SECONDS)
        self._read: dict[str, Background[Any]] = {
            "leases": self._leases, "history": self._history,
            "entries": self._entries, "service": self._service,
        }  # fmt: skip

    def latest(self) -> Seen[bytes]:
        """Return the last snapshot as JSON. Never blocks; asking keeps the feed going."""
        return self._encoded.latest()

    def is_fresh(self) -> bool:
        """Return whether the last snapshot is of now, and not from before a pause. Never blocks.

        What is read is asked for first, so that the first snapshot after a pause has it.
        """
        return not self.not_read() and self._encoded.is_fresh()

    def not_read(self) -> tuple[str, ...]:
        """Return what was not read since the last pause. Asks for it, too, and never blocks."""
        return tuple(name for name, one in self._read.items() if not one.is_fresh())

    def _encode(self) -> bytes:
        return msgspec.json.encode(self.snapshot())

    def snapshot(self) -> Snapshot:
        """Make one. Blocks for some milliseconds: it reads boards, which are in memory."""
        now, monotonic = time.time(), time.monotonic()
        settings = self._settings()
        not_read = self.not_read()
        views = runtimes(settings.cache_dir, board=settings.board)
        processes = process_rows(views, now)
        self._rates.note(now, [row for row in processes if row.state != "dead"])
        work = work_rows(views, self._held(monotonic))
        history = self._history.latest().value or ()
        failed = of_history(history, logs=self._logs)
        problems = merged(now, failed, self._heard(), of_boards(views))
        cache = self._cache(short(str(settings.cache_dir)), monotonic)
        kv = (*self._stores(), *(self._service.latest().value or ()))
        return Snapshot(
            version=__version__,
            host=short(platform.node()),
            pid=os.getpid(),
            unix_seconds=now,
            headline=headline_of(
                processes, work, cache, problems, kv, now, boards=settings.board != "off"
            ),
            processes=tuple(processes[:MOST_PROCESSES]),
            more_processes=max(0, len(processes) - MOST_PROCESSES),
            work=tuple(work[:MOST_WORK]),
            more_work=max(0, len(work) - MOST_WORK),
            cache=cache,
            rates=self._rates.rates(now),
            problems=problems,
            log=log_rows(history),
            kv=kv,
            not_read=not_read,
        )

    def _held(self, monotonic: float) -> tuple[HeldLease, ...]:
        """The leases that are held, unless that is known from too long ago."""
        seen = self._leases.latest()
        return seen.value or () if monotonic - seen.at < LEASES_SECONDS else ()

    def _cache(self, path: str, monotonic: float) -> CacheState:
        seen = self._entries.latest()
        state = seen.value or CacheState(path=path)
        looked = monotonic - seen.at if seen.value is not None else None
        problem = seen.problem
        silent = max(one.silent_seconds for one in (self._entries, self._leases, self._history))
        if silent > SILENT_SECONDS:
            problem = f"its file system has not answered for {duration(silent)}"
        return msgspec.structs.replace(
            state, looked_seconds=looked, problem=printable_line(problem)
        )


def _service(socket: Path | None) -> tuple[KvRow, ...]:
    return () if socket is None else service_rows(socket)
