"""Machines that lack what every other has: ``/proc``, threads, processes, open files."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ajit._cache.entries.disk import DiskStore
from ajit._cache.files.directory import open_cache_directory
from ajit.cli import exits
from tests.cache.artifacts import a_key, an_artifact
from tests.cli.conftest import CommandLine

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "prlimit"))),
    reason="needs root, and programs of util-linux",
)

USER = 60_000 + os.getpid() % 4000
"""Of whom no process runs: limits count all processes of a user."""

HOST = ("--arch", platform.machine())
WITHOUT_PROC = (
    "unshare", "--mount", "sh", "-c",
    'mount --make-rprivate / && mount -t tmpfs none /proc && exec "$@"', "sh",
)  # fmt: skip
_READ_ONLY = (
    'mount --make-rprivate / && mount --bind "$CACHE" "$CACHE" && mount -o remount,bind,ro "$CACHE"'
)
ANOTHER_USER = (
    # Limits do not hold for root. This Python may lie where no other user can look.
    "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups",
    *(f"--{kind}=-all,+dac_read_search" for kind in ("inh-caps", "ambient-caps", "bounding-set")),
)  # fmt: skip
RUN = """
import anyio, ajit
async def main():
    async with ajit.open_runtime(device="cpu") as rt:
        await rt.kernel(ajit.Spec("__global__ void k() {}", "k"))
try:
    anyio.run(main)
except ajit.AjitError as exc:
    print(type(exc).__name__, exc)
"""


@pytest.fixture
def ajit():
    """Run `ajit` commands on an empty cache, in a folder of the other user."""
    folder = Path(tempfile.mkdtemp(prefix="ajit-poor-"))
    os.chown(folder, USER, USER)
    command_line = CommandLine(folder)
    command_line.environ["HOME"] = str(folder)
    yield command_line
    command_line.close()
    shutil.rmtree(folder)


@pytest.fixture
def source(ajit):
    """A source there."""
    path = ajit.folder / "kernel.cu"
    path.write_text("__global__ void kernel(float *x) { x[0] = 1; }\n")
    return path


@pytest.fixture
def no_proc():
    """Skip where no mount namespace can be made."""
    if subprocess.run([*WITHOUT_PROC, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    return WITHOUT_PROC


def limited(kind, number):
    """Run as another user who may have so many of something."""
    return (*ANOTHER_USER, "prlimit", f"--{kind}={number}:{number}")


def test_doctor_says_that_there_is_no_proc(ajit, no_proc):
    """And what does not work without; every other check is made."""
    ended = ajit("doctor", "--json", through=no_proc)

    checks = {check["name"]: check for check in ended.json()["checks"]}
    assert ended.code == exits.PROBLEM
    assert checks["/proc"]["status"] == "problem"
    assert "mount it" in checks["/proc"]["advice"]
    assert checks["cache locks"]["status"] == "ok"


def test_a_compile_without_proc_says_why_it_is_not_kept(ajit, no_proc, source):
    """NVRTC is recorded in its own process, and is kept; a program is not."""
    host = ajit("compile", source, "--entry", "kernel", *HOST, "--json", through=no_proc)
    nvrtc = ajit("compile", source, "--entry", "kernel", "--arch", "sm_90a", "--json",
                 through=no_proc)  # fmt: skip

    assert (host.code, nvrtc.code) == (exits.PARTLY, exits.FINE)
    assert "there is no /proc here" in host.json()["not_stored"]


def test_who_removes_from_a_read_only_cache_is_told_so_once(ajit, no_proc):
    """In words, and not for each entry by the number of an error."""
    store = DiskStore(open_cache_directory(ajit.cache_dir))
    for name in ("one", "two"):
        store.publish(an_artifact(a_key(name)))
    script = f'{_READ_ONLY} && exec "$@"'
    through = ("unshare", "--mount", "sh", "-c", script, "sh")
    ended = ajit("cache", "rm", "--all", "--yes", through=through, CACHE=str(ajit.cache_dir))

    assert ended.code == exits.ENVIRONMENT
    assert "it cannot be written, so nothing was removed" in ended.err
    assert len(ended.err.splitlines()) <= 2
    assert "Errno" not in ended.err


def test_the_cpu_driver_says_that_it_needs_proc(ajit, no_proc):
    """A kernel cannot be loaded, and the error says why."""
    done = subprocess.run(
        [*no_proc, sys.executable, "-c", RUN], env=ajit.environ, check=False,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert "LoadError" in done.stdout, done.stderr
    assert "/proc is not there: mount it" in done.stdout


@pytest.mark.parametrize("number", [1, 2, 3, 5, 7, 9, 10, 11])
def test_too_few_processes_are_one_error(ajit, source, number):
    """Wherever the next thread or process was wanted: in ajit, in a worker, in a compiler."""
    ended = ajit("compile", source, "--entry", "kernel", *HOST, "--json",
                 through=limited("nproc", number))  # fmt: skip

    found = ended.json()
    assert (ended.code, found["error"]) == (exits.ENVIRONMENT, "LimitReached")
    assert found["what"] in ("threads", "processes")
    assert (found["limit"], found["option"]) == (number, "ulimit -u")
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("number", [7, 9, 12, 14])
def test_too_few_open_files_are_one_error(ajit, source, number):
    """A compiler that could not be started for lack of them is not said to be missing."""
    ended = ajit("compile", source, "--entry", "kernel", *HOST, "--json",
                 through=limited("nofile", number))  # fmt: skip

    found = ended.json()
    assert (ended.code, found["error"]) == (exits.ENVIRONMENT, "LimitReached")
    assert (found["what"], found["limit"]) == ("open files", number)
    assert "Traceback" not in ended.err


def test_enough_processes_are_enough(ajit, source):
    """The limit is not what fails a source that is wrong."""
    source.write_text("__global__ void kernel() { syntax error }")
    ended = ajit("compile", source, "--entry", "kernel", *HOST, "--json",
                 through=limited("nproc", 40))  # fmt: skip

    assert ended.json()["error"] == "CompileError"
