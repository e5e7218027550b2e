"""What a runtime counts means one thing each."""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import TYPE_CHECKING

import anyio
import pytest

import ajit
from ajit import events
from ajit._cache.files import fs
from ajit._cache.files.troubles import Troubles
from ajit._resolve import upkeep
from tests.runtime.sources import ARCH, SYNTAX_ERROR, saxpy

if TYPE_CHECKING:
    from pathlib import Path

    from ajit._cache.files.troubles import Doing

pytestmark = pytest.mark.anyio

COUNT = 10


def entries_of(cache_dir: Path) -> list[Path]:
    """The files of the entries."""
    return sorted(cache_dir.glob("entries/*/*.ajit"))


def make_old(file: Path) -> int:
    """Let a file be unused for two hours, and return its size."""
    long_ago = time.time() - 7200
    os.utime(file, (long_ago, long_ago))
    return file.stat().st_size


async def test_each_cold_kernel_is_one_miss(options):
    """However often its walk looks: at first, under the lease, and before it publishes."""
    async with ajit.open_runtime(**options) as rt:
        for number in range(COUNT):
            await rt.compile(saxpy(number), arch=ARCH)
        counted = rt.statistics()

    disk = counted.disk
    assert (counted.compiled, disk.missing, disk.published) == (COUNT, COUNT, COUNT)
    assert (disk.found, disk.rejected) == (0, 0)


async def test_each_bad_entry_is_one_rejection_one_event_and_no_miss(options, cache_dir):
    """It is met by three looks of its walk."""
    async with ajit.open_runtime(**options) as rt:
        for number in range(COUNT):
            await rt.compile(saxpy(number), arch=ARCH)
    for entry in entries_of(cache_dir):
        entry.chmod(0o600)
        entry.write_bytes(entry.read_bytes()[:-1] + b"\0\0")
    rejected: list = []

    def note(event: events.Event) -> None:
        if isinstance(event, events.EntryRejected):
            rejected.append(event.key)

    async with ajit.open_runtime(subscribers=[note], **options) as rt:
        for number in range(COUNT):
            await rt.compile(saxpy(number), arch=ARCH)
        counted = rt.statistics().disk

    assert (counted.rejected, counted.missing, counted.found) == (COUNT, 0, 0)
    assert len(rejected) == len(set(rejected)) == COUNT


async def test_times_of_compiles_are_added_up_here_and_as_saved_at_the_next_start(options):
    """So an operator sees what the cache is worth."""
    async with ajit.open_runtime(**options) as rt:
        artifacts = [await rt.compile(saxpy(number), arch=ARCH) for number in range(3)]
        first = rt.statistics()
    async with ajit.open_runtime(**options) as rt:
        for number in range(3):
            await rt.compile(saxpy(number), arch=ARCH)
        second = rt.statistics()

    spent = sum(artifact.seconds for artifact in artifacts)
    assert first.compile_seconds == pytest.approx(spent)
    assert first.saved_seconds == second.compile_seconds == 0.0
    assert second.saved_seconds == pytest.approx(spent)


async def test_failed_compile_has_cost_its_time(options):
    """It was spent, whatever came of it."""
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.CompileError):
            await rt.compile(SYNTAX_ERROR, arch=ARCH)
        counted = rt.statistics()

    assert counted.compile_seconds > 0
    assert counted.failed == 1


async def test_compile_that_had_to_wait_for_a_slot_says_for_how_long(options, compiler):
    """In its event, and in the sum."""
    finished: list = []

    def note(event: events.Event) -> None:
        if isinstance(event, events.CompileFinished):
            finished.append(event)

    async with ajit.open_runtime(subscribers=[note], **{**options, "compile_slots": 1}) as rt:
        await rt.warmup([saxpy(1, arch=ARCH), saxpy(2, arch=ARCH)])
        counted = rt.statistics()

    assert counted.queue_seconds == pytest.approx(sum(event.queued_seconds for event in finished))
    assert max(event.queued_seconds for event in finished) > 0.0


async def test_request_that_a_fallback_serves_is_counted(with_device):
    """One for each request, as for events."""
    async with ajit.open_runtime(**with_device) as rt:
        await rt.kernel(saxpy(1))
        await rt.kernel(saxpy(2), fallback=saxpy(1))
        counted = rt.statistics().fallbacks

    assert counted == 1


async def test_why_it_is_compiled_is_told(options, cache_dir, tmp_path):
    """Never kept, files have changed, the entry has gone, or it is asked for anew."""
    header = tmp_path / "include" / "tile.h"
    header.parent.mkdir()
    header.write_text("#define TILE 4\n")
    source = '#include "tile.h"\nextern "C" __global__ void k(int* x) { *x = TILE; }\n'
    spec = ajit.Spec(source, "k", params="int* x", include_dirs=[str(header.parent)], arch=ARCH)
    reasons: list[str] = []

    def note(event: events.Event) -> None:
        if isinstance(event, events.CompileStarted):
            reasons.append(event.reason)

    async with ajit.open_runtime(subscribers=[note], **options) as rt:
        await rt.compile(spec)
        header.write_text("#define TILE 64\n")
        await rt.compile(spec)
        for entry in entries_of(cache_dir):
            entry.unlink()
        await rt.compile(spec)
        await rt.compile(spec, recache=True)

    never, changed, gone, anew = reasons
    assert never.startswith("no such kernel was kept")
    assert changed == "files that it reads have changed since it was kept"
    assert gone == "its entry is gone"
    assert anew == "it was to be compiled again"


async def test_eviction_is_told_and_counted(options, cache_dir, monkeypatch):
    """With what is left, so that a limit that is too small can be seen."""
    async with ajit.open_runtime(**options) as rt:
        for number in range(3):
            await rt.compile(saxpy(number), arch=ARCH)
    sizes = [make_old(entry) for entry in entries_of(cache_dir)]
    for reading_list in cache_dir.glob("reads/*/*/*"):
        make_old(reading_list)
    monkeypatch.setattr(upkeep, "COLLECT_FIRST_SECONDS", 0.0)
    told: list = []
    evicted = anyio.Event()

    def note(event: events.Event) -> None:
        if isinstance(event, events.EntriesEvicted):
            told.append(event)
            evicted.set()

    limited = {**options, "cache_limit_bytes": sum(sizes) - 1}
    async with ajit.open_runtime(subscribers=[note], **limited) as rt:
        with anyio.fail_after(60):
            await evicted.wait()
        counted = rt.statistics()

    (event,) = told
    assert event.entries == counted.evicted_entries == 3 - len(entries_of(cache_dir)) > 0
    assert event.size_bytes == counted.evicted_bytes
    assert event.kept_entries == counted.cache_entries == len(entries_of(cache_dir))
    assert event.kept_bytes == counted.cache_bytes
    assert event.kept_bytes <= event.limit_bytes == counted.cache_limit_bytes


async def test_touch_that_fails_is_counted_and_told_once(options, cache_dir, monkeypatch):
    """No request gets that error, and where times stand still, what is in use is evicted."""
    failed = threading.Semaphore(0)
    noted = Troubles.note

    def note_and_tell(troubles: Troubles, doing: Doing, error: OSError) -> None:
        noted(troubles, doing, error)
        failed.release()

    def cannot(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async with ajit.open_runtime(**options) as rt:
        for number in range(2):
            await rt.compile(saxpy(number), arch=ARCH)
    for entry in entries_of(cache_dir):
        make_old(entry)
    monkeypatch.setattr(fs, "touch_file", cannot)
    monkeypatch.setattr(Troubles, "note", note_and_tell)
    told: list = []

    def note(event: events.Event) -> None:
        if isinstance(event, events.BackgroundFailed):
            told.append(event)

    async with ajit.open_runtime(subscribers=[note], **options) as rt:
        keeper = upkeep.Upkeep(rt._kernels.services)
        for number in range(2):
            await rt.compile(saxpy(number), arch=ARCH)
            assert await anyio.to_thread.run_sync(failed.acquire, True, 60)  # noqa: FBT003
            await keeper.collect()
        counted = rt.statistics().background_errors

    (event,) = told
    assert (event.doing, event.reason) == ("touch", "Input/output error")
    assert counted == 2
