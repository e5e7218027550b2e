"""The cache as a launcher uses it. Each call on it has a deadline: no build waits for a disk.

`CacheGone` is raised for all that keeps it from being used; the compile then goes on without it.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ajit._cache.entries.disk import DiskStore, Found, Lost, Published
from ajit._cache.entries.failures import FailureStore
from ajit._cache.entries.lists import ListStore
from ajit._cache.entries.node_digests import NodeDigests
from ajit._cache.files import fs
from ajit._cache.files.directory import configured_path, open_configured_cache
from ajit._cache.files.trust import load_trust
from ajit._cache.leases.table import LeaseTable
from ajit._compile.recorder.digests import digests
from ajit._compile.recorder.today import Budget, states_today
from ajit._core.reads import entry_key
from ajit._launcher.memos import is_swept, sweep_memos
from ajit._launcher.outputs import OutputsInvalid, Section, unpack
from ajit._launcher.tally import compact, tally
from ajit._system.guarded_calls import NoAnswer, guarded_calls
from ajit.errors import AjitError, CompileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._core.entry import Artifact
    from ajit._core.reads import Read, ReadingList
    from ajit._launcher.base import Wanted
    from ajit.settings import Settings

__all__ = ["CacheGone", "Hit", "LauncherCache"]

T = TypeVar("T")

TOP = "launcher"

CALL_SECONDS = 3.0
"""The most that one call may take. Pretty arbitrary: less than a server's patience, since a build
has hundreds of compiles."""

COLLECT_WORK_SECONDS = 1.0


class CacheGone(Exception):
    """The cache cannot be used. Nothing was lost but work."""


class Hit(NamedTuple):
    """A result that was found.

    Attributes:
        key: Its hex key.
        sections: Its outputs.
        reads: What led to it.
        states: The states of these.
    """

    key: str
    sections: list[Section]
    reads: tuple[Read, ...]
    states: tuple[str, ...]


class LauncherCache:
    """One cache, opened.

    Args:
        settings: The settings.

    Raises:
        CacheGone: It cannot be opened, or does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._seconds = min(settings.patience_seconds, CALL_SECONDS)
        self.path = configured_path(settings)
        self._calls = guarded_calls(self.path)
        self.directory = self.ask(partial(open_configured_cache, settings))
        if self.directory.access == "none":
            raise CacheGone(self.directory.problem)
        with suppress(CacheGone):  # it cannot be written
            self.ask(self._make_own)
        self.trust = self.ask(partial(load_trust, settings))
        limit = settings.compile_output_limit_bytes
        self.store = self.ask(partial(DiskStore, self.directory, self.trust, limit))
        self.lists = ListStore(self.directory)
        self.failures = FailureStore(self.directory, settings.failure_seconds, self.trust)
        self.leases = LeaseTable(self.directory, self.trust)
        self._node = NodeDigests(self.directory, self.trust)
        digests.attach(self._node)

    def ask(self, function: Callable[[], T], late: Callable[[T], object] | None = None) -> T:
        """Make a call that may hang.

        Raises:
            CacheGone: It was not answered, or failed.
        """
        try:
            return self._calls.call_blocking(function, seconds=self._seconds, late=late)
        except (NoAnswer, OSError, AjitError) as exc:
            raise CacheGone(str(exc)) from exc

    def _make_own(self) -> None:
        """Make the launcher's own directory; its counts are written without another look."""
        try:
            self.directory.folders.get(TOP)
        except FileNotFoundError:
            self.directory.make(TOP)

    @property
    def can_keep(self) -> bool:
        """Whether results can be kept here."""
        return self.directory.access == "writable" and self.trust.can_keep

    def look(self, wanted: Wanted) -> Hit | None:
        """Look for a result.

        Raises:
            CacheGone: See there.
        """
        return self.ask(partial(self.look_now, wanted))

    def look_now(self, wanted: Wanted) -> Hit | None:
        """The same, in a thread that may hang."""
        base, budget = wanted.base.hex, Budget()
        for digest, found in self.lists.lists(base):
            states = states_today(found.reads, wanted.places, budget)
            if states is None:
                continue
            key = entry_key(base, digest, states)
            lookup = self.store.read(key)
            if not isinstance(lookup, Found) or lookup.artifact.kind != "outputs":
                continue
            try:
                sections = unpack(lookup.artifact.data, key)
            except OutputsInvalid:
                continue
            self.lists.used(base, digest)
            return Hit(key, sections, found.reads, states)
        return None

    def lease_key(self, wanted: Wanted) -> str:
        """Return what a compile is leased under: its base, or that of its own directories.

        Where results of a base are known to belong to directories, those of other directories are
        of no use, and who wants them must not wait in turn for each other.

        Raises:
            CacheGone: See there.
        """
        return self.ask(partial(self.lease_key_now, wanted))

    def lease_key_now(self, wanted: Wanted) -> str:
        """The same, in a thread that may hang."""
        base = wanted.base.hex
        reads = (read for _, found in self.lists.lists(base) for read in found.reads)
        bound = {read.place for read in reads if read.kind == "same"}
        if not bound:
            return base
        own = map(":".join, wanted.places.traces(b"", bound))
        return entry_key(base, "directories", sorted(own))

    def publish(self, artifact: Artifact, made: ReadingList) -> bool:
        """Put a result there. Whether it is there now.

        Raises:
            CacheGone: See there.
        """
        result = self.ask(partial(self.store.publish, artifact))
        if not isinstance(result, Published | Lost):
            return False
        return not self.ask(partial(self.lists.publish, artifact.base, made))

    def publish_file(self, name: str, data: bytes) -> None:
        """Put a file of the launcher's own there, which a crash may tear.

        Raises:
            CacheGone: See there.
        """
        self.ask(partial(fs.publish_file, self.directory, name, data, replace=True, synced=False))

    def record_failure(
        self, error: CompileError, reads: tuple[Read, ...], states: tuple[str, ...]
    ) -> None:
        """Leave an error for those who wait.

        Raises:
            CacheGone: See there.
        """
        self.ask(partial(self.failures.record, error, reads, states))

    def failure(self, wanted: Wanted) -> CompileError | None:
        """Return the error of a compile that failed just now.

        Raises:
            CacheGone: See there.
        """
        return self.ask(partial(self.failure_now, wanted))

    def failure_now(self, wanted: Wanted) -> CompileError | None:
        """The same, in a thread that may hang."""
        states_of = partial(states_today, places=wanted.places)
        return self.failures.recall(wanted.base.hex, states_of)

    def count(self, what: str) -> None:
        """Count something. Never fails."""
        with suppress(CacheGone):
            self.ask(partial(tally, self.path, what))

    def close(self, *, collect: bool) -> None:
        """Write what was learned. Within seconds, whatever the disk does.

        Args:
            collect: Whether to keep the cache within its limits, if that is due.
        """
        self._node.close()
        if collect and self.can_keep:
            with suppress(CacheGone):
                self.ask(self._tidy)

    def _tidy(self) -> None:
        compact(self.path)
        if is_swept(self.directory):
            return
        sweep_memos(self.directory)
        from ajit._cache.entries.collector import (  # noqa: PLC0415  # 15 ms, once an hour
            Collector,
            Limits,
        )

        limits = Limits(
            max_bytes=self.settings.cache_limit_bytes,
            max_age_seconds=self.settings.cache_max_age_seconds,
            failure_seconds=self.settings.failure_seconds,
        )
        Collector(self.directory, limits, self.trust).collect(work_seconds=COLLECT_WORK_SECONDS)
