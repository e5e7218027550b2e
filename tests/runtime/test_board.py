"""The board: a file of each runtime that others read, whatever state its process is in."""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ajit
from ajit import events
from ajit._runtime import boards as boards_module
from ajit._runtime.board import BoardFile
from ajit._runtime.board_form import (
    BOARD_BYTES,
    MOST_LISTED,
    CompileView,
    RuntimeView,
    WaitView,
    board_head,
    encode_post,
    read_post,
)
from ajit._runtime.board_view import program_name
from ajit.instrumentation import runtimes
from tests.runtime.sources import ARCH, SAXPY, SYNTAX_ERROR

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 60.0


@pytest.fixture
def board(tmp_path, options, with_device):
    """Where the boards of a test are; a setting of its runtimes."""
    place = tmp_path / "boards"
    place.mkdir()
    options["board"] = with_device["board"] = str(place)
    return str(place)


class Server:
    """A process with open runtimes."""

    def __init__(self, settings: dict, backend: str = "asyncio", count: int = 1) -> None:
        order = {"backend": backend, "settings": settings, "count": count}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.runtime.board_main", json.dumps(order)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        assert self.process.stdout.readline() == "ready\n"

    def tell(self, word: str) -> None:
        """Tell it what to do, and wait until it has been done."""
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def until(found: Callable[[], object]) -> object:
    """Return what a look gives once it gives something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (value := found()):
        assert time.monotonic() < deadline, "it was waited for in vain"
        time.sleep(0.02)
    return value


async def until_async(found: Callable[[], object]) -> object:
    """The same, in an event loop."""
    with anyio.fail_after(WAIT_SECONDS):
        while not (value := await anyio.to_thread.run_sync(found)):  # noqa: ASYNC110  # a file tells it
            await anyio.sleep(0.02)
        return value


def in_a_child(call: Callable[[], None]) -> int:
    """Make a call in a forked child; return its exit code, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            call()
            os._exit(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def files(board: str) -> list[Path]:
    """The files of boards."""
    return sorted(Path(board).glob("*/*"))


def whole(view: RuntimeView, number: int = 1) -> bytes:
    """A board as a file, with one snapshot."""
    data = bytearray(BOARD_BYTES)
    data[: len(board_head())] = board_head()
    place, post = encode_post(view, number, time.monotonic_ns())
    data[place : place + len(post)] = post
    return bytes(data)


async def test_runtime_is_seen_with_what_it_has_done(with_device, board):
    """Who it is, what it counts, and its device; its folder is private, its file goes with it."""
    async with ajit.open_runtime(**with_device) as rt:
        await rt.kernel(SAXPY)
        (view,) = await until_async(
            lambda: [one for one in runtimes(board=board) if one.device and one.device.dispatched]
        )
        (path,) = files(board)

    assert (view.pid, view.state, view.compiled) == (os.getpid(), "running", 1)
    assert view.cache_dir == with_device["cache_dir"]
    assert view.version == ajit.__version__
    assert view.program == program_name()
    assert view.device.alive
    assert path.parent.name == f"ajit-boards-{os.geteuid()}"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert files(board) == []


async def test_file_of_a_board_is_private_and_bounded(options, board):
    """0600, and of one size from the first moment on."""
    async with ajit.open_runtime(**options):
        (path,) = await until_async(lambda: [p for p in files(board) if p.name[0] != "."])
        status = path.stat()

    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_size == BOARD_BYTES


async def test_compiles_under_way_and_errors_are_on_the_board(options, board, compiler):
    """With their phase and age; a compile that was cancelled is there no more."""
    compiler.hold()
    async with ajit.open_runtime(**{**options, "abandoned": "cancel"}) as rt:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: rt.compile(SAXPY, arch=ARCH))
            await compiler.wait_started()
            (view,) = await until_async(
                lambda: [v for v in runtimes(board=board) if v.compiles and v.running]
            )
            group.cancel_scope.cancel()
        await until_async(lambda: not runtimes(board=board)[0].compiles)
        compiler.let_go()
        with pytest.raises(ajit.CompileError):
            await rt.compile(SYNTAX_ERROR, arch=ARCH)
        (after,) = await until_async(lambda: [v for v in runtimes(board=board) if v.failed])

    (compiling,) = view.compiles
    assert (compiling.name, compiling.entry) == ("saxpy", "saxpy")
    assert compiling.phase == "compiling"
    assert compiling.compiler.startswith("host gcc")
    assert compiling.reason
    assert (after.errors, after.failed) == (1, 1)
    assert after.recent_errors[0].kind == "CompileFailed"
    assert after.recent_errors[0].name == "broken"


async def test_cancelled_compile_is_an_event(options, compiler):
    """Of a compile that was begun and is not waited for any more."""
    seen: list[events.Event] = []
    compiler.hold()
    options["abandoned"] = "cancel"
    async with (
        ajit.open_runtime(**options, subscribers=[seen.append]) as rt,
        anyio.create_task_group() as group,
    ):
        group.start_soon(lambda: rt.compile(SAXPY, arch=ARCH))
        await compiler.wait_started()
        group.cancel_scope.cancel()
    compiler.let_go()

    kinds = [type(event) for event in seen]
    assert kinds.count(events.CompileCancelled) == 1
    assert events.CompileFinished not in kinds


async def test_two_runtimes_of_a_process_both_appear(options, board):
    """Each with a number of its own."""
    async with ajit.open_runtime(**options), ajit.open_runtime(**options):
        views = await until_async(lambda: len(runtimes(board=board)) == 2 and runtimes(board=board))

    assert {view.pid for view in views} == {os.getpid()}
    assert len({view.number for view in views}) == 2


async def test_board_that_was_removed_or_cut_is_made_again(options, board):
    """By a clean-up of the temporary directory. The name stays; the inode shows that it was."""
    async with ajit.open_runtime(**options):
        (path,) = await until_async(lambda: runtimes(board=board) and files(board))
        first = path.stat().st_ino
        os.truncate(path, 0)
        await until_async(lambda: files(board) and files(board)[0].stat().st_size == BOARD_BYTES)
        keep = path.open("rb")  # so that the inode is not used again
        path.unlink()
        (again,) = await until_async(lambda: runtimes(board=board))
        second = path.stat().st_ino
        keep.close()

    assert again.state == "running"
    assert first != second
    assert files(board) == []


def test_board_that_is_cut_at_any_moment_does_not_end_its_process(board):
    """Between the look at its size and the beat as well: in a mapping that would be SIGBUS."""

    def beats() -> None:
        file = BoardFile(board, "/cache", 1)
        os.truncate(files(board)[0], 0)
        file.beat(RuntimeView(pid=1))

    assert in_a_child(beats) == 0


def test_beat_that_cannot_be_written_says_so(board):
    """Neither at all nor in part; it raises nothing."""

    def beats() -> None:
        file = BoardFile(board, "/cache", 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1100, 1100))  # in the first of the two places
        assert [file.beat(RuntimeView(pid=1)) for _ in range(2)] == [False, False]

    assert in_a_child(beats) == 0


def test_board_that_cannot_be_written_any_more_is_removed(options, board):
    """Else its runtime would be shown as late for good. The server goes on."""
    with Server(options) as server:
        until(lambda: runtimes(board=board))
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1024, 1024))
        until(lambda: not files(board))
        server.tell("go on")


async def test_runtime_without_a_place_for_its_board_goes_on(options, tmp_path):
    """One event says so, and it is counted."""
    (tmp_path / "file").write_text("")
    seen: list[events.Event] = []
    options["board"] = str(tmp_path / "file")
    async with ajit.open_runtime(**options, subscribers=[seen.append]) as rt:
        failed = await until_async(
            lambda: [one for one in seen if isinstance(one, events.BackgroundFailed)]
        )
        artifact = await rt.compile(SAXPY, arch=ARCH)
        counted = rt.statistics().background_errors

    assert artifact.name == "saxpy"
    assert [one.doing for one in failed] == ["board"]
    assert "Not a directory" in failed[0].reason
    assert counted == 1


async def test_folder_that_others_can_enter_is_not_used(options, board):
    """Neither to write there nor to read."""
    folder = Path(board) / f"ajit-boards-{os.geteuid()}"
    folder.mkdir(mode=0o755)
    seen: list[events.Event] = []
    async with ajit.open_runtime(**options, subscribers=[seen.append]):
        (failed,) = await until_async(
            lambda: [one for one in seen if isinstance(one, events.BackgroundFailed)]
        )

        found = await anyio.to_thread.run_sync(lambda: runtimes(board=board))

    assert "not private" in failed.reason
    assert list(folder.iterdir()) == []
    assert found == []


async def test_board_can_be_switched_off(options, board, monkeypatch):
    """By the setting, also from the environment."""
    del options["board"]
    monkeypatch.setenv("AJIT_BOARD", "off")
    async with ajit.open_runtime(**options) as rt:
        await rt.compile(SAXPY, arch=ARCH)
        origin = rt.settings.origins["board"]
        found = await anyio.to_thread.run_sync(runtimes)

    assert origin == "AJIT_BOARD"
    assert found == []
    assert files(board) == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_other_process_is_seen_blocked_stopped_and_dead(options, board, backend):
    """It is asked nothing: a loop that is blocked is late, and what was killed leaves its board."""
    with Server(options, backend) as server:
        (view,) = until(lambda: runtimes(options["cache_dir"], board=board))
        assert (view.pid, view.state, view.program) == (server.pid, "running", "board_main.py")

        server.tell("block")
        until(lambda: runtimes(board=board)[0].state == "late")
        assert runtimes(board=board)[0].silent_seconds >= boards_module.LATE_SECONDS
        server.tell("go on")
        until(lambda: runtimes(board=board)[0].state == "running")

        os.kill(server.pid, signal.SIGSTOP)
        until(lambda: runtimes(board=board)[0].state == "stopped")
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait(WAIT_SECONDS)
        (dead,) = runtimes(board=board)

    assert (dead.state, dead.pid) == ("dead", server.pid)


def test_board_of_a_dead_process_is_swept(options, board, monkeypatch):
    """By who looks a minute later, or by the next runtime that opens."""
    with Server(options) as server:
        until(lambda: runtimes(board=board))
    assert len(files(board)) == 1
    monkeypatch.setattr(boards_module, "DEAD_SECONDS", 0.0)

    found = runtimes(board=board)

    assert found == []
    assert files(board) == []
    assert server.process.returncode == -signal.SIGKILL


def test_board_of_another_boot_is_removed_once_it_is_silent(options, board):
    """A container may have a boot id of its own: what still beats is shown, and not removed."""
    with Server(options) as server:
        (path,) = until(lambda: runtimes(board=board) and files(board))
        other = path.with_name(f"{'0' * 8}{path.name[8:]}")  # as one there is named
        path.rename(other)
        boards_module.sweep(board)
        (view,) = until(lambda: [one for one in runtimes(board=board) if one.state == "running"])
        assert view.pid == server.pid

    hour_ago = time.time() - 3600
    os.utime(other, (hour_ago, hour_ago))
    boards_module.sweep(board)

    assert files(board) == []


def test_forked_child_leaves_the_board_to_its_parent(board):
    """It neither writes nor removes it, though it has the same descriptor."""
    file = BoardFile(board, "/cache", 1)
    file.beat(RuntimeView(pid=os.getpid(), compiled=1))
    child = os.fork()
    if not child:
        file.beat(RuntimeView(pid=1, compiled=2))
        file.close()
        os._exit(0)
    os.waitpid(child, 0)
    (view,) = runtimes(board=board)
    file.close()

    assert view.compiled == 1
    assert files(board) == []


def test_only_runtimes_of_the_cache_are_listed(options, board, tmp_path):
    """Of all caches, where none is named."""
    with Server(options):
        until(lambda: runtimes(board=board))
        assert len(runtimes(options["cache_dir"], board=board)) == 1
        assert runtimes(tmp_path / "other", board=board) == []


def test_what_is_no_board_is_passed_over(options, board):
    """A folder, a link, a pipe, an empty file, a foreign name: nothing of it hangs or raises."""
    with Server(options) as server:
        (path,) = until(lambda: runtimes(board=board) and files(board))
        names = [path.name.replace(f".{server.pid}.", f".{pid}.") for pid in (1, 2, 3, 4)]
        (path.parent / names[0]).mkdir()
        (path.parent / names[1]).symlink_to(path)
        os.mkfifo(path.parent / names[2])
        (path.parent / names[3]).write_bytes(b"")
        (path.parent / "letter.txt").write_text("hello")

        found = runtimes(board=board)

    assert [view.pid for view in found] == [server.pid]


def test_half_written_snapshot_leaves_the_one_before():
    """A writer that was killed in the middle of a beat: the other place is whole."""
    first, second, third = (
        RuntimeView(pid=7, program=letter * 100, host=letter * 100) for letter in "abc"
    )
    board = bytearray(whole(first, 1))
    for view, number in ((second, 2), (third, 3)):
        place, post = encode_post(view, number, 5)
        written = post.index(b"ccc") if view is third else len(post)
        board[place : place + written] = post[:written]  # over the first one, of the same length

    found = read_post(bytes(board))

    assert found is not None
    assert (found.number, found.view) == (2, second)


def test_newest_of_two_snapshots_is_read():
    """The one with the higher number."""
    board = bytearray(whole(RuntimeView(pid=7), 4))
    place, post = encode_post(RuntimeView(pid=7, compiled=1), 5, 5)
    board[place : place + len(post)] = post

    assert read_post(bytes(board)).view.compiled == 1


def test_snapshot_is_cut_to_the_size_of_a_board():
    """The number of what was left out is told."""
    wide = CompileView(**dict.fromkeys(("name", "key", "entry", "reason", "arch"), "x" * 160))
    view = RuntimeView(pid=1, compiles=(wide,) * MOST_LISTED, waits=())
    board = whole(view)

    found = read_post(board).view

    assert len(board) == BOARD_BYTES
    assert 0 < len(found.compiles) < MOST_LISTED
    assert len(found.compiles) + found.left_out == MOST_LISTED


def test_texts_of_a_board_are_printable():
    """Whatever wrote them: they go to terminals and pages."""
    view = RuntimeView(pid=1, program="\x1b[2Jgone", compiles=(CompileView(name="a\nb\u202e"),))

    found = read_post(whole(view)).view

    assert found.program == "\\x1b[2Jgone"
    assert found.compiles[0].name == "a\\nb\\u202e"


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_number_that_cannot_be_shown_does_not_hide_the_board(odd):
    """It may come from others: the age of a holder, out of its record."""
    wait = WaitView(name="k", waited_seconds=2.0, age_seconds=odd)
    view = RuntimeView(pid=1, saved_seconds=odd, compiled=3, waits=(wait,))

    found = read_post(whole(view)).view

    assert found == RuntimeView(pid=1, compiled=3, waits=(WaitView(name="k", waited_seconds=2.0),))


@given(at=st.integers(0, BOARD_BYTES), junk=st.binary(max_size=300), size=st.integers(0, 70_000))
def test_reader_takes_any_bytes(at, junk, size):
    """Damaged, cut and foreign files: a view or nothing, and no error."""
    board = bytearray(whole(RuntimeView(pid=1, compiles=(CompileView(name="k"),))))
    board[at : at + len(junk)] = junk

    found = read_post(bytes(board[:size]))

    assert found is None or found.view.pid == 1


@given(data=st.binary(max_size=400))
def test_reader_takes_any_snapshot(data):
    """One whose checksum is right and whose content is anything."""
    import ajit._runtime.board_form as form

    encoder = form._encoder
    try:
        form._encoder = type("Fixed", (), {"encode": staticmethod(lambda _: data)})
        board = whole(RuntimeView(pid=1))
    finally:
        form._encoder = encoder

    found = read_post(board)

    assert found is None or isinstance(found.view, RuntimeView)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/opt/app/server.py", "--token", "secret"], "server.py"),
        (["/site-packages/uvicorn/__main__.py", "app:app"], "uvicorn"),
        (["-c"], "python"),
        ([""], "python"),
        ([], "python"),
    ],
)
def test_program_is_named_without_its_arguments(argv, expected):
    """They may be secrets."""
    assert program_name(argv) == expected
