"""Limits of a compile, and what a failure is blamed on when memory or disk is short."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from ajit._compile.pool import group as group_module
from ajit._compile.pool import watch as watch_module
from ajit._compile.pool.group import group_lives, look_at_group
from ajit._compile.pool.ledger import Claim
from ajit._compile.worker.commands import explain_rejection
from ajit._compile.worker.messages import JobFailed, WorkerRequest
from ajit._compile.worker.rejections import EXPLAIN_SECONDS, QUICK_SECONDS
from ajit._compile.worker.run_program import Ran
from ajit.errors import CompileError, CompileMemoryExceeded, CompilerCrashed, UnknownEntryPoint
from tests.compile.support import KEY, RESULT, Bench, group_members, job, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MIB = 1 << 20
HOST = {"compiler": "host", "arch": os.uname().machine}
ROOT = Path(__file__).parents[3]

HOG = (
    f"{sys.executable} -c '"
    "import pathlib, sys, time; data = bytearray(int(sys.argv[1])); data[::4096] = data[::4096];"
    'pathlib.Path(sys.argv[2]).touch(); time.sleep(1000)\' {bytes} "{ready}" & wait'
)
"""A compiler whose child takes memory, and stays."""


# --- memory


def test_a_compiler_that_takes_too_much_memory_is_killed(
    faking: Callable[..., Bench], scratch: Path, tmp_path: Path
) -> None:
    """With its children, whose memory counts; the error has both figures."""
    hog = HOG.format(bytes=300 * MIB, ready=tmp_path / "ready")
    bench = faking(
        f'ps -o pgid= $$ > "{tmp_path}/group"; {hog}', compile_memory_limit_bytes=200 * MIB
    )
    with pytest.raises(CompileMemoryExceeded) as caught:
        bench.compile(job(**HOST))
    group = int((tmp_path / "group").read_text())

    assert caught.value.used_bytes > caught.value.limit_bytes == 200 * MIB
    assert caught.value.key == KEY
    assert group_members(group) == []
    assert list(scratch.iterdir()) == []


def test_the_peak_of_a_compile_is_noted(faking: Callable[..., Bench], tmp_path: Path) -> None:
    """While it runs, so that admission can learn from it."""
    hog = HOG.format(bytes=150 * MIB, ready=tmp_path / "ready").removesuffix("wait")
    behaviour = f'{hog}child=$!; while [ ! -e "{tmp_path}/go" ]; do sleep 0.01; done; kill $child'
    bench = faking(f'{behaviour}; cp "$whole" "$out"')
    peak = 150 * MIB

    class Noting(Claim):
        def note(self, used_bytes: int) -> None:
            super().note(used_bytes)
            if used_bytes > peak:
                (tmp_path / "go").touch()

    task = bench.task(job(**HOST))
    claim = task.claim = Noting("host", 0)
    output = bench.slot.perform(task)

    assert output.data == RESULT
    assert claim.peak_bytes > peak


@pytest.mark.parametrize("kernel", ["lists children", "lists no children"])
def test_memory_is_that_of_the_whole_group(
    kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Children and theirs, on kernels with and without a list of a process's children."""
    if kernel == "lists no children":
        monkeypatch.setattr(group_module.os.path, "exists", lambda _path: False)
    hog = HOG.format(bytes=50 * MIB, ready=tmp_path / "ready")
    leader = subprocess.Popen(["sh", "-c", hog], process_group=0)
    try:
        wait_until((tmp_path / "ready").exists, "the child's memory")
        expected = sum(
            process.memory_info().rss
            for process in (psutil.Process(leader.pid), *psutil.Process(leader.pid).children())
        )
        actual = look_at_group(leader.pid).memory_bytes
    finally:
        os.killpg(leader.pid, 9)
        leader.wait()
    wait_until(lambda: not group_members(leader.pid), "the end of the child, which is not reaped")

    assert actual > 50 * MIB
    assert abs(actual - expected) < 5 * MIB
    assert look_at_group(leader.pid).memory_bytes == 0


def test_a_zombie_does_not_count_as_alive() -> None:
    """A signal still reaches their group, so only a look at them tells."""
    child = subprocess.Popen(["sleep", "60"], process_group=0)
    try:
        lived = group_lives(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        os.killpg(child.pid, 0)
        lives = group_lives(child.pid)
    finally:
        child.wait()

    assert (lived, lives) == (True, False)


# --- whom a failure is blamed on


def test_a_rejection_beside_the_memory_killer_is_not_believed(
    faking: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which process it took cannot be seen from here; trying again is safe."""
    counts = iter(range(10))
    monkeypatch.setattr(watch_module, "oom_kills", lambda: next(counts))
    with pytest.raises(CompilerCrashed, match="lack of memory") as caught:
        faking("echo an error >&2; exit 1").compile(job(**HOST))

    assert "an error" in caught.value.log


def test_the_memory_killers_count_is_the_kernels() -> None:
    """It is a number that this kernel has, and it does not move by itself."""
    if "oom_kill " not in Path("/proc/vmstat").read_text():
        pytest.skip("this kernel does not count")

    assert watch_module.oom_kills() >= 0


@pytest.mark.skipif(shutil.which("g++") is None, reason="is about gcc's driver")
@pytest.mark.parametrize("number", ["KILL", "SEGV"])
def test_a_compiler_proper_that_is_always_killed_is_not_the_sources_fault(
    number: str, tmp_path: Path
) -> None:
    """g++ exits with 1 for both; the repetition sees the signal of its cc1plus."""
    proper, driver = tmp_path / "cc1plus", tmp_path / "g++"
    proper.write_text(f"#!/bin/sh\nkill -{number} $$\n")
    # Only a compile has -o; the discovery's questions go to the real one.
    driver.write_text(
        f'#!/bin/sh\ncase " $* " in *" -o "*) exec g++ -B "{tmp_path}/" "$@";; esac\n'
        'exec g++ "$@"\n'
    )
    for program in (proper, driver):
        program.chmod(0o755)
    bench = Bench(host_compiler=str(driver))
    try:
        with pytest.raises(CompilerCrashed) as caught:
            bench.compile(job(**HOST))
    finally:
        bench.close()

    assert caught.value.signal == f"SIG{number}"


FULL = """
import sys
from ajit.errors import CompilerCrashed
from tests.compile.support import Bench, job
bench = Bench()
try:
    table = "__device__ char table[9000000] = {1};"
    kernel = 'extern "C" __global__ void plain(int* x) { x[0] = table[x[1]]++; }'
    bench.compile(job(table + kernel, compiler="host", arch=sys.argv[1]))
except CompilerCrashed as error:
    print(error)
finally:
    bench.close()
"""


def test_a_full_temporary_directory_is_not_the_sources_fault(tmp_path: Path) -> None:
    """A real compiler, a real file system of four megabytes, an object of nine."""
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f'mount -t tmpfs -o size=4m none "{tmp_path}"'
    if subprocess.run([*enter, mount], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let a test mount a small file system")
    ran = subprocess.run(
        [
            *enter,
            f'{mount} && exec "$@"',
            "sh",
            sys.executable,
            "-c",
            FULL,
            HOST["arch"],
        ],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "temporary directory was full" in ran.stdout, ran.stderr


# --- what an explanation costs


def test_a_source_that_takes_long_to_fail_is_compiled_once() -> None:
    """Its first log says it; five minutes more of compiling would not."""
    compiled: list[tuple[str, ...]] = []
    failed = _explain(_ran(1, EXPLAIN_SECONDS + 1, "log"), [], compiled)

    assert failed == JobFailed(kind="compile", log="log")
    assert compiled == []


def test_an_explanation_ends_when_its_time_is_used_up() -> None:
    """However many entry points there are."""
    compiled: list[tuple[str, ...]] = []
    slow = EXPLAIN_SECONDS * 0.4
    failed = _explain(_ran(1, slow, "first"), [_ran(0, slow)] * 9, compiled)

    assert failed == JobFailed(kind="compile", log="first")
    assert compiled == [()]


def test_explaining_takes_no_longer_than_the_compile_that_failed() -> None:
    """One more try; unless it was quick, then each entry point is asked for."""
    compiled: list[tuple[str, ...]] = []
    _explain(_ran(1, QUICK_SECONDS, "first"), [_ran(0, QUICK_SECONDS * 0.9)] * 9, compiled)
    quick: list[tuple[str, ...]] = []
    _explain(_ran(1, QUICK_SECONDS / 9, "first"), [_ran(0, QUICK_SECONDS / 2)] * 9, quick)

    assert compiled == [()]
    assert quick == [(), ("a",), ("b",), ("a", "b")]


OWN = 'ajit-entries(1): error: identifier "a" is undefined'
IN_A_TEMPLATE = 'k.cu(1): error: static assertion failed with "N is too large"'


@pytest.mark.parametrize(
    "log",
    [
        IN_A_TEMPLATE,
        'k.cu(1): catastrophic error: could not open source file "cstdint"',
        "k.cu(3): warning #177-D: unused\nk.cu(9): error #20014-D: calling a host function",
        "k.cu:1:10: fatal error: nonesuch: No such file or directory",
        "<include 0>/x.h:3: error: expected ';'",
        f"{IN_A_TEMPLATE}\n{OWN}",
    ],
)
def test_a_source_whose_first_error_has_a_place_is_compiled_once(log: str) -> None:
    """Trying again would say the same."""
    compiled: list[tuple[str, ...]] = []

    assert _explain(_ran(1, 0.1, log), [], compiled) == JobFailed(kind="compile", log=log)
    assert compiled == []


@pytest.mark.parametrize(
    "log",
    [
        OWN,
        f"{OWN}\n{IN_A_TEMPLATE}",
        "ajit-entries:2:25: error: 'nope' was not declared in this scope",
        "k.cu:7:1: internal compiler error: Segmentation fault",
        "k.cu(7): internal error: assertion failed",
        "cc1plus: fatal error: out of memory",
        "nvcc error   : 'cicc' died due to signal 9",
        "k.cu(3): warning: error: a word",
        "",
    ],
)
def test_what_the_first_log_does_not_tell_is_asked(log: str) -> None:
    """An entry point that may not exist, and a compiler that may have been killed."""
    compiled: list[tuple[str, ...]] = []
    _explain(_ran(1, 0.1, log), [_ran(0, 0.1)] * 4, compiled)

    assert compiled


def test_an_entry_with_an_error_inside_is_not_unknown() -> None:
    """Beside an unknown one, whose error comes first: each alone says what it is."""
    failed = _explain(_ran(1, 0.1, OWN), [_ran(0, 0.1), _ran(1, 0.1, IN_A_TEMPLATE)], [])

    assert failed == JobFailed(kind="compile", log=IN_A_TEMPLATE)


@pytest.mark.parametrize(
    ("log", "entry"),
    [
        (OWN, "a"),
        ('ajit-entries(2): error: identifier "b" is undefined', "b"),
        ("ajit-entries:2:25: error: 'b' was not declared in this scope", "b"),
        ('__nv_name_map(2): error: identifier "b" is undefined', "b"),
    ],
)
def test_an_unknown_entry_of_a_slow_source_is_told_by_its_line(log: str, entry: str) -> None:
    """As on a busy machine, where a small source is slow, too: there is no time to ask again."""
    compiled: list[tuple[str, ...]] = []
    failed = _explain(_ran(1, EXPLAIN_SECONDS + 1, log), [], compiled)

    assert failed == JobFailed(kind="entry", entry=entry, log=log)
    assert compiled == []


def test_a_line_that_is_no_entrys_names_none() -> None:
    """A source may print what it likes."""
    log = "ajit-entries(3): error: nothing stands there"

    assert _explain(_ran(1, EXPLAIN_SECONDS + 1, log), [], []) == JobFailed(kind="compile", log=log)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([1], JobFailed(kind="compile", log="again")),
        ([0, 1], JobFailed(kind="entry", entry="a", log="again")),
        ([0, 0, 1], JobFailed(kind="entry", entry="b", log="again")),
        ([0, 0, 0, 1], JobFailed(kind="compile", log="again")),
        ([0, 0, 0, 0], JobFailed(kind="crash", log="first", exit_code=1)),
        ([0, 137], JobFailed(kind="crash", log="again", signal="SIGKILL")),
        ([-11], JobFailed(kind="crash", log="again", signal="SIGSEGV")),
    ],
)
def test_a_quick_rejection_is_explained(ends: list[int], expected: JobFailed) -> None:
    """Source, entry point, both together, or bad luck."""
    compiled: list[tuple[str, ...]] = []

    assert _explain(_ran(1, 0.1, "first"), [_ran(end, 0.1, "again") for end in ends], compiled) == (
        expected
    )
    assert len(compiled) == len(ends)


def test_limits_do_not_change_the_error_of_a_wrong_source(bench: Bench) -> None:
    """With room and memory a wrong source and a missing entry are what they were."""
    with pytest.raises(CompileError):
        bench.compile(job("syntax error", **HOST))
    with pytest.raises(UnknownEntryPoint):
        bench.compile(job(entries=("missing",), **HOST))


def _ran(returncode: int, seconds: float, log: str = "") -> Ran:
    return Ran(returncode, log, seconds)


def _explain(
    first: Ran,
    ends: list[Ran],
    compiled: list[tuple[str, ...]],
    entries: tuple[str, ...] = ("a", "b"),
) -> JobFailed:
    remaining = iter(ends)

    def attempt(entries: Sequence[str]) -> Ran:
        compiled.append(tuple(entries))
        return next(remaining)

    request = WorkerRequest(
        job=job(entries=entries, **HOST),
        command=("c++",),
        version="gcc 12",
        include_dirs=(),
        flags=(),
        folder="/nonexistent",
        output_limit_bytes=1,
    )
    return explain_rejection(request, first, attempt)


def test_what_was_short_for_a_moment_is_named() -> None:
    """By the time that it is tried there are processes enough: a log says that there were not."""
    short = _ran(1, 0.1, "collect2: fatal error: vfork: Resource temporarily unavailable")
    strange, good = _ran(1, 0.1, "internal error"), [_ran(0, 0.1)] * 4

    at_first, again = _explain(short, good, []), _explain(strange, [short], [])
    of_chance = _explain(strange, good, [])

    assert ("limit", "limit", "crash") == (at_first.kind, again.kind, of_chance.kind)


def test_a_source_cannot_say_that_processes_were_short() -> None:
    """Its own words stand at a place in it."""
    wrong = _ran(1, 0.1, "k.cu:1:2: error: #error Resource temporarily unavailable")

    assert _explain(wrong, [wrong], []).kind == "compile"
