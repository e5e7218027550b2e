"""Compiles of a server whose supervisor has left it with other signals than usual."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.compile.support import fake_compiler

ROOT = Path(__file__).parents[3]
ARCH = os.uname().machine

# Ignored signals and the mask stay over exec: the server below is a new program.
SUPERVISOR = """
import os, signal, sys
for number in map(int, sys.argv[1].split(",")):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[2:]])
"""

SERVER = """
import json, os, signal, sys
from ajit.errors import AjitError
from tests.compile.support import Bench, job, group_members

def compile(source, compiler, arch, **given):
    bench = Bench(**given)
    try:
        output = bench.compile(job(source, compiler=compiler, arch=arch))
        return ["", len(output.data), bench.slot.worker_pid and masks(bench.slot.worker_pid)]
    except AjitError as exc:
        return [type(exc).__name__, str(exc), None]
    finally:
        bench.close()

def masks(pid):
    with open(f"/proc/{pid}/status") as file:
        found = dict(line.split(":") for line in file)
    return [int(found[name], 16) for name in ("SigBlk", "SigIgn")]

print(json.dumps([compile(**given) for given in json.loads(sys.argv[1])]))
"""

GOOD = 'extern "C" __global__ void plain(float* x) { x[0] = 1; }'
BAD = "this is no C++"
IGNORED = [signal.SIGCHLD, signal.SIGINT, signal.SIGHUP, signal.SIGTERM]


def serve(*compiles: dict[str, str]) -> list[Any]:
    """Compile in a server started with SIGCHLD and others ignored, and all signals blocked."""
    found: list[Any] = json.loads(supervised(IGNORED, SERVER, json.dumps(compiles)))
    return found


def supervised(ignored: list[signal.Signals], *program: str) -> str:
    """Run a program that inherits ignored signals; returns what it prints."""
    numbers = ",".join(str(int(number)) for number in ignored)
    ended = subprocess.run(
        [sys.executable, "-c", SUPERVISOR, numbers, *program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_server_that_ignores_and_blocks_signals_compiles(compiler: dict[str, str]) -> None:
    """A good source gives a kernel, a bad one its compiler's error; no signal is blocked."""
    good, bad = serve({"source": GOOD, **compiler}, {"source": BAD, **compiler})
    blocked, ignored = good[2]

    assert good[0] == ""
    assert bad[0] == "CompileError"
    assert blocked == 0
    assert [n for n in IGNORED if ignored >> (n - 1) & 1] == []


@pytest.mark.parametrize("how", ["itself", "its child"])
def test_a_compiler_that_is_killed_while_it_writes_has_crashed(tmp_path: Path, how: str) -> None:
    """Whatever it has written until then is no result."""
    write = 'head -c 3000 /bin/sh > "$out"'
    kill = f"{write}; kill -9 $$"
    behaviour = kill if how == "itself" else f"export out; bash -c '{kill}'; exit $?"
    fake = fake_compiler(tmp_path, behaviour)

    [[error, text, _]] = serve(
        {"source": GOOD, "compiler": "host", "arch": ARCH, "host_compiler": fake}
    )

    assert error == "CompilerCrashed"
    assert "SIGKILL" in text


def test_a_worker_that_dies_under_a_server_that_ignores_its_end_has_crashed() -> None:
    """The status is lost, and the error says so; the next compile gets a new worker."""
    program = """
import os, signal
from ajit.errors import CompilerCrashed
from ajit._compile.pool.worker_process import WorkerProcess
from tests.compile.support import Bench, job
bench = Bench()
bench.compile(job())
exchange = WorkerProcess.exchange
def killing(self, *args, **given):
    os.kill(self.pid, signal.SIGKILL)
    return exchange(self, *args, **given)
WorkerProcess.exchange = killing
try:
    bench.compile(job())
except CompilerCrashed as exc:
    print(exc)
WorkerProcess.exchange = exchange
print(sorted(bench.compile(job()).lowered), bench.slot.started)
bench.close()
"""
    said = supervised([signal.SIGCHLD], program)

    assert "its exit status is lost: this process ignores SIGCHLD" in said
    assert said.splitlines()[-1] == "['plain'] 2"
