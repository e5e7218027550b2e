"""What a runtime notes of its compiles, and that it never costs a request."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import anyio
import pytest

import ajit
from ajit import events
from ajit._cache.entries.history_reader import read_history
from ajit._cache.files.directory import open_cache_directory
from ajit._runtime.board_view import program_name
from tests.fuse.mounts import why_no_fuse
from tests.runtime.processes import Peer
from tests.runtime.sources import ARCH, SAXPY, SYNTAX_ERROR
from tests.runtime.test_board import until
from tests.runtime.test_processes import until_started

pytestmark = pytest.mark.anyio

NO_FUSE = why_no_fuse()


def history(cache_dir: str | Path) -> list:
    """What is noted in a cache."""
    return read_history(open_cache_directory(Path(cache_dir)))


def lines_of_history(cache_dir: str | Path) -> list[str]:
    """All lines, also of what goes on."""
    files = Path(cache_dir).glob("history/*.jsonl")
    return [line for file in files for line in file.read_text().splitlines() if line]


async def test_compiles_are_noted_with_who_what_why_and_how(options):
    """Those that succeed and those that fail; what is found on disk is no compile."""
    async with ajit.open_runtime(**options) as rt:
        await rt.compile(SAXPY, arch=ARCH)
        with pytest.raises(ajit.CompileError):
            await rt.compile(SYNTAX_ERROR, arch=ARCH)
    async with ajit.open_runtime(**options) as rt:
        await rt.compile(SAXPY, arch=ARCH)
    good, bad = await anyio.to_thread.run_sync(history, options["cache_dir"])

    assert (good.name, good.entry, good.outcome) == ("saxpy", "saxpy", "compiled")
    assert (good.pid, good.program) == (os.getpid(), program_name())
    assert good.reason.startswith("no such kernel was kept")
    assert good.compiler.startswith("host gcc")
    assert good.seconds > 0
    assert good.size_bytes > 0
    assert (bad.name, bad.outcome, bad.error_type) == ("broken", "failed", "CompileError")
    assert "error" in bad.log


async def test_cancelled_compile_is_noted(options, compiler):
    """Also when it is the runtime's end that cancels it."""
    compiler.hold()
    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as group:
        group.start_soon(lambda: rt.compile(SAXPY, arch=ARCH))
        await compiler.wait_started()
        group.cancel_scope.cancel()
    compiler.let_go()
    (line,) = await anyio.to_thread.run_sync(history, options["cache_dir"])

    assert line.outcome == "cancelled"


async def test_timed_out_compile_is_noted_as_such(options, compiler):
    """With its error."""
    compiler.hold()
    async with ajit.open_runtime(**options, compile_timeout_seconds=1.0) as rt:
        with pytest.raises(ajit.CompileTimeout):
            await rt.compile(SAXPY, arch=ARCH)
    compiler.let_go()
    found = await anyio.to_thread.run_sync(history, options["cache_dir"])

    assert [(line.outcome, line.error_type) for line in found] == [("timed out", "CompileTimeout")]


def test_compile_whose_process_is_killed_is_in_the_history(options, compiler):
    """It is running until then."""
    compiler.hold()
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(Peer(options))
        peer.hear("ready")
        peer.go()
        until_started(compiler, 1)
        (running,) = until(lambda: history(options["cache_dir"]))
        peer.send(signal.SIGKILL)
        peer.wait()
        (killed,) = history(options["cache_dir"])
    compiler.let_go()

    assert (running.outcome, running.pid) == ("running", peer.pid)
    assert (killed.outcome, killed.pid, killed.program) == ("killed", peer.pid, "program.py")


def test_time_of_a_compile_goes_on_and_most_of_it_is_known_after_its_process_was_killed(
    options, compiler
):
    """A line is written each time it has doubled."""
    compiler.hold()
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(Peer(options))
        peer.hear("ready")
        peer.go()
        until_started(compiler, 1)
        until(lambda: len(lines_of_history(options["cache_dir"])) >= 2)
        (before,) = history(options["cache_dir"])
        (running,) = history(options["cache_dir"])
        peer.send(signal.SIGKILL)
        peer.wait()
        (killed,) = history(options["cache_dir"])
    compiler.let_go()

    assert 2.0 <= before.seconds < running.seconds
    assert 2.0 <= killed.seconds <= running.seconds


async def test_history_can_be_switched_off(options, cache_dir):
    """By its limit."""
    async with ajit.open_runtime(**options, history_limit_bytes=0) as rt:
        await rt.compile(SAXPY, arch=ARCH)

    assert not (cache_dir / "history").exists()


async def test_history_that_cannot_be_written_fails_no_request(options, cache_dir):
    """One event says so, and each is counted. What is in its place does not spoil the cache."""
    cache_dir.mkdir(mode=0o700)
    (cache_dir / "history").write_text("")
    seen: list[events.Event] = []
    async with ajit.open_runtime(**options, subscribers=[seen.append]) as rt:
        artifact = await rt.compile(SAXPY, arch=ARCH)
        assert rt.statistics().disk.published == 1
        with anyio.fail_after(60):
            while not rt.statistics().background_errors:  # noqa: ASYNC110  # a task counts it
                await anyio.sleep(0.01)

    told = [event for event in seen if isinstance(event, events.BackgroundFailed)]
    assert artifact.name == "saxpy"
    assert [event.doing for event in told] == ["history"]


@pytest.mark.skipif(bool(NO_FUSE), reason=NO_FUSE)
async def test_hanging_write_of_history_stops_no_one(options, mount):
    """Requests go on, and closing does not wait for it for long."""
    options["cache_dir"] = str(mount.path / "cache")
    async with ajit.open_runtime(**options) as rt:
        await rt.compile(SAXPY, arch=ARCH)
        await anyio.to_thread.run_sync(mount.hang, "history")
        with anyio.fail_after(60):
            with pytest.raises(ajit.CompileError):
                await rt.compile(SYNTAX_ERROR, arch=ARCH)
            await rt.compile(SAXPY, arch=ARCH)
    mount.answer()
