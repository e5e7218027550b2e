"""`ajit log`: the history of compiles, listed, filtered, and one of them as a whole."""

from __future__ import annotations

import time

import pytest

from ajit._cache.entries.disk import DiskStore
from ajit._cache.entries.history import Compiled, append_history
from ajit._cache.files.directory import open_cache_directory
from ajit.cli import exits
from tests.cache.artifacts import a_key, an_artifact

BROKEN = 'extern "C" __global__ void bad(float* x) { x[0] = ; }\n'


def a_line(number: int, **changes: object) -> Compiled:
    """A compile of some process, a few seconds ago."""
    facts = {
        "id": str(number),
        "unix_seconds": time.time() - 60 + number,
        "host": "node1",
        "pid": 100 + number,
        "program": "server.py",
        "name": f"kernel{number}",
        "key": a_key(str(number)),
        "compiler": "nvrtc 13.0",
        "arch": "sm_90a",
        "reason": "no such kernel was kept",
        "outcome": "compiled",
        "seconds": 1.5,
    }
    return Compiled(**(facts | changes))


@pytest.fixture
def noted(ajit):
    """Write lines into the history of the test's cache."""
    directory = open_cache_directory(ajit.cache_dir)
    return lambda *lines: append_history(directory, lines)


def test_compiles_are_listed_the_last_at_the_end(ajit, noted):
    """When, how long, how it ended, what, and who."""
    noted(a_line(1), a_line(2, outcome="failed", error_type="CompileError", error="k.cu(3): no"))
    shown = ajit("log")
    rows = ajit("log", "--json").json()["compiles"]

    lines = shown.out.splitlines()
    assert [row["name"] for row in rows] == ["kernel1", "kernel2"]
    assert "compiled" in lines[1]
    for text in ("kernel2", "failed", "server.py 102", "k.cu(3): no", a_key("2")[:12]):
        assert text in lines[2]
    assert shown.code == exits.FINE


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--failed"], ["kernel2", "kernel3"]),
        (["--limit", "1"], ["kernel3"]),
        (["kernel2"], ["kernel2"]),
        (["OTHER.py"], ["kernel3"]),
        (["--since", "200s"], ["kernel2", "kernel3"]),
        (["nothing"], []),
    ],
)
def test_list_is_filtered(ajit, noted, args, expected):
    """By outcome, number, text and time; how many are left out is told."""
    noted(
        a_line(1, unix_seconds=time.time() - 300),
        a_line(2, outcome="timed out"),
        a_line(3, outcome="killed", program="other.py"),
    )
    found = ajit("log", *args, "--json").json()

    assert [row["name"] for row in found["compiles"]] == expected
    assert found["left_out"] == (2 if "--limit" in args else 0)


def test_nothing_found_is_said(ajit, noted):
    """And is no failure."""
    open_cache_directory(ajit.cache_dir)
    before = ajit("log")
    noted(a_line(1))
    ended = ajit("log", "nothing")

    assert "no compile is known yet" in before.out
    assert "no such compile is known" in ended.out
    assert ended.code == exits.FINE


def test_key_shows_the_whole_of_a_failed_compile_with_its_log(ajit):
    """Of a real one."""
    (ajit.folder / "bad.cu").write_text(BROKEN)
    failed = ajit("compile", "bad.cu", "--entry", "bad", "--arch", "x86_64")
    [row] = ajit("log", "--failed", "--json").json()["compiles"]
    shown = ajit("log", row["key"][:16]).out

    assert failed.code == exits.PROBLEM
    for text in (row["key"], "failed", "CompileError", "log", "expected primary-expression", "why"):
        assert text in shown


def test_four_digits_of_a_key_find_its_compiles(ajit, noted):
    """As many as other commands ask for; they may be of a name, so that it is a list."""
    noted(a_line(1), a_line(2))
    rows = ajit("log", a_key("2")[:4], "--json").json()["compiles"]

    assert [row["name"] for row in rows] == ["kernel2"]


def test_key_shows_the_log_that_the_entry_has(ajit, noted):
    """Of a compile that made a kernel; with its warnings."""
    noted(a_line(1))
    artifact = an_artifact(a_key("1"), log="k.cu(2): warning: look here")
    DiskStore(open_cache_directory(ajit.cache_dir)).publish(artifact)
    [row] = ajit("log", "--json").json()["compiles"]
    [whole] = ajit("log", a_key("1"), "--json").json()["compiles"]
    shown = ajit("log", a_key("1")[:12]).out

    assert row["log"] == ""
    assert whole["log"] == artifact.log
    assert artifact.log in shown


def test_texts_of_the_history_reach_no_terminal_as_they_are(ajit, noted):
    """Neither in a list nor in a whole, nor as JSON."""
    evil = "\x1b[2J\u202eevil"
    noted(a_line(1, name=evil, reason=evil, program=evil, error=evil, log=f"{evil}\n"))
    for args in (["log"], ["log", a_key("1")], ["log", "--json"]):
        ended = ajit(*args)
        assert "\x1b" not in ended.out
        assert "\u202e" not in ended.out
        assert "evil" in ended.out


def test_cache_rm_all_removes_the_history(ajit, noted):
    """Removing some entries does not."""
    noted(a_line(1))
    ajit("cache", "rm", a_key("1"))
    before = ajit("log", "--json").json()["compiles"]
    ajit("cache", "rm", "--all")
    after = ajit("log", "--json").json()["compiles"]

    assert len(before) == 1
    assert after == []


def test_duration_that_is_none_is_a_usage_error(ajit, noted):
    """Told by its name."""
    noted(a_line(1))
    ended = ajit("log", "--since", "soon")

    assert ended.code == exits.USAGE
    assert "soon" in ended.err
