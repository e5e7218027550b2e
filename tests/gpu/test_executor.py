"""The executor's library: the rules of the CUDA thread, R1 to R5, and its layout."""

from __future__ import annotations

import ctypes
import gc
import mmap
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from ajit._gpu.driver import CPU_LIBRARY
from ajit._gpu.wire import NATIVE
from tests.gpu.support import Faults, cpu_device, kernels, until

EXECUTOR = NATIVE / "libajit_executor.so"
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-D_GNU_SOURCE"]


def test_the_library_has_no_python_symbol():
    """R5: neither defined nor wanted, so it cannot take the GIL by accident."""
    nm = shutil.which("nm") or pytest.skip("no nm on PATH")
    symbols = subprocess.run(
        [nm, "-D", EXECUTOR], check=True, capture_output=True, text=True
    ).stdout

    assert "ajit_serve" in symbols
    assert re.findall(r"\b_?Py\w*", symbols) == []


# Calls that can block, by the C library's names, and the one file that may: its lock is taken
# by the watchdog and by the CUDA thread's start and end, where the GIL is let go.
LOCKS = re.compile(
    r"\b(pthread_(?:mutex|cond|rwlock|spin)_\w*(?:lock|wait)|sem_\w*wait|mtx_lock)\b"
)
MAY_LOCK = {"watchdog.c"}


def files_with_locks(sources, build):
    """Compile files of the executor; returns those that refer to anything that blocks."""
    compiler = shutil.which("cc") or pytest.skip("no C compiler on PATH")
    nm = shutil.which("nm") or pytest.skip("no nm on PATH")
    command = [compiler, *WARNINGS, f"-I{NATIVE}/executor", "-c"]
    subprocess.run([*command, *sources], cwd=build, check=True, timeout=60)
    found = set()
    for source in sources:
        compiled = [nm, "-u", build / f"{source.stem}.o"]
        if LOCKS.search(
            subprocess.run(compiled, check=True, capture_output=True, text=True).stdout
        ):
            found.add(source.name)
    return found


def test_no_lock_is_taken_where_the_gil_may_be_held(tmp_path):
    """R4: what Python calls with the GIL refers to no lock, and a file that does is found."""
    broken = tmp_path / "broken.c"
    broken.write_text(
        (NATIVE / "executor/port.c").read_text() + "\nint lock_it(pthread_mutex_t *mutex);\n"
        "int lock_it(pthread_mutex_t *mutex) { return pthread_mutex_lock(mutex); }\n"
    )

    assert files_with_locks([*NATIVE.glob("executor/*.c")], tmp_path) == MAY_LOCK
    assert files_with_locks([broken], tmp_path) == {"broken.c"}


def test_only_its_own_functions_are_visible():
    """Nothing but ajit_* is exported, and no driver function is linked."""
    nm = shutil.which("nm") or pytest.skip("no nm on PATH")
    command = [nm, "-D", "--defined-only", EXECUTOR]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    exported = {line.split()[-1].partition("@")[0] for line in lines}

    assert {name for name in exported if not name.startswith("ajit_")} <= {"_init", "_fini"}
    everything = subprocess.run([nm, "-D", EXECUTOR], check=True, capture_output=True, text=True)
    assert re.findall(r"\bcu[A-Z]\w*", everything.stdout) == []


@pytest.mark.slow  # zig's first start fills a cache
def test_it_builds_without_a_system_compiler(tmp_path):
    """The ziglang wheel builds it too, without a warning."""
    pytest.importorskip("ziglang")
    sources = sorted(NATIVE.glob("executor/*.c"))
    compiler = [sys.executable, "-m", "ziglang", "cc"]
    command = [*compiler, *WARNINGS, "-fPIC", "-shared", *sources, "-o", tmp_path / "executor.so"]

    subprocess.run(command, check=True, timeout=110)


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_threads_that_submit_wait_free_and_leave_at_once(sanitizer, tmp_path):
    """Under the sanitizers, every ticket is settled once and nothing is left."""
    compiler = shutil.which("gcc") or pytest.skip("no gcc on PATH")
    program, rules = tmp_path / "stress", tmp_path / "suppressions"
    # The driver itself is built without sanitizers: its atomics are invisible to them.
    rules.write_text(f"race:{CPU_LIBRARY}\n")
    sources = [Path(__file__).with_name("executor_stress.c"), *NATIVE.glob("executor/*.c")]
    flags = [*WARNINGS, "-g", "-O1", f"-fsanitize={sanitizer}", f"-I{NATIVE}"]
    built = subprocess.run(
        [compiler, *flags, *sources, "-o", program, "-ldl", "-pthread"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "cannot find" in built.stderr:
        pytest.skip(f"no library for -fsanitize={sanitizer}")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run(
        [program, NATIVE / CPU_LIBRARY, "30"],
        env={"TSAN_OPTIONS": f"suppressions={rules} exitcode=66"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "failures 0, left 0, live 0" in ran.stdout


@pytest.mark.anyio
async def test_the_driver_is_never_entered_with_the_gil(journal):
    """R1: of all calls of a device's life, not one is made while holding the GIL."""
    async with cpu_device() as device:
        get = await kernels(device)
        buffer = await device.upload(bytes(400))
        for _ in range(20):
            await get("add_one").launch(1, 100, buffer, 100)
        await device.fill(await device.alloc(10), 1)
        await device.copy(await device.alloc(400), buffer)
        await device.download(buffer)
        (await device.alloc_pinned(10)).free()
        memory = mmap.mmap(-1, mmap.PAGESIZE)
        await (await device.register_host(memory)).aclose()
        clustered = get("add_one").with_attributes(cluster=2)
        await clustered.launch(2, 50, buffer, 100, timed=True)
        await _use_streams_and_graphs(device, buffer)
        await device.run(lambda: None)
        gc.collect()

    calls = journal.since(0)
    assert len(calls) > 100
    assert {"cuLaunchKernelEx", "cuMemAllocFromPoolAsync", "cuMemFreeAsync"} <= set(calls)
    assert {"cuEventElapsedTime_v2", "cuMemPoolDestroy"} <= set(calls)
    assert {"cuMemHostRegister_v2", "cuMemHostUnregister"} <= set(calls)
    assert journal.violations() == 0


async def _use_streams_and_graphs(device, buffer):
    stream, start, end = (
        await device.create_stream(),
        await device.create_event(),
        await device.create_event(),
    )
    stream.wait(start.record())
    async with device.batch(steps=True, stream=stream) as batch:
        batch.add_copies([(buffer[0:4], bytes(4)), (buffer[4:8], bytes(4))])
    await end.record(stream)
    await start.seconds_until(end)
    async with device.capture() as graph:
        graph.add_fill(buffer, 1)
    await graph.launch(stream=stream)
    for owned in (stream, start, end, graph):
        owned.free()


@pytest.mark.anyio
@pytest.mark.usefixtures("patient_threads")
async def test_completions_do_not_need_the_gil(faults):
    """R2: host functions run while a thread sits in C and holds the GIL."""
    holding = ctypes.PyDLL(None)
    library = ctypes.PyDLL(str(NATIVE / CPU_LIBRARY))
    async with cpu_device() as device:
        faults.hold()
        tickets = [device.mark() for _ in range(100)]
        await until(lambda: device.statistics().dispatched >= 100)
        before = device.statistics().settled
        library.ajit_cpu_hold_streams(0)
        looks = 0
        # The GIL is held for all of it: no other thread makes this one let it go.
        while device.statistics().settled - before < 100 and looks < 6000:
            holding.usleep(10_000)
            looks += 1
        after = device.statistics().settled
        for ticket in tickets:
            await ticket

        assert after - before == 100


@pytest.mark.anyio
async def test_a_blocking_driver_blocks_neither_the_loop_nor_other_threads(faults):
    """R1, R4: while a call hangs in the driver, the loop runs, and so do other threads."""
    async with cpu_device() as device:
        get = await kernels(device)
        with faults.stopped("cuLaunchKernel"):
            ticket = get("nothing").launch(1, 1)
            await until(lambda: device.health().operation == "launch")
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            other = await anyio.to_thread.run_sync(lambda: "another thread")

            assert other
            assert not ticket.done
        await ticket


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("function", "use"),
    [
        ("cuMemAllocFromPoolAsync", lambda device, _: device.alloc(8)),
        ("cuMemHostAlloc", lambda device, _: device.alloc_pinned(8)),
        ("cuMemcpyHtoDAsync_v2", lambda device, buffer: device.copy(buffer, bytes(8))),
        ("cuMemcpyDtoHAsync_v2", lambda device, buffer: device.download(buffer)),
        ("cuMemcpyDtoDAsync_v2", lambda device, buffer: device.copy(buffer, buffer)),
        ("cuMemsetD8Async", lambda device, buffer: device.fill(buffer, 1)),
    ],
)
async def test_each_call_that_fails_is_told(faults: Faults, function, use):
    """A failing driver call fails its own ticket with its code, and nothing after it."""
    async with cpu_device() as device:
        buffer = await device.upload(bytes(8))
        faults.inject(function, 999)
        with pytest.raises(Exception, match="CUDA_ERROR_UNKNOWN"):
            await use(device, buffer)
        await use(device, buffer)

        assert device.statistics().failed == 1


@pytest.mark.anyio
@pytest.mark.parametrize("function", ["cuMemFreeAsync", "cuModuleUnload", "cuStreamDestroy_v2"])
async def test_a_call_that_fails_while_tidying_up_is_no_error(faults, function):
    """No task waits for a free or an unload: a refusal does not keep a device from closing."""
    faults.inject(function, 999)
    async with cpu_device() as device:
        await kernels(device)
        await device.upload(bytes(8))
