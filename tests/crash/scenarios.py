"""The scenes of the crash tests: the state of the cache, and the holder of the lease."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ajit._cache.leases.holder import HolderRecord, write_record
from tests.crash.sources import BROKEN, BROKEN_WITH_HEADER, HEADERS, KERNEL, WITH_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["SCENARIOS", "HeldLock", "Keys", "Scenario", "lock_of"]

LONG_SECONDS = 300.0
"""Longer than any test: a wait that long is a hang."""

WATCH_SECONDS = 0.2
"""Between two looks of a waiter; shorter than ajit's own, to save time."""


@dataclass(frozen=True)
class Keys:
    """What the files of one source are named after.

    Attributes:
        base: The base key: of lock, failure record and reading lists.
        entry: The entry's key; "" if the compiler rejects the source.
    """

    base: str
    entry: str = ""


@dataclass(frozen=True)
class Scenario:
    """One way through the protocol.

    Attributes:
        name: What the cache is like, and what happens.
        source: What is asked for.
        thread: Whose calls are made to fail.
        tier: Where the kernel comes from if nothing fails; "" if the compiler rejects the source.
        entry: The entry at first: ``none``, ``good`` or ``bad``; "" if there is no cache at all.
        reads: Likewise its reading list; "" if it is as the entry is. Only a source that includes
            a header has one.
        failed: Whether there is a record of the source's failure at first.
        held: Whether another process holds the lease at first.
        lets_go: Whether it gives the lease back once the process says that it waits.
        patience_seconds: Of the process.
        opening: Whether the calls that open the cache are made to fail, too. They are the same in
            every cache that is there.
        lease: The setting.
        most_missed: Share of the faults that may not happen where they should: on a busy machine a
            process whose waits end by the clock makes a call more or less.
    """

    name: str
    source: str = KERNEL
    thread: str = "worker"
    tier: str = "compiled"
    entry: str = "none"
    reads: str = ""
    failed: bool = False
    held: bool = False
    lets_go: bool = False
    patience_seconds: float = LONG_SECONDS
    opening: bool = False
    lease: str = "locks"
    most_missed: float = 0.0

    def order(self, cache_dir: Path) -> dict[str, Any]:
        """The orders that the process gets."""
        return {
            "do": "resolve",
            "source": self.source,
            "include_dirs": [str(HEADERS)] if "#include" in self.source else [],
            "cache_dir": str(cache_dir),
            "patience_seconds": self.patience_seconds,
            "watch_seconds": WATCH_SECONDS,
            "lease": self.lease,
        }

    def prepare(self, cache_dir: Path, warm: Path, keys: Keys) -> None:
        """Make the cache, from a copy of one that has a good entry and its list."""
        if not self.entry:
            return
        shutil.copytree(warm, cache_dir)
        failure = failure_of(cache_dir, keys.base)
        if keys.entry:
            spoil(entry_of(cache_dir, keys.entry), self.entry)
            for reading_list in lists_of(cache_dir, keys.base):
                spoil(reading_list, self.reads or self.entry)
        if self.failed:  # just now: a record is believed for a short time only
            record = json.loads(failure.read_text())
            failure.write_text(json.dumps(record | {"created": time.time()}))
        else:
            failure.unlink(missing_ok=True)

    @contextlib.contextmanager
    def holder(self, cache_dir: Path, base: str) -> Iterator[HeldLock | None]:
        """Hold the lease, if this scenario wants that."""
        if not self.held:
            yield None
            return
        held = HeldLock(lock_of(cache_dir, base))
        try:
            yield held
        finally:
            held.let_go()


class HeldLock:
    """A lease in the hands of this process, with a record and no beat: a holder that stands still.

    Args:
        path: The lock file; nothing else in this process opens it.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_record(self._fd, _a_record())

    def let_go(self) -> None:
        """Give it back. Again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _a_record() -> HolderRecord:
    now = time.time()
    return HolderRecord(
        host="elsewhere",
        boot_id="",
        pid=1,
        start_ticks=0,
        phase="compiling",
        compiler="stand-in",
        started=now,
        beat=1,
        beat_time=now,
    )


def spoil(path: Path, how: str) -> None:
    """Make a good file one that is ``none`` or ``bad``."""
    if how == "none":
        path.unlink()
    elif how == "bad":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def lists_of(cache_dir: Path, base: str) -> list[Path]:
    """Return the reading lists of a base key."""
    return [*(cache_dir / "reads" / base[:2] / base).glob("*")]


def entry_of(cache_dir: Path, key: str) -> Path:
    """Return the file of an entry."""
    return cache_dir / "entries" / key[:2] / f"{key}.ajit"


def failure_of(cache_dir: Path, key: str) -> Path:
    """Return the failure record of a base key."""
    return cache_dir / "failures" / key[:2] / f"{key}.json"


def lock_of(cache_dir: Path, key: str) -> Path:
    """Return the lock file of a base key."""
    return cache_dir / "locks" / key[:2] / f"{key}.lock"


SCENARIOS = [
    Scenario("no cache", entry="", opening=True),
    Scenario("good entry", entry="good", tier="disk", opening=True),
    Scenario("bad entry", entry="bad"),
    # Two looks at the holder, then its silence has been too long.
    # It is the deadline of calls on the cache as well, which a tracer makes slow.
    Scenario(
        "holder stands still", held=True, patience_seconds=WATCH_SECONDS * 2 / 3, most_missed=0.3
    ),
    Scenario("holder lets go", thread="helper", held=True, lets_go=True),
    Scenario(
        "by directory: no cache", entry="", lease="directory", patience_seconds=4.0, most_missed=0.1
    ),
    Scenario(
        "by directory: bad entry",
        entry="bad",
        lease="directory",
        patience_seconds=4.0,
        most_missed=0.1,
    ),
    # Not a holder that lets go: such a waiter polls, at random times, so its calls have no numbers.
    Scenario("source is rejected", source=BROKEN, tier=""),
    Scenario("source was rejected before", source=BROKEN, tier="", failed=True),
    Scenario("with a header: no cache", source=WITH_HEADER, entry=""),
    Scenario("with a header: good entry", source=WITH_HEADER, entry="good", tier="disk"),
    Scenario("with a header: bad entry", source=WITH_HEADER, entry="bad", reads="good"),
    # Its publisher has died between the two.
    Scenario("with a header: entry without list", source=WITH_HEADER, entry="good", reads="none"),
    Scenario("with a header: bad list", source=WITH_HEADER, entry="good", reads="bad"),
    Scenario("with a header: list without entry", source=WITH_HEADER, reads="good"),
    Scenario("with a header: rejected", source=BROKEN_WITH_HEADER, tier=""),
    Scenario("with a header: rejected before", source=BROKEN_WITH_HEADER, tier="", failed=True),
]
