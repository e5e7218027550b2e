"""Beats on a file system that hangs: the compile goes on, and its waiter is told for a while."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import psutil
import pytest

import ajit
from ajit._cache.entries.holders import HeldLease, held_leases
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases import beats
from ajit._cache.leases.beats import Poster, beats_during
from ajit._cache.leases.permits import CompilePermits
from ajit._cache.leases.table import LeaseTable
from ajit._resolve import walk as _perform
from ajit.errors import CompileTimeout
from tests.cache.artifacts import a_key
from tests.cache.helpers import in_thread, poll, until
from tests.compile.gates import GatedCompiler, opened
from tests.compile.support import fake_compiler, job, let_limits_pass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ajit._cache.files.directory import CacheDirectory

KEY = a_key()


class StuckDisk:
    """Writes to lock files that hang, once it is stuck, until it goes on."""

    def __init__(self, write: Callable[..., int]) -> None:
        self._write = write
        self._goes_on = threading.Event()
        self._goes_on.set()
        self.hanging = 0

    def stick(self) -> None:
        """Let writes hang from now on."""
        self._goes_on.clear()

    def go_on(self) -> None:
        """Let them all through."""
        self._goes_on.set()

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write as the system does, but not before the disk goes on."""
        self.hanging += 1
        self._goes_on.wait()
        self.hanging -= 1
        return self._write(fd, data, offset)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[StuckDisk]:
    """The disk of the cache, which `os.pwrite` writes holder records to, and nothing else."""
    disk = StuckDisk(os.pwrite)
    monkeypatch.setattr(os, "pwrite", disk.pwrite)
    yield disk
    disk.go_on()
    poll(lambda: not disk.hanging)


def test_posting_to_a_disk_that_hangs_takes_one_thread(table: LeaseTable, disk: StuckDisk):
    """Posting does not wait; beats posted meanwhile become one, in the last phase, afterwards."""
    with table.try_acquire(KEY, "nvrtc") as lease:
        disk.stick()
        lease.post_beat("queued")
        poll(lambda: disk.hanging)
        for _ in range(50):
            lease.post_beat("compiling")
        assert disk.hanging == 1

        disk.go_on()
        poll(lambda: lease.record.beat == 2)
        assert lease.record.phase == "compiling"


def test_a_late_beat_does_not_bring_an_earlier_phase_back(table: LeaseTable, disk: StuckDisk):
    """A beat that was posted while compiling and is written while publishing says publishing."""
    with table.try_acquire(KEY, "nvrtc") as lease:
        disk.stick()
        lease.post_beat("compiling")
        poll(lambda: disk.hanging)
        lease.post_beat("compiling")
        publishing = threading.Thread(target=lease.beat, args=("publishing",))
        publishing.start()
        disk.go_on()
        publishing.join()

        poll(lambda: lease.record.beat == 3)
        assert lease.record.phase == "publishing"


def test_a_beat_that_is_posted_after_the_release_is_none(table: LeaseTable, disk: StuckDisk):
    """Another process may hold the lock file by then."""
    lease = table.try_acquire(KEY, "nvrtc")
    lease.release()
    disk.stick()

    lease.post_beat("compiling")

    assert not disk.hanging
    assert lease.record.beat == 0


def test_without_threads_a_beat_is_missed_and_the_next_comes(monkeypatch: pytest.MonkeyPatch):
    """The compile goes on."""
    run, called = beats._threads.run, threading.Event()

    def no_thread(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    poster = Poster(called.set)
    monkeypatch.setattr(beats._threads, "run", no_thread)
    poster.post()
    with beats_during(called.set):
        pass
    assert not called.is_set()

    monkeypatch.setattr(beats._threads, "run", run)
    poster.post()
    assert called.wait(60)


@pytest.mark.anyio
async def test_a_compile_on_a_dead_disk_still_has_its_limits(
    directory: CacheDirectory, disk: StuckDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Beat and permit hang in their writes, and yet the time limit ends compiler and call."""
    table, gate = LeaseTable(directory), GatedCompiler(tmp_path)
    permits = await anyio.to_thread.run_sync(CompilePermits, directory, 1)
    lease = await anyio.to_thread.run_sync(table.try_acquire, KEY, "host")

    def beat(phase: str, _cpu_seconds: float) -> None:
        if gate.pids():  # the compiler is at work, and it has its time left
            disk.stick()
        lease.post_beat(phase)

    let_limits_pass(monkeypatch, lambda: disk.hanging == 2)
    async with opened(permits, host_compiler=gate.compiler) as pool:
        with anyio.fail_after(60), pytest.raises(CompileTimeout):
            await pool.compile(job(compiler="host", arch=os.uname().machine), on_beat=beat)
        hung = disk.hanging
        (compiler,) = gate.pids()
        lives = _lives(compiler)
        disk.go_on()
    lease.release()

    assert hung
    assert not lives


@pytest.mark.anyio
async def test_a_result_does_not_wait_for_a_dead_disk_to_take_the_lease_back(
    path: Path, disk: StuckDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The caller hears of the time limit although beat, permit and release hang."""
    monkeypatch.setattr(_perform, "RELEASE_SECONDS", 0.1)
    gate, spec = (
        GatedCompiler(tmp_path),
        ajit.Spec('extern "C" __global__ void plain() {}', "plain"),
    )
    given = {"cache_dir": str(path), "device": "none", "host_compiler": gate.compiler}
    given["board"] = "off"  # the loop writes that, to memory, and here each file is on the disk
    let_limits_pass(monkeypatch, lambda: disk.hanging)
    async with ajit.open_runtime(**given) as runtime:
        async with anyio.create_task_group() as group:
            heard = anyio.Event()

            async def ask() -> None:
                with pytest.raises(CompileTimeout):
                    await runtime.compile(spec, arch=os.uname().machine)
                heard.set()

            group.start_soon(ask)
            await until(gate.pids)
            disk.stick()
            try:
                with anyio.fail_after(60):
                    await heard.wait()
                hanging = disk.hanging
            finally:
                disk.go_on()
        await until(lambda: not LeaseTable.statistics().held)

    assert hanging


def _lives(pid: int) -> bool:
    """Whether a process has not ended. In a container without a reaper it stays in the list."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.anyio
async def test_a_holder_beats_while_its_publish_hangs(path: Path, tmp_path: Path, monkeypatch):
    """A waiter sees that it is publishing, and alive, for as long as ``fsync`` takes."""
    monkeypatch.setattr(beats, "BEAT_SECONDS", 0.02)
    hanging, goes_on, sync = threading.Event(), threading.Event(), os.fsync

    def fsync(fd: int) -> None:
        # Of the entry, and not of the digests, which another thread writes meanwhile.
        if (
            f"{path}/tmp/" in str(Path(f"/proc/self/fd/{fd}").readlink())
            and "digests" not in threading.current_thread().name
        ):
            hanging.set()
            goes_on.wait()
        sync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    compiler = fake_compiler(tmp_path, 'cp "$whole" "$out"')
    source = 'extern "C" __global__ void plain() {}'
    spec = ajit.Spec(source, "plain", extra_digest="1")  # a script's reads are not recorded
    given = {"cache_dir": str(path), "device": "none", "host_compiler": compiler}
    async with ajit.open_runtime(**given) as runtime, anyio.create_task_group() as group:
        group.start_soon(partial(runtime.compile, spec, arch=os.uname().machine))
        try:
            await until(hanging.is_set)
            first, last = await in_thread(_two_beats_more, path)
        finally:
            goes_on.set()

    # The first may be one that was posted before, and written late.
    assert first.record.phase in ("compiling", "publishing")
    assert last.record.phase == "publishing"


def _two_beats_more(path: Path) -> tuple[HeldLease, HeldLease]:
    """The lease of the one kernel now, and after two beats."""
    first = _held(path)
    poll(lambda: _held(path).record.beat >= first.record.beat + 2)
    return first, _held(path)


def _held(path: Path) -> HeldLease:
    leases = held_leases(open_cache_directory(path))
    (kernel,) = (lease for lease in leases if lease.kind == "kernel")
    return kernel


def test_a_publish_that_never_ends_beats_for_so_long_only(monkeypatch: pytest.MonkeyPatch):
    """A disk that takes beats, and no more, keeps those who wait for a bounded time."""
    monkeypatch.setattr(beats, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(beats, "PUBLISH_SECONDS", 0.2)
    beaten: list[None] = []

    beats._beat_until(threading.Event(), lambda: beaten.append(None))  # it returns by itself

    assert beaten


def test_a_beat_that_hangs_does_not_hold_up_the_publish(monkeypatch: pytest.MonkeyPatch):
    """The block ends when it is done, and its beats with it."""
    monkeypatch.setattr(beats, "BEAT_SECONDS", 0.01)
    hanging, goes_on = threading.Semaphore(0), threading.Event()

    def beat() -> None:
        hanging.release()
        goes_on.wait()

    with beats_during(beat):
        assert hanging.acquire(timeout=60)
    left_while_hanging = not goes_on.is_set()
    goes_on.set()

    assert left_while_hanging
