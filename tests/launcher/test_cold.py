"""Many launchers at once, and what ends badly: one compile, no compiler left, no failing build."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.mounts import Mount, why_no_fuse
from tests.launcher.support import SECONDS, Build, needs_gxx

pytestmark = needs_gxx

POLL_SECONDS = 0.01


class Gate:
    """A compiler that tells its process id, and stops before it compiles, or never ends if held.

    It tells through a named pipe, which is no file that a compile makes.
    """

    def __init__(self, build: Build) -> None:
        self.fifo = build.folder.parent / "fifo"
        os.mkfifo(self.fifo)
        # Opened for both, so that neither side waits for the other.
        self._fd = os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK)
        # No variable: those that a compiler's text names are in the key.
        self.hold = build.folder.parent / "hold"
        # What lies beside a compiler is its own.
        self.program = build.folder.parent / "tools" / "gcc"
        self.program.parent.mkdir()
        self.program.write_text(
            f"#!/bin/sh\necho $$ > {self.fifo}\n"
            f"[ -e {self.hold} ] && exec sleep 100\n"
            f'kill -STOP $$\nexec {shutil.which("gcc")} "$@"\n'
        )
        self.program.chmod(0o755)

    def next(self) -> int:
        """Wait for the next compiler and return its process id."""
        return int(_until(self.told, "no compiler has begun"))

    def told(self) -> bytes:
        """What one of them has told; nothing if none has since the last look."""
        line = b""
        while not line.endswith(b"\n"):
            try:
                line += os.read(self._fd, 1)
            except BlockingIOError:
                if not line:
                    return b""
        return line

    def open(self, pid: int) -> None:
        """Let a compiler go on, once it has stopped."""
        _until(lambda: _state(pid) == "T", "the compiler does not stop")
        os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._fd)


def _until(condition, problem: str):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(POLL_SECONDS)
    pytest.fail(problem)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _gone(pid: int) -> bool:
    return _state(pid) in ("", "Z")


def _waiters(build: Build) -> int:
    """How many processes wait for a lock of this cache, by the kernel's word."""
    inodes = {str(path.stat().st_ino) for path in (build.cache / "locks").rglob("*.lock")}
    lines = Path("/proc/locks").read_text().splitlines()
    return sum("->" in line and line.split()[6].split(":")[-1] in inodes for line in lines)


@pytest.fixture
def gate(build: Build) -> Iterator[Gate]:
    """The gate; a source is there as well."""
    build.write("a.c", "int f(void) { return 1; }\n")
    made = Gate(build)
    yield made
    made.close()


def _start(build: Build, gate: Gate, number: int, **env: str) -> subprocess.Popen[str]:
    return build.start(str(gate.program), "-c", "a.c", "-o", f"{number}.o", **env)


def _end(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=SECONDS)
    return process.returncode


def test_eight_launchers_compile_once(build: Build, gate: Gate) -> None:
    """Seven wait for the eighth, and get its result."""
    processes = [_start(build, gate, number) for number in range(8)]
    compiler = gate.next()
    _until(lambda: _waiters(build) == 7, "not all wait")
    gate.open(compiler)

    assert [_end(process) for process in processes] == [0] * 8
    assert gate.told() == b""
    assert build.counted() == {"compiled": 1, "hit after waiting": 7}
    assert len({(build.folder / f"{n}.o").read_bytes() for n in range(8)}) == 1


def test_launchers_of_other_directories_do_not_wait_in_turn(build: Build, gate: Gate) -> None:
    """A result that belongs to its directory is of no use to them: they compile at once.

    Those of one directory wait for each other, as ever.
    """
    folders = ("one", "other", "the third")
    for folder in folders:
        build.write(f"../{folder}/a.c", "int n = sizeof(__FILE__);\n")

    def start(folder: str, number: int) -> subprocess.Popen[str]:
        path = str(build.folder.parent / folder / "a.c")
        command = (str(gate.program), "-c", path, "-o", f"{number}.o")
        return build.start(*command, AJIT_NODE_COMPILE_SLOTS="8")

    processes = [start(folder, number) for number, folder in enumerate(folders)]
    compiler = gate.next()
    _until(lambda: _waiters(build) == 2, "not all wait")
    gate.open(compiler)
    compilers = [gate.next(), gate.next()]
    processes += [start(folder, number) for number, folder in enumerate(folders, 3)]  # one hits
    _until(lambda: _waiters(build) == 2, "not each waits for its own")
    for compiler in compilers:
        gate.open(compiler)

    assert [_end(process) for process in processes] == [0] * 6
    assert gate.told() == b""
    counted = build.counted()
    assert counted.pop("hit", 0) + counted.pop("hit after waiting", 0) == 3
    assert counted == {"compiled": 3}


def test_waiters_get_a_failure(build: Build, gate: Gate) -> None:
    """A compile that fails is not repeated by those who waited for it."""
    build.write("a.c", "int f(void) { return nothing; }\n")
    processes = [_start(build, gate, number) for number in range(4)]
    compiler = gate.next()
    _until(lambda: _waiters(build) == 3, "not all wait")
    gate.open(compiler)
    ends = [process.communicate(timeout=SECONDS) for process in processes]

    assert [process.returncode for process in processes] == [1] * 4
    assert len(set(ends)) == 1
    assert "nothing" in ends[0][1]
    assert build.counted() == {"failed": 1, "failure after waiting": 3}


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name
)
def test_a_launcher_that_is_ended(build: Build, gate: Gate, number: signal.Signals) -> None:
    """No compiler and no temporary file is left; it ends by that signal; the next takes over."""
    temporary = build.folder.parent / "temporary"
    temporary.mkdir()
    # Not one that has stopped: the kernel itself ends those whose parent does.
    gate.hold.touch()
    first = _start(build, gate, 1, TMPDIR=str(temporary))
    compiler = gate.next()
    _until(lambda: _name(compiler) == "sleep", "the compiler does not hold")
    gate.hold.unlink()
    second = _start(build, gate, 2)
    _until(lambda: _waiters(build) == 1, "the second does not wait")
    first.send_signal(number)

    assert _end(first) == -number
    _until(lambda: _gone(compiler), "the compiler is left")
    gate.open(gate.next())

    assert _end(second) == 0
    assert build.counted() == {"compiled": 1}
    _until(lambda: not list(temporary.iterdir()), "a temporary file is left")


def test_a_compiler_that_is_killed(build: Build, gate: Gate) -> None:
    """Its launcher ends by the same signal; who waits compiles."""
    first = _start(build, gate, 1)
    compiler = gate.next()
    second = _start(build, gate, 2)
    _until(lambda: _waiters(build) == 1, "the second does not wait")
    os.kill(compiler, signal.SIGKILL)

    assert _end(first) == -signal.SIGKILL
    gate.open(gate.next())

    assert _end(second) == 0
    assert build.counted() == {"compiled": 1, "failed": 1}


@pytest.mark.slow
def test_a_launcher_that_is_stopped(build: Build, gate: Gate) -> None:
    """Its silence ends a waiter's patience, which then compiles for itself."""
    first = _start(build, gate, 1)
    compiler = gate.next()
    first.send_signal(signal.SIGSTOP)
    second = _start(build, gate, 2, AJIT_PATIENCE_SECONDS="1")
    gate.open(gate.next())

    assert _end(second) == 0
    first.send_signal(signal.SIGCONT)
    gate.open(compiler)

    assert _end(first) == 0


def test_a_cache_that_cannot_be_made(build: Build) -> None:
    """The compile goes on without it."""
    build.write("a.c", "int f(void) { return 1; }\n")
    build.env["AJIT_CACHE_DIR"] = "/proc/self/nowhere"

    result = build.run("gcc", "-c", "a.c", "-o", "a.o")

    assert (result.code, result.err, set(result.files)) == (0, "", {"a.o"})


def test_a_cache_of_something_else(build: Build) -> None:
    """A directory that is no cache is not touched."""
    build.write("a.c", "int f(void) { return 1; }\n")
    build.cache.mkdir()
    (build.cache / "thesis").write_text("all of it")

    result = build.run("gcc", "-c", "a.c", "-o", "a.o")

    assert (result.code, result.err, set(result.files)) == (0, "", {"a.o"})
    assert [path.name for path in build.cache.iterdir()] == ["thesis"]


def test_a_spoilt_entry_is_compiled_again(build: Build) -> None:
    """Neither way takes an entry whose bytes are not what they were."""
    build.write("a.c", "int f(void) { return 1; }\n")
    command = ("gcc", "-c", "a.c", "-o", "a.o")
    build.check(*command)
    entry = next((build.cache / "entries").rglob("*.ajit"))
    entry.write_bytes(entry.read_bytes()[:-40] + b"?" * 40)

    assert build.check(*command) == {"compiled": 1}
    assert build.check(*command) == {"hit": 1}


def test_a_memo_of_another_user_is_not_taken(build: Build) -> None:
    """What others may have written is left to the other way, which refuses it as well."""
    build.write("a.c", "int f(void) { return 1; }\n")
    command = ("gcc", "-c", "a.c", "-o", "a.o")
    build.check(*command)
    build.cache.chmod(0o777)

    result = build.run(*command)

    assert result.code == 0
    assert build.counted() == {}


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """A file system that can fail and hang."""
    if why := why_no_fuse():
        pytest.skip(why)
    with Mount(tmp_path) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["with a hit", "cold"])
def test_a_cache_that_hangs(tmp_path: Path, mount: Mount, *, before: bool) -> None:
    """The compile goes on without it, within seconds."""
    build = Build(tmp_path / "project", mount.path / "cache")
    build.write("a.c", "int f(void) { return 1; }\n")
    if before:
        build.run("gcc", "-c", "a.c", "-o", "a.o")
    mount.stop()
    try:
        begun = time.monotonic()
        result = build.run("gcc", "-c", "a.c", "-o", "b.o")
        seconds = time.monotonic() - begun
    finally:
        mount.go_on()

    assert (result.code, set(result.files)) == (0, {"b.o"})
    assert seconds < 30


@pytest.mark.slow
def test_a_cache_that_is_full(tmp_path: Path, mount: Mount) -> None:
    """What cannot be written is not kept, and that is all."""
    build = Build(tmp_path / "project", mount.path / "cache")
    build.write("a.c", "int f(void) { return 1; }\n")
    build.run("gcc", "-c", "a.c", "-o", "a.o")
    build.write("a.c", "int f(void) { return 2; }\n")
    mount.fail(28)  # ENOSPC
    result = build.run("gcc", "-c", "a.c", "-o", "b.o")
    mount.answer()

    assert (result.code, result.err, set(result.files)) == (0, "", {"b.o"})
