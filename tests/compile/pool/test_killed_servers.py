"""Real servers, ended in every way there is: what they leave in the process table and on disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from ajit._compile.pool.folders import private_folder, sweep_folders
from ajit._compile.worker.place import top_of
from tests.compile.support import (
    CompilerKind,
    group_members,
    is_at_work,
    job,
    kind_of_compiler,
    wait_until,
    workers_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]

SERVER = """
import sys
from functools import partial
import anyio
from ajit._compile.pool.pool import CompilePool
from ajit._compile.toolchains.toolchains import Toolchains
from tests.compile.support import ENDLESS, job, settings

async def main(compiler, arch):
    given = settings(compile_slots=1)
    pool = CompilePool(given, Toolchains(given))
    try:
        wanted = job(ENDLESS, compiler=compiler, arch=arch)
        await pool.compile(wanted, on_beat=lambda phase, cpu_seconds: None)
    finally:
        await pool.aclose()

anyio.run(main, *sys.argv[1:])
"""
"""A small program that compiles for ever, and closes its pool if it gets the chance."""

APPLICATION = """
import sys
from contextlib import asynccontextmanager
from pathlib import Path
import anyio
import uvicorn
from starlette.applications import Starlette
import ajit
from tests.compile.support import ENDLESS, workers_of

async def compiler_at_work(compiler):
    while not any(busy(pid) for pid in workers_of(own_pid())):
        await anyio.sleep(0.02)

def own_pid():
    return int(Path("/proc/self").readlink().name)

def busy(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text() or cpu_ticks(pid) > 30

def cpu_ticks(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])

@asynccontextmanager
async def lifespan(app):
    async with ajit.open_runtime(device="none", cache_dir=sys.argv[1], compile_slots=1) as rt:
        async with anyio.create_task_group() as tasks:
            spec = ajit.Spec(ENDLESS, "plain", compiler=sys.argv[2], arch=sys.argv[3])
            tasks.start_soon(rt.compile, spec)
            await compiler_at_work(sys.argv[2])
            print(*workers_of(own_pid()), flush=True)
            raise RuntimeError("the application does not come up")
            yield

uvicorn.run(Starlette(lifespan=lifespan), host="127.0.0.1", port=0)
"""


class Server:
    """A program of the above, with a new temporary directory."""

    def __init__(self, program: str, *arguments: str, scratch: Path) -> None:
        self.scratch = scratch
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(scratch)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def await_compiler(self, kind: CompilerKind) -> int:
        """Wait until the compiler is at work; return its process group."""
        wait_until(lambda: bool(workers_of(self.process.pid)), "a worker")
        (group,) = workers_of(self.process.pid)
        wait_until(lambda: is_at_work(group, kind), f"{kind.program} at work")
        return group

    def end(self) -> None:
        """Whatever the test did: no process stays."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The server's temporary directory."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture(params=["nvrtc", "nvcc", "host"])
def kind(request: pytest.FixtureRequest) -> CompilerKind:
    """Each kind of compiler."""
    if request.param == "nvcc":
        request.getfixturevalue("nvcc")
    return kind_of_compiler(request.param)


@pytest.fixture
def server(kind: CompilerKind, scratch: Path) -> Iterator[Server]:
    """A server that compiles."""
    server = Server(SERVER, kind.name, kind.arch, scratch=scratch)
    yield server
    server.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_server_leaves_no_compiler_behind(
    server: Server, kind: CompilerKind, number: signal.Signals, scratch: Path
) -> None:
    """No compiler, no worker, no private folder: it could close its pool for SIGINT only."""
    group = server.await_compiler(kind)
    before = len(list(scratch.iterdir()))
    os.kill(server.process.pid, number)
    server.process.communicate(timeout=60)
    wait_until(lambda: not group_members(group), "the end of the group")
    wait_until(lambda: not list(scratch.iterdir()), "the removal of the private folder")

    assert server.process.returncode != 0
    # NVRTC writes no file, so it has no folder that could be left behind.
    assert before == (0 if kind.name == "nvrtc" else 1)


def test_an_application_that_fails_to_start_leaves_nothing(
    kind: CompilerKind, scratch: Path, tmp_path: Path
) -> None:
    """An exception in a web server's start-up, with a compile under way."""
    arguments = (str(tmp_path / "cache"), kind.name, kind.arch)
    server = Server(APPLICATION, *arguments, scratch=scratch)
    try:
        out, err = server.process.communicate(timeout=60)
    finally:
        server.end()

    assert server.process.returncode != 0
    assert "the application does not come up" in err
    assert out.split(), "there was a worker"
    assert not any(psutil.pid_exists(int(pid)) for pid in out.split())
    assert list(scratch.iterdir()) == []
    assert not _held_locks(tmp_path / "cache")


def test_files_of_a_killed_server_and_worker_are_swept_by_the_next(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed together they can remove nothing. Files of living processes stay."""
    kind = kind_of_compiler("host")
    server = Server(SERVER, kind.name, kind.arch, scratch=scratch)
    try:
        group = server.await_compiler(kind)
        os.killpg(group, signal.SIGSTOP)  # so that its worker cannot clean up
        server.process.kill()
        os.killpg(group, signal.SIGKILL)
        server.process.wait()
        wait_until(lambda: not group_members(group), "the end of the group")
    finally:
        server.end()
    left = list(scratch.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with private_folder(job(compiler="host")) as own:
        for name in ("ajit-notes", "other", f"{left[0].name}.txt"):
            (scratch / name).touch()
        (scratch / f"ajit-ffffffff_1.{os.getpid()}.5-recent").mkdir()
        old = scratch / f"ajit-ffffffff_1.{os.getpid()}.5-old"
        old.mkdir()
        os.utime(old, (0, 0))
        (scratch / f"{left[0].name}x").symlink_to(old)
        removed = sweep_folders()
        stays = {path.name for path in scratch.iterdir()}

    assert len(left) == 1
    assert removed == 2
    assert stays == {
        Path(top_of(own)).name,
        "ajit-notes",
        "other",
        f"{left[0].name}.txt",
        f"{left[0].name}x",
        f"ajit-ffffffff_1.{os.getpid()}.5-recent",
    }
    assert list(scratch.iterdir())


def _held_locks(folder: Path) -> list[str]:
    """Lines of the kernel's lock table about files below a folder."""
    inodes = {str(path.stat().st_ino) for path in folder.rglob("*.lock")}
    assert inodes, "there was a lease"
    lines = Path("/proc/locks").read_text().splitlines()
    return [line for line in lines if line.split()[5].rpartition(":")[2] in inodes]
