"""Notes the compiles of one runtime in the history of its cache (`ajit._cache.entries.history`).

The event loop only collects lines. A task has them written by a thread that the file system may
hang: then they are lost, and requests notice nothing. A compile that takes a second gets a line at
that time already, and another whenever that time has doubled: so one whose process is killed is in
the history as well, and what is said of its time is more than half of it.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from ajit._cache.entries.history import Compiled, append_history
from ajit._core import events
from ajit._runtime.board_view import program_name
from ajit._runtime.log_lines import first_error
from ajit._system.guarded_calls import NoAnswer
from ajit._system.process import this_process
from ajit.errors import CacheError

if TYPE_CHECKING:
    from ajit._cache.entries.history import Outcome
    from ajit._resolve.services import Services

__all__ = ["History"]

GATHER_SECONDS = 1.0
"""For how long lines are gathered: a start with hundreds of kernels is written in a few steps, and
beside none of them."""

WRITE_SECONDS = 10.0
"""How long a write may take, beside requests."""

CLOSE_SECONDS = 0.5
"""The same when the runtime closes. Pretty arbitrary: what is not written then is lost."""

RUNNING_SECONDS = 1.0
"""A compile that has run for so long, twice as long, and so on, is noted before its end."""

MOST_PENDING = 1000
"""Lines that wait for a slow disk; those that come then are lost."""

MOST_NAME = 200
MOST_LOG = 4096
"""Characters of a name or reason, and of a log."""

_OUTCOMES: dict[str, Outcome] = {
    "CompileTimeout": "timed out",
    "CompilerStalled": "timed out",
    "CompilerCrashed": "crashed",
    "RuntimeClosed": "cancelled",
}
"""By the error's class; any other is ``failed``."""


class History:
    """Writes one runtime's compiles. Belongs to its event loop.

    Args:
        services: The runtime's.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._pending: list[Compiled] = []
        self._news = anyio.Event()
        self._under_way: dict[str, Compiled] = {}
        self._next_note: dict[str, float] = {}
        self._number = 0
        us = this_process()
        self._whose: dict[str, Any] = {
            "host": us.host,
            "pid": us.pid,
            "namespace": us.namespace,
            "start_ticks": us.start_ticks,
            "boot_id": us.boot_id,
            "program": program_name(),
        }

    def __call__(self, event: events.Event) -> None:
        """Note an event. Does not block."""
        match event:
            case events.CompileStarted():
                self._begin(event)
            case events.CompileRunning(seconds=seconds):
                if seconds >= self._next_note.get(event.key, RUNNING_SECONDS):
                    self._next_note[event.key] = 2 * seconds
                    self._note(event, "running", seconds=seconds)
            case events.CompileFinished():
                facts = {"seconds": event.seconds, "queued_seconds": event.queued_seconds}
                self._end(event, "compiled", **facts, size_bytes=event.size_bytes)
            case events.CompileFailed():
                outcome = _OUTCOMES.get(event.error_type, "failed")
                self._end(event, outcome, seconds=event.seconds, **_error(event))
            case events.CompileCancelled():
                self._end(event, "cancelled", seconds=event.seconds)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._news.wait()
            await anyio.sleep(GATHER_SECONDS)
            self._news = anyio.Event()
            await self._write(WRITE_SECONDS)

    async def aclose(self) -> None:
        """Write what is left, if that does not take long."""
        if self._pending:
            await self._write(CLOSE_SECONDS)

    def _begin(self, event: events.CompileStarted) -> None:
        self._number += 1
        us = this_process()
        self._next_note.pop(event.key, None)
        self._under_way[event.key] = Compiled(
            id=f"{us.file_prefix}.{id(self):x}.{self._number}",
            unix_seconds=event.unix_seconds,
            name=_cut(event.name),
            entry=_cut(event.entry),
            key=event.key,
            compiler=_cut(event.compiler),
            arch=event.arch,
            reason=_cut(event.reason),
            **self._whose,
        )

    def _end(self, event: events.Event, outcome: Outcome, **facts: Any) -> None:
        self._note(event, outcome, **facts)
        self._under_way.pop(event.key, None)
        self._next_note.pop(event.key, None)

    def _note(self, event: events.Event, outcome: Outcome, **facts: Any) -> None:
        begun = self._under_way.get(event.key)
        if begun is None or len(self._pending) >= MOST_PENDING:
            return
        facts |= {"outcome": outcome, "unix_seconds": event.unix_seconds}
        self._pending.append(msgspec.structs.replace(begun, **facts))
        self._news.set()

    async def _write(self, seconds: float) -> None:
        lines, self._pending = self._pending, []
        services = self._services
        directory, limit = services.store.directory, services.settings.history_limit_bytes
        if services.guard.is_open or directory.access != "writable":
            return  # that is told elsewhere
        begun = time.monotonic()
        try:
            await services.in_thread(
                partial(append_history, directory, lines, limit), seconds=seconds, lane="history"
            )
        except (NoAnswer, OSError, CacheError, RuntimeError) as exc:
            after = f" after {time.monotonic() - begun:.1f} s" if isinstance(exc, NoAnswer) else ""
            services.tell_background("history", f"{getattr(exc, 'strerror', None) or exc}{after}")


def _error(event: events.CompileFailed) -> dict[str, str]:
    first, _, log = event.error.partition("\n")
    error = first_error(event.error) or first
    return {"error_type": event.error_type, "error": _cut(error), "log": _fit(log[:MOST_LOG])}


def _cut(text: str) -> str:
    return _fit(text[:MOST_NAME])


def _fit(text: str) -> str:
    """In UTF-8: what a compiler prints may have anything else."""
    return text.encode(errors="replace").decode()
