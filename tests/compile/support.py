"""Shared by the tests of the compile layer: jobs, a slot that works in the test's own thread."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import psutil

from ajit._compile.pool import worker_process as process_module
from ajit._compile.pool.slot import WorkerSlot
from ajit._compile.pool.task import Task
from ajit._compile.toolchains.toolchains import Toolchains
from ajit._core.job import CompileJob
from ajit.settings import Settings
from tests.images import a_shared_object

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from ajit._core.job import CompileOutput
    from ajit._system.loop import Promise

KEY = "ab" * 32
SCALE = """
template <class T, int N> __global__ void scale(T* x) { x[threadIdx.x] *= N; }
extern "C" __global__ void plain(float* x) { x[0] = 1; }
"""
ENDLESS = """
template <int A, int B> struct tree {
    static constexpr int value = tree<A - 1, 2 * B>::value ^ tree<A - 1, 2 * B + 1>::value;
};
template <int B> struct tree<0, B> { static constexpr int value = B; };
extern "C" __global__ void plain(int* x) { x[0] = tree<28, 1>::value; }
"""
"""Keeps a compiler busy for minutes (2^29 instantiations); every test that uses it kills it."""
RESULT = a_shared_object(["plain"])
"""What a fake compiler makes, if it makes anything."""

DEADLINE_SECONDS = 60.0
LIMIT_SECONDS = 10_000.0
"""Longer than the time limit of any compile here."""


def job(source: str = SCALE, entries: tuple[str, ...] = ("plain",), **fields: Any) -> CompileJob:
    """A job for NVRTC and sm_90a, unless the fields say otherwise."""
    given = {"compiler": "nvrtc", "arch": "sm_90a", "name": "kernel", "key": KEY, **fields}
    return CompileJob(source=source, entries=entries, **given)


def settings(**arguments: Any) -> Settings:
    """Settings that owe nothing to the environment."""
    return Settings(environ={}, **arguments)


class Bench:
    """A slot without its pool: compiles in the calling thread."""

    def __init__(self, **arguments: Any) -> None:
        self.settings = settings(**arguments)
        self.slot = WorkerSlot(self.settings, Toolchains(self.settings))

    def task(self, given: CompileJob, on_beat: Callable[[Any, float], None] | None = None) -> Task:
        """The task of a job; its promise is not awaited."""
        return Task(
            given,
            None,
            on_beat or (lambda _phase, _cpu: None),
            cast("Promise[CompileOutput]", None),
        )

    def compile(self, given: CompileJob) -> CompileOutput:
        """Compile a job here and now."""
        return self.slot.perform(self.task(given))

    def close(self) -> None:
        """End the worker."""
        self.slot.close()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again until a condition holds, or fail."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.01)


def let_limits_pass(monkeypatch: pytest.MonkeyPatch, when: Callable[[], object]) -> None:
    """Let the time limits of compiles of this process be over as soon as something is so."""

    def monotonic() -> float:
        return time.monotonic() + (LIMIT_SECONDS if when() else 0.0)

    fake = SimpleNamespace(monotonic=monotonic, sleep=time.sleep)
    monkeypatch.setattr(process_module, "time", fake)


def group_members(group: int) -> list[str]:
    """Names of the living processes of a process group."""
    members = []
    for process in psutil.process_iter(["pid", "name", "status"]):
        try:
            if _group_of(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process.name())
        # Gone before its file was opened, or before that was read.
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            continue
    return members


def workers_of(server: int) -> list[int]:
    """Process ids of a server's compile workers."""
    found = []
    for child in psutil.Process(server).children():
        # A child that asks a compiler for its version comes and goes.
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("ajit._compile.worker.main" in part for part in child.cmdline()):
                found.append(child.pid)
    return found


class CompilerKind(NamedTuple):
    """A kind of compiler, an arch that it builds for, and the process that does its work."""

    name: str
    arch: str
    program: str


def kind_of_compiler(name: str) -> CompilerKind:
    """The facts of one kind of compiler: ``nvrtc``, ``nvcc`` or ``host``."""
    program = {"nvrtc": "python", "nvcc": "cicc", "host": "cc1plus"}[name]
    return CompilerKind(name, os.uname().machine if name == "host" else "sm_90a", program)


def is_at_work(group: int, kind: CompilerKind) -> bool:
    """Whether the compiler proper of a worker's group is running."""
    if kind.program == "python":  # NVRTC, inside the worker
        return psutil.Process(group).cpu_times().user > 0.3
    return any(name.startswith(kind.program) for name in group_members(group))


def fake_compiler(folder: Path, behaviour: str) -> str:
    """Write a program that says what a C++ compiler says about itself, and otherwise misbehaves.

    Args:
        folder: Where to write it.
        behaviour: Shell code that runs in place of a compile; ``$out`` is the result's path, and
            ``$whole`` that of a result that could be one, `RESULT`.
    """
    path = folder / "fake-c++"
    whole = folder / "fake-result"
    whole.write_bytes(RESULT)
    path.write_text(
        "#!/bin/bash\n"
        'case "$1" in\n'
        "  --version) echo 'g++ (fake) 1.2.3'; exit 0;;\n"
        "  -dumpmachine) echo fake-linux; exit 0;;\n"
        "  -E) exit 0;;\n"
        "esac\n"
        f"whole={whole}\n"
        # As every compiler it reads ajit's header: without that nothing is published.
        'for each; do [ -f "$each/cuda_cxx/kernel.hpp" ] && cat "$each/cuda_cxx/kernel.hpp"; done'
        " > /dev/null\n"
        'while [ $# -gt 0 ] && [ "$1" != -o ]; do shift; done; out=$2\n'
        f"{behaviour}\n"
    )
    path.chmod(0o755)
    return str(path)


def _group_of(pid: int) -> int:
    # The fifth field; the second, the name, may hold spaces and brackets.
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[2])


def install_cuda(root: Path, version: int, *, cccl: bool = True) -> str:
    """Make a root that looks like an installation of CUDA's headers."""
    include = root / "include"
    (include / "cccl" / "cub").mkdir(parents=True)
    (include / "cuda_runtime_api.h").write_text(f"#define CUDART_VERSION  {version}\n")
    if cccl:
        text = "#define CUB_VERSION 300102 // macro"
        (include / "cccl" / "cub" / "version.cuh").write_text(text)
    else:
        (include / "cccl" / "cub").rmdir()
    return str(root)
