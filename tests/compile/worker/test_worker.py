"""The worker process: what it is given, what it survives, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from ajit._compile.worker import main as worker_module
from ajit.errors import AjitError, CompileError, CompilerCrashed, CompileTimeout
from tests.compile.support import (
    ENDLESS,
    KEY,
    RESULT,
    Bench,
    group_members,
    job,
    let_limits_pass,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._core.job import CompileJob

HOST = {"compiler": "host", "arch": os.uname().machine}


class Background:
    """A compile in another thread, and its end."""

    def __init__(self, bench: Bench, given: CompileJob) -> None:
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(bench, given))
        self._thread.start()

    def _run(self, bench: Bench, given: CompileJob) -> None:
        try:
            bench.compile(given)
        except AjitError as exc:
            self.error = exc

    def end(self) -> BaseException | None:
        """Wait for the end and return the error."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.error


def fake_job() -> CompileJob:
    """A job for the fake compiler."""
    return job(**HOST)


# --- what it is given


def test_only_the_worker_loads_nvrtc(bench: Bench) -> None:
    """The server process never maps the library; the worker maps the one that was fingerprinted."""
    maps = Path(f"/proc/{bench.slot.worker_pid}/maps").read_text()
    expected = bench.slot._toolchains.find("nvrtc").path

    assert "libnvrtc" not in Path("/proc/self/maps").read_text()
    assert {line.split()[-1] for line in maps.splitlines() if "libnvrtc.so" in line} == {expected}


def test_the_environment_is_small(own_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret of the server, no variable that changes a build, and no GPU."""
    for name in ("API_TOKEN", "NVCC_APPEND_FLAGS", "CPATH", "LD_PRELOAD_EXAMPLE"):
        monkeypatch.setenv(name, "leak")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    own_bench.compile(job())
    raw = Path(f"/proc/{own_bench.slot.worker_pid}/environ").read_bytes()

    assert b"leak" not in raw
    assert b"CUDA_VISIBLE_DEVICES=\0" in raw


def test_no_descriptor_is_inherited(own_bench: Bench, tmp_path: Path) -> None:
    """Not even one that was marked as inheritable; a leaked pipe would never report its end."""
    with (tmp_path / "file").open("w") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003 - os has it so
        own_bench.compile(job())
        folder = Path(f"/proc/{own_bench.slot.worker_pid}/fd")
        links = [str(descriptor.readlink()) for descriptor in folder.iterdir()]

    assert not [link for link in links if link.endswith("/file")]


def test_it_gives_way_to_the_server(own_bench: Bench) -> None:
    """Compilers run at a lower priority, and lead a separate process group."""
    own_bench.compile(job())
    pid = own_bench.slot.worker_pid
    assert pid is not None

    assert psutil.Process(pid).nice() == min(19, psutil.Process().nice() + 10)
    assert os.getpgid(pid) == pid


def test_a_chatty_library_does_not_corrupt_frames() -> None:
    """Text written to descriptor 1 goes to standard error."""
    code = (
        "import os, sys; from ajit._compile.worker.main import _claim_pipes\n"
        "_, answers = _claim_pipes()\n"
        "os.write(1, b'noise'); print('more noise'); answers.write(b'frame')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert ran.stdout == b"frame"
    assert ran.stderr == b"noisemore noise\n"


def test_it_imports_little() -> None:
    """It starts in tens of milliseconds: no event loop, no CUDA, none of the server's layers."""
    code = "import sys, ajit._compile.worker.main; print(*sys.modules, sep='\\n')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    modules = set(ran.stdout.split())

    assert not modules & {
        "anyio",
        "asyncio",
        "cuda",
        "numpy",
        "ajit._compile.pool.pool",
        "ajit._cache",
    }


def test_it_dies_at_once_if_its_parent_is_gone_already() -> None:
    """The parent may have died before the death signal was set; then none would ever come."""
    code = f"from ajit._compile.worker.main import main; main({os.getppid()}, 0)"
    ran = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, timeout=20, check=False
    )

    assert ran.returncode == 1


# --- what it survives


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_is_named_and_replaced(own_bench: Bench, number: signal.Signals) -> None:
    """The job fails with the signal's name; the next one gets a new worker."""
    own_bench.compile(job())
    pid = own_bench.slot.worker_pid
    assert pid is not None
    running = Background(own_bench, job(ENDLESS))
    wait_until(lambda: psutil.Process(pid).cpu_percent(0.05) > 30, "the compile to be at work")
    os.kill(pid, number)
    error = running.end()
    own_bench.compile(job())

    assert isinstance(error, CompilerCrashed)
    assert (error.signal, error.exit_code, error.key) == (number.name, None, KEY)
    assert own_bench.slot.started == 2


def test_a_worker_that_died_idle_fails_no_job(own_bench: Bench) -> None:
    """The kernel's memory killer may take it between two jobs."""
    own_bench.compile(job())
    pid = own_bench.slot.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "its death")

    assert own_bench.compile(job()).data
    assert own_bench.slot.started == 2


def test_a_worker_killed_for_one_job_does_not_meet_the_next(
    own_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancel may come between a job's answer and its end; it kills an innocent worker."""
    task = own_bench.task(job())
    real = own_bench.slot._recycle
    with monkeypatch.context() as patch:
        patch.setattr(
            own_bench.slot, "_recycle", lambda worker: (real(worker), own_bench.slot.cancel(task))
        )
        own_bench.slot.perform(task)

    assert own_bench.slot.worker_pid is None
    assert own_bench.compile(job()).data


@pytest.mark.parametrize("behaviour", ["kill -SEGV $$", "exit 139"])
def test_a_compiler_killed_by_a_signal_is_no_compile_error(
    faking: Callable[..., Bench], behaviour: str
) -> None:
    """A signal is named, directly or as shells and drivers report a child's."""
    with pytest.raises(CompilerCrashed) as caught:
        faking(f"echo last words; {behaviour}").compile(fake_job())

    assert caught.value.signal == "SIGSEGV"
    assert "last words" in caught.value.log


@pytest.mark.parametrize("behaviour", ["true", ': > "$out"'])
def test_success_without_a_result_is_a_crash(faking: Callable[..., Bench], behaviour: str) -> None:
    """Exit code 0 with no file, or with an empty one."""
    with pytest.raises(CompilerCrashed) as caught:
        faking(behaviour).compile(fake_job())

    assert (caught.value.signal, caught.value.exit_code) == ("", 0)


def test_a_failure_that_does_not_come_back_is_not_the_sources(
    faking: Callable[..., Bench], tmp_path: Path
) -> None:
    """g++ exits with 1 when its cc1plus was killed, as it does for an error in the source."""
    once = f'[ -e "{tmp_path}/once" ] || {{ touch "{tmp_path}/once"; echo killed; exit 1; }}'
    bench = faking(f'{once}; cp "$whole" "$out"')
    with pytest.raises(CompilerCrashed) as caught:
        bench.compile(fake_job())

    assert (caught.value.exit_code, caught.value.log) == (1, "killed")
    assert bench.compile(fake_job()).data == RESULT


def test_output_need_not_be_utf8(faking: Callable[..., Bench]) -> None:
    """Whatever a compiler prints is decoded with replacement."""
    with pytest.raises(CompileError, match="caf\ufffd") as caught:
        faking(r"printf 'caf\xe9 error\n' >&2; exit 1").compile(fake_job())

    assert caught.value.log == "caf\ufffd error"


def test_a_flood_of_output_is_capped(faking: Callable[..., Bench]) -> None:
    """The beginning and the end are kept, and no more memory is used than that."""
    flood = "echo first; head -c 30000000 /dev/zero | tr '\\0' x; echo last; exit 1"
    with pytest.raises(CompileError) as caught:
        faking(flood).compile(fake_job())

    assert caught.value.log.startswith("first")
    assert caught.value.log.endswith("last")
    assert "bytes left out" in caught.value.log
    assert len(caught.value.log) < 1_100_000


def test_an_environment_that_fails_is_not_the_sources_fault(
    own_bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No temporary directory, no interpreter: an error of ajit's tree that says what is wrong."""
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        with pytest.raises(CompilerCrashed, match="gone"):
            own_bench.compile(fake_job())
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "no-python"))
        with pytest.raises(CompilerCrashed, match="no-python"):
            own_bench.compile(job())

    assert own_bench.compile(job()).data


def test_a_path_that_is_no_text_is_refused(own_bench: Bench) -> None:
    """File names need not be UTF-8; a request to a worker must be."""
    with pytest.raises(CompilerCrashed, match="surrogates"):
        own_bench.compile(job(include_dirs=("/caf\udce9",)))

    assert own_bench.compile(job()).data


# --- limits


def test_a_compile_past_its_limit_is_killed_with_its_group(
    faking: Callable[..., Bench], scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Children of the compiler too, and its private folder goes."""
    begun = tmp_path / "begun"
    hang = f'sleep 1000 & ps -o pgid= $$ > "{tmp_path}/group"; touch "{begun}"; wait'
    let_limits_pass(monkeypatch, begun.exists)
    bench = faking(hang, compile_timeout_seconds=90.0)
    with pytest.raises(CompileTimeout) as caught:
        bench.compile(fake_job())
    group = int((tmp_path / "group").read_text())

    assert caught.value.limit_seconds == 90.0
    assert group_members(group) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("own_bench", [{"compile_timeout_seconds": 1.0}], indirect=True)
def test_a_runaway_inside_nvrtc_is_killed(own_bench: Bench) -> None:
    """A library call cannot be interrupted; its process can."""
    with pytest.raises(CompileTimeout):
        own_bench.compile(job(ENDLESS))

    assert own_bench.slot.worker_pid is None


@pytest.mark.parametrize("own_bench", [{"worker_max_jobs": 2}], indirect=True)
def test_a_worker_is_replaced_after_its_share_of_jobs(own_bench: Bench) -> None:
    """Compilers leak."""
    for _ in range(3):
        own_bench.compile(job())

    assert (own_bench.slot.started, own_bench.slot.recycled) == (2, 1)


@pytest.mark.parametrize("own_bench", [{"worker_max_bytes": 1}], indirect=True)
def test_a_worker_that_has_grown_is_replaced(own_bench: Bench) -> None:
    """After the job, not in it."""
    own_bench.compile(job())

    assert own_bench.slot.recycled == 1
    assert own_bench.slot.worker_pid is None


def test_memory_stays_bounded(bench: Bench) -> None:
    """Fifty different kernels later the worker is still the same one, below its limit."""
    started = bench.slot.started
    for number in range(50):
        bench.compile(job(f'extern "C" __global__ void plain(int* x) {{ x[0] = {number}; }}'))
    pid = bench.slot.worker_pid

    assert bench.slot.started == started
    assert psutil.Process(pid).memory_info().rss < 400 * 1024 * 1024


# --- how it ends


def test_a_finished_job_leaves_no_file(
    bench: Bench, scratch: Path, compiler: dict[str, Any]
) -> None:
    """Whether it succeeded or not."""
    bench.compile(job(**compiler))
    with pytest.raises(CompileError):
        bench.compile(job("syntax error", **compiler))

    assert list(scratch.iterdir()) == []


def test_the_death_signal_is_the_one_that_is_handled() -> None:
    """The number in the source is the kernel's, which Python does not export."""
    header = Path("/usr/include/linux/prctl.h")
    if not header.exists():
        pytest.skip("no kernel headers are installed")
    found = re.search(r"PR_SET_PDEATHSIG\s+(\d+)", header.read_text())

    assert found is not None
    assert int(found[1]) == worker_module.PR_SET_PDEATHSIG
