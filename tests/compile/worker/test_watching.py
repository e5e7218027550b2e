"""Watching: programs that are linked statically are seen to read, by the kernel's help."""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ajit._compile.recorder.digests import FileStamp
from ajit._compile.toolchains.discovery import NATIVE_DIR
from ajit._compile.worker.records import ABSENT, Record, unpack_records
from ajit._compile.worker.watching import Watcher, is_static
from tests.compile.worker.forbidding import PROCESS_VM_READV, SECCOMP, forbidding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How often a start is tried that fails.
STARTS = 50
PROGRAM = """
import ctypes, errno, os, stat, subprocess, sys, threading
from pathlib import Path

def told(name, call):
    try:
        call()
        print(name, "well")
    except OSError as exc:
        print(name, errno.errorcode[exc.errno])

here, fd = os.getcwd(), os.open("inc", os.O_RDONLY)
told("header", lambda: os.close(os.open("inc/a.h", os.O_RDONLY)))
told("absent", lambda: os.open("inc/absent.h", os.O_RDONLY))
told("no directory", lambda: os.stat("inc/a.h/b.h"))
told("absolute", lambda: os.stat(here + "/inc/absolute.h"))
told("by descriptor", lambda: os.stat("at.h", dir_fd=fd))
told("no descriptor", lambda: os.stat("inc/at.h", dir_fd=999))
told("no path", lambda: os.stat(""))
told("too long", lambda: os.stat("x" * 5000))
told("loop", lambda: os.stat("loop"))
told("link itself", lambda: os.lstat("loop"))
told("access", lambda: os.access("inc/access.h", os.R_OK))
told("made", lambda: os.close(os.open("made", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)))
told("not made", lambda: os.open("made", os.O_RDWR | os.O_CREAT | os.O_EXCL))
told("written", lambda: Path("written").write_text("x"))
told("no program", lambda: os.execv("./nothing", ["x"]))
thread = threading.Thread(target=lambda: told("thread", lambda: os.stat("inc/thread.h")))
thread.start(); thread.join()
child = "import os; os.path.exists('inc/child.h')"
print(subprocess.run([sys.executable, "-S", "-c", child]).returncode)
libc = ctypes.CDLL(None, use_errno=True)
print(libc.open(ctypes.c_void_p(1), 0), ctypes.get_errno() == errno.EFAULT)
print(libc.syscall(425, 1, 0), ctypes.get_errno() == errno.ENOSYS, file=sys.stderr)
"""
"""Asks for files in many ways; its output says what the kernel answered."""


LOOKS_AGAIN = """
import os
print("".join("y" if os.path.exists("comes") else "n" for _ in range(5000)), end="")
"""


class Watch:
    """A watcher in this process, with its records."""

    def __init__(self) -> None:
        library = ctypes.CDLL(str(Path(NATIVE_DIR, "libajit_recorder.so")))
        self.descriptor = os.memfd_create("records")
        flags = fcntl.fcntl(self.descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags | os.O_APPEND)
        self.watcher = Watcher(library, self.descriptor, self.saw)

    def records(self) -> list[Record]:
        """All records so far."""
        return list(unpack_records(os.pread(self.descriptor, 1 << 24, 0)))

    def saw(self, name: str) -> bool:
        """Whether a path that ends so is among them."""
        return any(path.endswith(name) for _, path, _ in self.records())

    def kinds(self, folder: Path) -> dict[str, str]:
        """Name of each path below a folder, and how it was asked for last."""
        below = f"{folder}/"
        return {
            path.removeprefix(below): chr(kind)
            for kind, path, _ in self.records()
            if path.startswith(below)
        }


@pytest.fixture
def watch() -> Iterator[Watch]:
    """A watcher; the test is skipped where programs cannot be watched."""
    made = Watch()
    if not made.watcher.is_allowed():
        os.close(made.descriptor)
        pytest.skip("this kernel, or this container, does not let programs be watched (seccomp)")
    yield made
    os.close(made.descriptor)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one header and a link that leads to itself."""
    (tmp_path / "inc").mkdir()
    (tmp_path / "inc" / "a.h").write_text("// a header")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


def run(folder: Path, enter: Callable[[], object] | None) -> tuple[str, str]:
    """Run the program in a folder, and return what it prints."""
    for name in ("made", "written"):
        (folder / name).unlink(missing_ok=True)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with begin([sys.executable, "-S", "-c", PROGRAM], enter, cwd=folder, **pipes) as process:
        output, errors = process.communicate(timeout=60)
    return output.decode(), errors.decode()


def begin(
    command: list[str], enter: Callable[[], object] | None, **arguments: Any
) -> subprocess.Popen[bytes]:
    """Start a program that is watched."""
    # What runs between fork and exec is one call into C, which needs no lock.
    return subprocess.Popen(command, preexec_fn=enter, **arguments)  # noqa: PLW1509


def own(kind: str) -> list[str]:
    """Numbers of this process's descriptors (``fd``) or threads (``task``)."""
    return sorted(path.name for path in Path("/proc/self", kind).iterdir())


def test_a_program_is_answered_as_if_it_were_not_watched(watch: Watch, folder: Path) -> None:
    """Each result and each errno; only io_uring, which would open files unseen, is not there."""
    expected, _ = run(folder, None)
    with watch.watcher.program() as enter:
        actual, errors = run(folder, enter)

    assert "absent ENOENT" in expected
    assert "no directory ENOTDIR" in expected
    assert actual == expected
    assert errors == "-1 True\n"


def test_what_a_program_asks_for_is_recorded(watch: Watch, folder: Path) -> None:
    """Whichever call it makes, in threads and in children, from wherever a path counts."""
    expected = {
        "inc": "p",
        "inc/a.h": "r",
        "inc/absent.h": "a",
        "inc/a.h/b.h": "a",
        "inc/absolute.h": "a",
        "inc/at.h": "a",
        "loop": "p",
        "inc/access.h": "a",
        "made": "p",
        "written": "w",
        "./nothing": "a",
        "inc/thread.h": "a",
        "inc/child.h": "a",
    }
    with watch.watcher.program() as enter:
        run(folder, enter)

    assert watch.kinds(folder) == expected
    assert watch.watcher.lost == 0
    program = os.path.realpath(sys.executable)
    assert (ord("x"), program, FileStamp.of(program)) in [
        (kind, path, state[:5]) for kind, path, state in watch.records()
    ]


def test_what_is_recorded_as_absent_was_not_found(watch: Watch, folder: Path) -> None:
    """Though the file comes and goes all the time: the program gets the answer that is recorded."""
    with watch.watcher.program() as enter:
        process = begin(
            [sys.executable, "-S", "-c", LOOKS_AGAIN], enter, cwd=folder, stdout=subprocess.PIPE
        )
        while process.poll() is None:
            (folder / "comes").touch()
            (folder / "comes").unlink()
    with process:
        assert process.stdout is not None
        found = [answer == ord("y") for answer in process.stdout.read()]
    present = [kind != ABSENT for kind, path, _ in watch.records() if path == f"{folder}/comes"]
    unseen = [
        number for number, pair in enumerate(zip(present, found, strict=True)) if pair[1] > pair[0]
    ]

    assert 0 < sum(found) < len(found)
    assert unseen == []


def test_a_read_has_the_state_of_its_file(watch: Watch, folder: Path) -> None:
    """And the time: a later change can be told."""
    info = (folder / "inc" / "a.h").stat()
    expected = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    before_ns = time.clock_gettime_ns(time.CLOCK_REALTIME) - 20_000_000
    with watch.watcher.program() as enter:
        run(folder, enter)
    state = next(
        s for k, path, s in watch.records() if path == f"{folder}/inc/a.h" and k == ord("r")
    )

    assert state[:5] == expected
    assert before_ns <= state[5] <= time.time_ns()


def test_a_program_does_not_outlive_its_watch(watch: Watch) -> None:
    """Its next look for a file fails, so that it ends and does not hang: here by exit code 7."""
    script = "echo begun; while [ -e / ]; do :; done; exit 7"
    with watch.watcher.program() as enter:
        process = begin(["/bin/sh", "-c", script], enter, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
    with process:
        returncode = process.wait(20)

    assert returncode == 7


def test_a_program_does_not_outlive_its_watcher(watch: Watch) -> None:
    """The process that watches is killed at work: what it watches fails, and ends."""
    script = "echo begun; while [ -e / ]; do :; done; exit 7"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with watch.watcher.program() as enter:
            begin(["/bin/sh", "-c", script], enter, stdout=write).wait()
        os._exit(0)
    os.close(write)
    begun = os.read(read, 6)
    os.kill(child, 9)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:  # the shell has its other end
        rest = pipe.read()

    assert (begun, rest) == (b"begun\n", "")


def test_a_start_that_fails_leaves_nothing(watch: Watch) -> None:
    """No descriptor, no thread, however often."""
    before = len(own("fd")), len(own("task"))
    for _ in range(STARTS):
        with pytest.raises(FileNotFoundError), watch.watcher.program() as enter:
            begin(["/nonexistent"], enter)

    # One of each start would be far more; what earlier tests left may come to its end meanwhile.
    assert len(own("fd")) < before[0] + STARTS // 2
    assert len(own("task")) < before[1] + STARTS // 2


@pytest.mark.parametrize("number", [SECCOMP, PROCESS_VM_READV], ids=["seccomp", "process_vm_readv"])
def test_where_it_is_forbidden_programs_run_unwatched(folder: Path, number: int) -> None:
    """A container's profile may forbid any part of it; the proof fails, programs do not."""
    made = Watch()

    def unwatched() -> tuple[bool, str]:
        allowed = made.watcher.is_allowed()
        with made.watcher.program() as enter:
            return allowed, run(folder, enter)[0]

    with forbidding(number) as executor:
        allowed, output = executor.submit(unwatched).result()
    os.close(made.descriptor)

    assert not allowed
    assert output == run(folder, None)[0]


def test_a_static_program_is_told_from_others(tmp_path: Path) -> None:
    """By the loader that it names; scripts and what is not there are not static."""
    ziglang = pytest.importorskip("ziglang")
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")

    assert is_static(str(Path(ziglang.__file__).parent / "zig"))
    assert not is_static(sys.executable)
    assert not is_static(str(script))
    assert not is_static("/nonexistent")
