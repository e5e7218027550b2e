"""zig, which ignores the recorder: its reads are watched, or told by its dependency file."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import psutil
import pytest

import ajit
from ajit._compile.recorder.places import places_of
from ajit._compile.recorder.states import Settled, Unsettled, settle
from ajit._compile.toolchains.toolchains import Toolchains
from ajit.errors import AjitError, CompilerCrashed
from tests.compile.support import ENDLESS, Bench, group_members, job, settings, wait_until
from tests.compile.worker.forbidding import PROCESS_VM_READV, SECCOMP, forbidding

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ajit._core.job import CompileJob, Seen

pytest.importorskip("ziglang", reason="the ziglang wheel is not installed")

ARCH = platform.machine()
SOURCE = """
#if __has_include("absent.h") || __has_include(<folder/absent.h>)
#error "it is there"
#endif
#if !__has_include("asked.h")
#error "it is not there"
#endif
#include "user.h"
#include <stdint.h>
extern "C" __global__ void plain(float* x) { x[0] = VALUE; }
"""
SPEC = ajit.Spec(SOURCE, "plain", name="plain", params="float* x")

NO_CALL = 9999
"""The number of no system call: forbidding it forbids nothing."""


@pytest.fixture(autouse=True)
def zig_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose only compiler is zig."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.fixture
def dirs(tmp_path: Path) -> tuple[str, str]:
    """Two include directories; the second one has the headers."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (two / "user.h").write_text('#include "deep/value.h"\n')
    (two / "deep").mkdir()
    (two / "deep" / "value.h").write_text('#include "more.h"\n')
    (two / "deep" / "more.h").write_text("#define VALUE 1.0f\n")
    (two / "asked.h").write_text("")
    age(tmp_path)
    return str(one), str(two)


def age(folder: Path) -> None:
    """Let the file system's clock go on, so that what lies there is older than what follows."""
    probe = folder / "clock"
    newest = max(path.stat().st_ctime_ns for path in folder.rglob("*"))

    def later() -> bool:
        probe.touch()
        return probe.stat().st_ctime_ns > newest + 20_000_000

    wait_until(later, "the clock of the file system")


def compile_seen(given: CompileJob) -> Seen:
    """Compile a job, and return what its compiler was seen to read."""
    bench, seen = Bench(), []
    try:
        task = bench.task(given)
        task.on_seen = seen.append
        with contextlib.suppress(AjitError):
            bench.slot.perform(task)
    finally:
        bench.close()
    return seen[0]


def seen_where(forbidden: int, dirs: tuple[str, ...], source: str = SOURCE, **fields: Any) -> Seen:
    """The same with zig, where a system call is forbidden."""
    given = job(source, compiler="host", arch=ARCH, include_dirs=dirs, **fields)
    with forbidding(forbidden) as executor:
        return executor.submit(compile_seen, given).result()


def user_reads(seen: Seen) -> set[tuple[str, str, str]]:
    """What was seen in the user's directories, without the directories that are on the way to it.

    A compiler that is watched is seen to look whether those are there; what it reads in them, and
    looks for in vain, is in the list by itself.
    """
    reads = {(read.place, read.name, read.kind) for read in seen.reads if read.place[0] == "i"}
    way = {
        (place, name[:end]) for place, name, _ in reads for end, c in enumerate(name) if c == "/"
    }
    return {read for read in reads if read[2] != "present" or (read[1] and read[:2] not in way)}


def skip_unwatched(seen: Seen) -> None:
    """Skip a test of watching where it is not allowed: the linker's reads are then not seen."""
    if not any(read.name == "/etc/os-release" or "crtbegin" in read.name for read in seen.reads):
        pytest.skip("this kernel, or this container, does not let programs be watched (seccomp)")


EXPECTED = {
    ("i0", "cuda_cxx", "absent"),
    ("i1", "cuda_cxx", "absent"),
    ("i0", "absent.h", "absent"),
    ("i1", "absent.h", "absent"),
    ("i0", "folder", "absent"),
    ("i1", "folder", "absent"),
    ("i0", "asked.h", "absent"),
    ("i1", "asked.h", "file"),
    ("i0", "user.h", "absent"),
    ("i1", "user.h", "file"),
    ("i1", "deep/value.h", "file"),
    ("i1", "deep/more.h", "file"),
    ("i0", "stdint.h", "absent"),
    ("i1", "stdint.h", "absent"),
}


def test_a_watched_compiler_is_seen_to_read_and_to_look_in_vain(dirs: tuple[str, str]) -> None:
    """Each header and each absence, those that only `__has_include` asked for too."""
    seen = seen_where(NO_CALL, dirs)
    skip_unwatched(seen)

    assert seen.blind == ""
    assert user_reads(seen) >= EXPECTED
    assert ("t1", "cuda_cxx/kernel.hpp") in {(read.place, read.name) for read in seen.reads}


@pytest.mark.parametrize("forbidden", [SECCOMP, PROCESS_VM_READV], ids=["seccomp", "memory"])
def test_a_dependency_file_stands_in_where_watching_is_forbidden(
    dirs: tuple[str, str], forbidden: int
) -> None:
    """It gives all that was seen in the user's directories, and perhaps a few absences more."""
    watched = seen_where(NO_CALL, dirs)
    asked = seen_where(forbidden, dirs)

    assert asked.blind == ""
    assert user_reads(asked) >= EXPECTED | user_reads(watched)
    assert {kind for *_, kind in user_reads(asked) - user_reads(watched)} <= {"absent"}


@pytest.mark.parametrize("forbidden", [NO_CALL, SECCOMP], ids=["watched", "asked"])
def test_reads_are_sure_enough_to_be_published(dirs: tuple[str, str], forbidden: int) -> None:
    """The list settles, and no longer does when a header has changed after the compile."""
    seen = seen_where(forbidden, dirs)
    zig = Toolchains(settings()).find("host")
    places = places_of(dirs, (), zig.include_dirs, zig.path, "kernel.cu")
    before = settle(seen, places, b"")
    Path(dirs[1], "deep", "more.h").write_text("#define VALUE 2.0f\n")
    after = settle(seen, places, b"")

    assert isinstance(before, Settled)
    assert after == Unsettled("i1/deep/more.h changed while the compiler worked", changed=True)


@pytest.mark.parametrize(
    "source",
    [
        "#define NAME <absent.h>\n#if __has_include(NAME)\n#endif\n",
        "#define HAS(x) __has_include(x)\n#if HAS(<absent.h>)\n#endif\n",
        "#define HAS __has_include\n#if HAS(<absent.h>)\n#endif\n",
        '#define ASM asm(".incbin \\"/etc/hostname\\"")\n',
    ],
    ids=["macro", "function", "alias", "incbin"],
)
def test_what_no_dependency_file_tells_is_not_guessed(dirs: tuple[str, str], source: str) -> None:
    """A macro makes the name that is looked for: there is no list, and nothing is published."""
    seen = seen_where(SECCOMP, dirs, source + SOURCE)

    assert seen.reads == ()
    assert "cannot be told" in seen.blind


def test_a_computed_include_is_looked_for_beside_its_file(dirs: tuple[str, str]) -> None:
    """The dependency file tells what was found; what came first is every name it may have had."""
    source = '#define NAME "user.h"\n' + SOURCE.replace('include "user.h"', "include NAME")
    watched, asked = seen_where(NO_CALL, dirs, source), seen_where(SECCOMP, dirs, source)

    assert asked.blind == ""
    assert user_reads(asked) >= user_reads(watched)


def test_a_worker_killed_at_a_watched_compile_leaves_nothing(
    dirs: tuple[str, str], scratch: Path
) -> None:
    """The compiler and its children end with the worker that watches, and the job's folder goes."""
    del dirs
    bench = Bench()
    begun: list[int] = []

    def kill() -> None:
        wait_until(lambda: bench.slot.worker_pid is not None, "the worker")
        group = bench.slot.worker_pid
        assert group is not None
        wait_until(lambda: clang_is_at_work(group), "the compiler")
        begun.append(group)
        os.kill(group, signal.SIGKILL)

    with forbidding(NO_CALL) as executor, forbidding(NO_CALL) as killer:
        killed = killer.submit(kill)
        given = job(ENDLESS, compiler="host", arch=ARCH)
        ended = executor.submit(partial(perform, bench, given))
        killed.result()
        error = ended.exception()
        executor.submit(bench.close).result()

    assert isinstance(error, CompilerCrashed)
    assert group_members(begun[0]) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("forbidden", [NO_CALL, SECCOMP], ids=["watched", "asked"])
def test_a_second_start_compiles_nothing(
    dirs: tuple[str, str], tmp_path: Path, forbidden: int
) -> None:
    """It finds the kernel on disk; a changed header, or one that appears, compiles again."""
    tiers: list[str] = []
    start = partial(tier_of_start, SPEC, dirs, tmp_path / "cache")
    with forbidding(forbidden) as executor:
        tiers += (run_apart(executor, start) for _ in range(2))
        Path(dirs[1], "deep", "more.h").write_text("#define VALUE 2.0f\n")
        age(tmp_path)
        tiers += (run_apart(executor, start) for _ in range(2))
        Path(dirs[0], "user.h").write_text("#define VALUE 3.0f\n")
        age(tmp_path)
        tiers += (run_apart(executor, start) for _ in range(2))

    assert tiers == ["compiled", "disk"] * 3


def perform(bench: Bench, given: CompileJob) -> None:
    """Compile, in a thread of its own."""
    bench.compile(given)


def clang_is_at_work(group: int) -> bool:
    """Whether zig has started the compiler proper."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        if "clang" in (process.info["cmdline"] or ()):
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(process.pid) == group:
                    return True
    return False


def run_apart(executor: Executor, start: Any) -> str:
    """Run a runtime in the executor's thread: what it starts is forbidden what the thread is."""
    return executor.submit(anyio.run, start).result()


async def tier_of_start(spec: ajit.Spec, dirs: tuple[str, ...], cache: Path) -> str:
    """Start a runtime, ask for a kernel, and return where it came from."""
    found: list[Any] = []
    wanted = ajit.Spec(spec.source, "plain", name="plain", params="float* x", include_dirs=dirs)
    async with ajit.open_runtime(
        cache_dir=str(cache), device="none", subscribers=[found.append]
    ) as rt:
        await rt.compile(wanted, arch=ARCH)
    return next(event.tier for event in found if isinstance(event, ajit.events.KernelReady))
