"""The recorder of a runtime: what is used is written down, soon after it was first used.

The event loop only notes that a kernel was asked for, which costs two look-ups in dictionaries. A
thread makes the lines and writes them: a kernel's line right after its first use, the counts about
every `COUNTS_SECONDS` and at the end. So a process that is killed loses counts, and of kernels only
those that were used in the last milliseconds.

A record never fails a server. If it cannot be written, one `AjitWarning` says so.

A kernel that the record has already is only counted again, so that a record does not grow with each
start by all the sources.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

import anyio
import msgspec

from ajit._core.build import Build
from ajit._core.build_form import BUILD_KIND, RUN_KINDS, written_build
from ajit._core.record import Again, Record, Text, Use, encode_line, use_id
from ajit._core.record_seal import objection_to, sealed
from ajit._core.seal import NO_TRUST
from ajit._core.spec_form import SPEC_KIND, written_spec
from ajit._runtime.record_files import RecordFile, read_record
from ajit._system.guarded_calls import NoAnswer
from ajit._system.threads import DaemonThreads
from ajit._system.warn import warn_only
from ajit.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ajit._core.record import Line
    from ajit._core.seal import Trust
    from ajit._core.spec import Spec
    from ajit._resolve.services import Services

__all__ = [
    "COUNTS_SECONDS",
    "Recorder",
    "close_recorder",
    "is_recording",
    "keep_counts",
    "note_use",
]

COUNTS_SECONDS = 30.0
"""How often counts are written. Pretty arbitrary: they only say what matters most."""

_threads = DaemonThreads("ajit-record")


@dataclass(slots=True)
class _Used:
    """A kernel or a build that was used.

    Attributes:
        count: How often after the first time. Only the loop changes it.
        written: How many of these are written. Only the thread changes it.
        id: Its id; "" until its line was made, and for one that cannot be written.
    """

    count: int = 0
    written: int = 0
    id: str = ""


class _First(NamedTuple):
    """The first use of one kernel or build."""

    used: _Used
    what: Spec | Build
    peer: str
    arch: str
    first_use_seconds: float
    wait_seconds: float


class _Foreign(NamedTuple):
    """A use that an adapter tells of."""

    use: Use
    texts: Mapping[str, str]


class Recorder:
    """Writes the record of one runtime.

    Args:
        path: The record's folder.
        allow_unsafe: Read what is there although other users may write to it.
        trust: What builds are sealed with, and what is asked of those that are there.
    """

    def __init__(self, path: str, *, allow_unsafe: bool, trust: Trust = NO_TRUST) -> None:
        self._trust = trust
        self._path, self._allow_unsafe = Path(path).expanduser().absolute(), allow_unsafe
        self._begun = time.monotonic()
        # The loop's; the thread reads a copy of its values.
        self._used: dict[tuple[Spec | Build, str], _Used] = {}
        self._loaded: dict[Spec, _Used] = {}
        self._queue: SimpleQueue[_First | _Foreign] = SimpleQueue()
        # Held by the thread that writes, and for as long as the disk takes.
        self._writing = threading.Lock()
        self._file = RecordFile(self._path)
        self._known: set[str] | None = None
        self._texts: set[str] = set()
        self._broken = False
        _open.add(self)

    # --- the event loop's side

    def again(self, spec: Spec) -> None:
        """Count a request for a kernel that is loaded. Of the hot path: it does nothing else."""
        used = self._loaded.get(spec)
        if used is not None:
            used.count += 1

    def used(self, spec: Spec, arch: str, wait_seconds: float, *, loaded: bool) -> None:
        """Note a request that was answered.

        Args:
            spec: What was asked for.
            arch: What it was compiled for.
            wait_seconds: How long the request waited.
            loaded: Whether it is on the device, so that `again` may come.
        """
        used = self._note(spec, "", arch, wait_seconds)
        if loaded:
            self._loaded[spec] = used

    def used_build(self, build: Build, peer: str, arch: str, wait_seconds: float) -> None:
        """Note a request for a build that was answered.

        Args:
            build: What was asked for.
            peer: Whose it is; "" is the server's own.
            arch: That of the device, or "".
            wait_seconds: How long the request waited.
        """
        self._note(build, peer, arch, wait_seconds)

    def _note(self, what: Spec | Build, peer: str, arch: str, wait_seconds: float) -> _Used:
        used = self._used.get((what, arch))
        if used is None:
            used = self._used[what, arch] = _Used()
            since = time.monotonic() - self._begun
            first = max(0.0, since - wait_seconds)
            self._put(_First(used, what, peer, arch, first, wait_seconds))
        else:
            used.count += 1
        return used

    # --- any thread

    def note(self, use: Use, texts: Mapping[str, str]) -> None:
        """Note a use of another kind."""
        since = time.monotonic() - self._begun
        first = max(0.0, since - use.wait_seconds)
        self._put(_Foreign(_with(use, first_use_seconds=first), texts))

    def write(self) -> None:
        """Write all that there is to write. Blocks."""
        with self._writing:
            if not self._broken:
                self._guarded_write()

    def close(self) -> None:
        """Write the rest, and close the file. Blocks."""
        _open.discard(self)
        self.write()
        with self._writing:
            self._broken = True
            self._file.close()

    def _put(self, item: _First | _Foreign) -> None:
        self._queue.put(item)
        # Without a thread it is written with the counts, or at the end.
        try:
            _threads.run(self._write_first_uses)
        except RuntimeError:
            return

    # --- the thread's side

    def _write_first_uses(self) -> None:
        if self._queue.empty():
            return  # the thread before has written it as well
        with self._writing:
            if not self._broken:
                self._guarded_write(counts=False)

    def _guarded_write(self, *, counts: bool = True) -> None:
        try:
            if self._known is None:
                self._known = self._read_known()
            lines = list(self._first_uses())
            if counts:
                lines += self._counts()
            self._file.append(map(encode_line, lines))
        except (OSError, RecordError) as exc:
            self._broken = True
            self._file.close()
            warn_only(f"the kernels that are used are no longer recorded in {self._path}: {exc}")

    def _read_known(self) -> set[str]:
        """What the record has already.

        Raises:
            RecordError: It is a file, or others may write to it.
            OSError: It cannot be read.
        """
        if self._path.is_file():
            raise RecordError(
                path=str(self._path),
                reason="it is a file, and a record that is written is a folder",
                hint="replay the file, and record into a folder",
            )
        try:
            record = read_record(self._path, allow_unsafe=self._allow_unsafe)
        except FileNotFoundError:
            record = Record()
        self._texts.update(record.texts)
        return {use.id for use in record.uses.values() if self._is_good(use, record)}

    def _is_good(self, use: Use, record: Record) -> bool:
        """Whether it need not be written again: this process would replay it."""
        doubtful = record.is_doubtful(use)
        return use.kind not in RUN_KINDS or not objection_to(use, self._trust, doubtful=doubtful)

    def _first_uses(self) -> Iterator[Line]:
        while True:
            try:
                item = self._queue.get_nowait()
            except Empty:
                return
            try:
                use, texts = _use_of(item) if isinstance(item, _First) else (item.use, item.texts)
                yield from self._lines_of(use, texts)
            except UnicodeEncodeError:
                warn_only(f"a kernel with a path that is no UTF-8 is not recorded: {item!r:.200}")

    def _lines_of(self, use: Use, texts: Mapping[str, str]) -> Iterator[Line]:
        assert self._known is not None  # read before the first line
        if use.id in self._known:
            yield Again(id=use.id, count=use.count, last_used=use.last_used)
            return
        if use.kind in RUN_KINDS:
            use = sealed(use, self._trust)
        encode_line(use)  # raises before anything of it is written
        for digest, text in texts.items():
            if digest not in self._texts:
                self._texts.add(digest)
                yield Text(digest, text)
        self._known.add(use.id)
        yield use

    def _counts(self) -> Iterator[Line]:
        now = float(round(time.time()))
        for used in list(self._used.values()):
            count = used.count
            if count > used.written and used.id:
                yield Again(id=used.id, count=count - used.written, last_used=now)
                used.written = count


_open: weakref.WeakSet[Recorder] = weakref.WeakSet()


def is_recording() -> bool:
    """Whether `note_use` has any effect in this process."""
    return bool(_open)


def note_use(
    kind: str,
    peer: str,
    name: str,
    arch: str,
    build: bytes,
    *,
    texts: Mapping[str, str] | None = None,
    wait_seconds: float = 0.0,
) -> None:
    """Note, in every record of this process, that a kernel of another kind was used. Any thread.

    For adapters. Does not block, and costs next to nothing where nothing is recorded.

    Args:
        kind: What the build is; `ajit._runtime.replay.register_kind` says who replays it.
        peer: Whose kernel it is, such as ``triton``.
        name: A label.
        arch: What it was compiled for.
        build: How to build it again: one JSON value, the same bytes for the same kernel.
        texts: Long texts that it names by their SHA-256 in hex.
        wait_seconds: How long it was waited for.
    """
    recorders = list(_open)
    if recorders:
        use = _made(kind, peer, name, arch, build, wait_seconds)
        for recorder in recorders:
            recorder.note(use, texts or {})


async def keep_counts(services: Services, recorder: Recorder) -> None:
    """Write the counts of a record at intervals, until cancelled."""
    while True:
        await anyio.sleep(COUNTS_SECONDS)
        with suppress(NoAnswer):
            await services.in_thread(recorder.write, seconds=COUNTS_SECONDS)


async def close_recorder(services: Services, recorder: Recorder) -> None:
    """Write the rest of a record. Waits for a slow disk, but not long."""
    with suppress(NoAnswer):
        await services.in_thread(recorder.close, seconds=services.seconds_left())


def _use_of(item: _First) -> tuple[Use, dict[str, str]]:
    what = item.what
    if isinstance(what, Build):
        kind, (build, texts) = BUILD_KIND, written_build(what)
    else:
        kind, (build, texts) = SPEC_KIND, written_spec(what)
    use = _made(kind, item.peer, what.name, item.arch, build, item.wait_seconds)
    item.used.id = use.id
    return _with(use, first_use_seconds=item.first_use_seconds), texts


def _made(kind: str, peer: str, name: str, arch: str, build: bytes, wait_seconds: float) -> Use:
    return Use(
        kind=kind,
        id=use_id(kind, peer, arch, build),
        peer=peer,
        name=name,
        arch=arch,
        wait_seconds=round(wait_seconds, 6),
        last_used=float(round(time.time())),
        build=msgspec.Raw(build),
    )


def _with(use: Use, *, first_use_seconds: float) -> Use:
    return msgspec.structs.replace(use, first_use_seconds=round(first_use_seconds, 6))


# The file of a record is its process's: a child must not write into it.
os.register_at_fork(after_in_child=_open.clear)
