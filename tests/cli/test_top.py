"""`ajit top` where it is shown once: in a pipe, with --once, and as JSON."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from ajit._runtime.board import BoardFile
from ajit._system.process import this_process
from ajit.cli import exits
from ajit.cli.top_view import Rates, draw
from ajit.instrumentation import (
    CompileView,
    DeviceView,
    ErrorView,
    RuntimeView,
    WaitView,
)

EVIL = "\x1b[2J\u202eevil"


def a_view(**changes: object) -> RuntimeView:
    """What a runtime of this process says."""
    us = this_process()
    facts = {
        "pid": us.pid,
        "start_ticks": us.start_ticks,
        "namespace": us.namespace,
        "host": us.host,
        "program": "server.py",
        "state": "running",
        "cache_dir": "/cache",
    }
    return RuntimeView(**(facts | changes))


def shown(*views: RuntimeView, rates: Rates | None = None, cache_dir: str | None = "/cache") -> str:
    """What is drawn, on a terminal of 80 columns."""
    from rich.console import Console

    console = Console(width=80, color_system=None)
    with console.capture() as drawn:
        console.print(draw(views, rates or Rates(), cache_dir))
    return drawn.get()


@pytest.fixture
def put(ajit, tmp_path):
    """Put boards up, as a runtime of this process would."""
    place = tmp_path / "boards"
    place.mkdir()
    ajit.environ["AJIT_BOARD"] = str(place)
    files = []

    def put(view: RuntimeView, cache_dir: object = ajit.cache_dir) -> None:
        file = BoardFile(str(place), str(cache_dir), len(files) + 1)
        files.append(file)
        file.beat(view)

    yield put
    for file in files:
        file.close()


def test_runtimes_of_the_cache_are_shown_once_in_a_pipe(ajit, put):
    """As a plain table, and no longer than a look."""
    put(a_view(compiled=3))
    put(a_view(compiled=7), "/elsewhere")
    ended = ajit("top")

    assert ended.code == exits.FINE
    assert ended.out.startswith("1 runtime ")
    assert "another cache" not in ended.out
    assert "server.py" in ended.out
    assert "\x1b" not in ended.out


def test_runtimes_of_all_caches_are_shown_with_them(ajit, put):
    """With ``--all``."""
    put(a_view())
    put(a_view(cache_dir="/elsewhere"), "/elsewhere")
    ended = ajit("top", "--all", "--once")

    assert ended.out.startswith("2 runtimes")
    assert "/elsewhere" in ended.out


def test_runtimes_are_told_as_json(ajit, put):
    """All fields of a view."""
    put(a_view(compiled=3, waits=(WaitView(name="saxpy", pid=7),), device=DeviceView(in_flight=2)))
    found = ajit("top", "--json").json()

    assert found["cache_dir"] == str(ajit.cache_dir)
    [runtime] = found["runtimes"]
    assert (runtime["pid"], runtime["compiled"], runtime["state"]) == (os.getpid(), 3, "running")
    assert runtime["waits"][0]["pid"] == 7
    assert runtime["device"]["in_flight"] == 2


def test_no_runtime_is_said(ajit, put):
    """And is no failure; the cache need not exist, nor answer: it is not touched."""
    ended = ajit("top")

    assert ended.code == exits.FINE
    assert "no open runtime" in ended.out
    assert "there is no such directory" in ended.out
    assert not ajit.cache_dir.exists()


@pytest.mark.parametrize("path", ["cache/../cache", "link", "."])
def test_a_cache_is_the_same_by_another_path(ajit, put, path):
    """Through a link or a detour, on either side."""
    ajit.cache_dir.mkdir()
    (ajit.folder / "link").symlink_to("cache")
    put(a_view(), ajit.folder / "link")
    place = ajit.cache_dir if path == "." else ajit.folder / path

    assert "server.py" in ajit("top", "--cache-dir", place).out


@pytest.mark.parametrize("args", [["log"], ["locks"], ["cache", "ls"], ["top"]], ids=" ".join)
def test_who_looks_at_a_cache_that_no_one_uses_is_told_which_are_used(ajit, put, args):
    """As where the server's variable is not set in this shell, whether the directory is there."""
    put(a_view(cache_dir="/srv/cache"), "/srv/cache")
    missing = ajit(*args)
    ajit.cache_dir.mkdir()
    (ajit.cache_dir / "CACHEDIR.TAG").touch()
    empty = ajit(*args)

    for ended in (missing, empty):
        assert "1 runtime uses another cache: /srv/cache" in ended.out + ended.err


def test_boards_that_are_switched_off_are_told(ajit, put):
    """Else it would look as if nothing ran."""
    put(a_view())
    ended = ajit("top", AJIT_BOARD="off")

    assert ended.code == exits.FINE
    assert "AJIT_BOARD is off" in ended.err


def test_texts_of_boards_reach_no_terminal_as_they_are(ajit, put):
    """Also on boards of other writers."""
    compiles = (CompileView(name=EVIL, reason=EVIL, phase=EVIL),)
    waits = (WaitView(name=EVIL, phase=EVIL, pid=1),)
    error = ErrorView(unix_seconds=time.time(), name=EVIL, text=EVIL, kind=EVIL)
    put(a_view(program=EVIL, cache_problem=EVIL, compiles=compiles, waits=waits,
               recent_errors=(error,), device=DeviceView(name=EVIL)))  # fmt: skip
    for args in (["top"], ["top", "--json"]):
        ended = ajit(*args)
        assert "\x1b" not in ended.out
        assert "\u202e" not in ended.out
        assert "evil" in ended.out


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (a_view(state="late", silent_seconds=12.4), "late 12s"),
        (a_view(state="stopped", silent_seconds=200), "stopped 3m"),
        (a_view(state="dead", silent_seconds=5), "dead 5s"),
        (a_view(from_memory=12_345), "12.3k"),
        (a_view(running=2, queued=17), "2+17"),
        (a_view(device=DeviceView(live_memory_bytes=5 << 30)), "5.0G"),
        (a_view(device=DeviceView(in_flight=1, oldest_ticket_seconds=2.0)), "0B 2s"),
        (a_view(device=DeviceView(lost_code=700)), "lost 700"),
        (a_view(device=DeviceView(stuck=True, since_seconds=40)), "stuck 40s"),
        (a_view(cache_problem="it does not answer"), "it does not answer"),
        (a_view(queued=1, held_back="permit", compiles=(CompileView(phase="queued"),)), "(permit)"),
        (a_view(waits=(WaitView(pid=7, host="far", phase="compiling"),)), "pid 7 on far"),
        (a_view(waits=(WaitView(),)), "another process"),
    ],
)
def test_state_of_a_runtime_is_worded(view, expected):
    """In the columns of a narrow terminal."""
    lines = shown(view)

    assert expected in lines
    assert max(map(len, lines.splitlines())) <= 80


def test_who_is_waited_for_and_is_stopped_is_called_so():
    """What it was at when it was stopped says the wrong thing."""
    holder = a_view(pid=7, state="stopped", silent_seconds=5)
    waiter = a_view(waits=(WaitView(pid=7, host=holder.host, phase="compiling"),))

    assert "pid 7, stopped 5 s" in shown(holder, waiter)
    assert "pid 7, compiling for" in shown(a_view(pid=7), waiter)


def test_widest_row_fits_80_columns():
    """With the largest numbers that a column is made for."""
    device = DeviceView(live_memory_bytes=139 << 30, in_flight=3, oldest_ticket_seconds=12.3)
    view = a_view(
        pid=4194304, program="a_server_with_a_long_name.py", state="stopped", silent_seconds=7000,
        from_memory=999_999_999, from_disk=99_999, compiled=99_999, failed=9_999,
        running=16, queued=99, device=device,
    )  # fmt: skip
    row = shown(view).splitlines()[5]

    assert len(row.rstrip()) <= 80
    for text in ("4194304", "stopped 116m", "1.0G", "16+99", "139G 12s"):
        assert text in row


def test_rates_are_between_two_beats():
    """And zero while a runtime does not beat."""
    rates = Rates()
    rates.take([a_view(from_memory=100)], 10.0)
    first = rates.of(a_view())
    rates.take([a_view(from_memory=100)], 10.05)
    rates.take([a_view(from_memory=150, from_disk=10)], 12.0)
    second = rates.of(a_view())
    rates.take([a_view(from_memory=150, from_disk=10, state="stopped", silent_seconds=3)], 15.0)

    assert first is None
    assert second == pytest.approx(30.0)
    assert rates.of(a_view(state="stopped")) == 0.0
    assert rates.of(a_view(state="dead")) is None


def test_top_of_a_process_that_has_ended_is_no_traceback(ajit, put):
    """One whose reader has gone, as in ``ajit top | head -0``."""
    put(a_view())
    command = f"{sys.executable} -m ajit top | true"
    ended = subprocess.run(
        ["sh", "-c", command], env=ajit.environ, capture_output=True, text=True, check=False
    )

    assert "Traceback" not in ended.stderr
