"""Contexts, initialisation, and where calls are not permitted."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

from tests.gpu.cpu_driver import Cpu

NOT_INITIALIZED, INVALID_CONTEXT, DESTROYED, NOT_PERMITTED = 3, 201, 709, 800
HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run_fresh(library: Path, *lines: str) -> str:
    """Run a few lines in a process that has not touched the driver; `d` is the library."""
    program = "\n".join([f"import ctypes, os; d = ctypes.CDLL({str(library)!r})", *lines])
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_nothing_works_before_init(driver_library: Path) -> None:
    """Every call but cuInit is error 3 in a process that did not call it."""
    out = run_fresh(driver_library, "print(d.cuCtxSynchronize(), d.cuDeviceGetCount(None))")

    assert out == "3 3"


def test_a_call_without_a_context_is_201(cpu: Cpu) -> None:
    """Contexts are current per thread: a new thread has none."""
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(cpu.try_("cuCtxSynchronize")))
    thread.start()
    thread.join()

    assert seen == [INVALID_CONTEXT]
    assert cpu.try_("cuCtxSynchronize") == 0


def test_contexts_nest(cpu: Cpu) -> None:
    """Push and pop keep the thread's earlier context."""
    context = cpu.get("cuCtxGetCurrent", ctypes.c_void_p)
    cpu.ok("cuCtxPushCurrent_v2", context)
    cpu.ok("cuCtxPopCurrent_v2", None)

    assert cpu.get("cuCtxGetCurrent", ctypes.c_void_p).value == context.value


def test_a_released_context_is_destroyed(driver_library: Path) -> None:
    """The last release destroys the context: using it is 709, retaining brings it back."""
    out = run_fresh(
        driver_library,
        "d.cuInit(0); c = ctypes.c_void_p()",
        "d.cuDevicePrimaryCtxRetain(ctypes.byref(c), 0); d.cuCtxSetCurrent(c)",
        "print(d.cuCtxSynchronize(), end=' '); d.cuDevicePrimaryCtxRelease_v2(0)",
        "print(d.cuCtxSynchronize(), end=' '); d.cuDevicePrimaryCtxRetain(ctypes.byref(c), 0)",
        "print(d.cuCtxSynchronize())",
    )

    assert out == f"0 {DESTROYED} 0"


def test_a_forked_child_has_no_driver(driver_library: Path) -> None:
    """After fork the child gets 3 from every call, cuInit included; the parent goes on."""
    out = run_fresh(
        driver_library,
        "d.cuInit(0); c = ctypes.c_void_p(); d.cuDevicePrimaryCtxRetain(ctypes.byref(c), 0)",
        "d.cuCtxSetCurrent(c); n = ctypes.c_int()",
        "pid = os.fork()",
        "if pid == 0:",
        "    codes = {d.cuInit(0), d.cuCtxSynchronize(), d.cuDeviceGetCount(ctypes.byref(n)),",
        "             d.cuStreamQuery(None), d.cuCtxSetCurrent(c),",
        "             d.cuDriverGetVersion(ctypes.byref(n))}",
        "    os._exit(sum(codes) if len(codes) == 1 else 99)",
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), d.cuCtxSynchronize())",
    )

    assert out == f"{NOT_INITIALIZED} 0"


def test_the_driver_is_not_permitted_in_a_host_function(cpu: Cpu) -> None:
    """A driver call inside a host function is 800, and it runs on a thread of the driver."""
    seen: list[int] = []

    @HOST_FUNCTION
    def call(_: object) -> None:
        seen.extend([cpu.try_("cuStreamQuery", None), threading.get_native_id()])

    cpu.ok("cuLaunchHostFunc", cpu.stream(), call, None)
    cpu.synchronize()

    assert seen[0] == NOT_PERMITTED
    assert seen[1] != threading.get_native_id()


def test_host_functions_hold_the_driver_lock(cpu: Cpu) -> None:
    """While one runs, a call that submits waits; that is what can deadlock with another lock."""
    inside, leave = os.pipe(), os.pipe()

    @HOST_FUNCTION
    def hold(_: object) -> None:
        os.write(inside[1], b".")
        os.read(leave[0], 1)

    cpu.ok("cuLaunchHostFunc", cpu.stream(), hold, None)
    os.read(inside[0], 1)
    submitted = threading.Event()

    def submit() -> None:
        cpu.start()
        cpu.stream()
        submitted.set()
        cpu.ok("cuDevicePrimaryCtxRelease_v2", 0)

    thread = threading.Thread(target=submit)
    thread.start()

    assert not submitted.wait(0.05)
    os.write(leave[1], b".")
    thread.join()
    assert submitted.is_set()
    for end in (*inside, *leave):
        os.close(end)


def test_errors_have_names_and_texts(cpu: Cpu) -> None:
    """Names as NVIDIA's; an unknown code is refused."""
    name = ctypes.c_char_p()

    assert cpu.try_("cuGetErrorName", 719, ctypes.byref(name)) == 0
    assert name.value == b"CUDA_ERROR_LAUNCH_FAILED"
    assert cpu.try_("cuGetErrorString", 4242, ctypes.byref(name)) == 1


def test_proc_addresses_know_versions(cpu: Cpu) -> None:
    """CuGetProcAddress finds base names, and says whether a name is unknown or too new."""
    found, status = ctypes.c_void_p(), ctypes.c_int()

    def ask(name: bytes, version: int) -> tuple[int, bool]:
        cpu.ok(
            "cuGetProcAddress_v2",
            name,
            ctypes.byref(found),
            version,
            ctypes.c_uint64(0),
            ctypes.byref(status),
        )
        return status.value, bool(found.value)

    assert ask(b"cuMemAlloc", 13000) == (0, True)
    assert ask(b"cuMemcpyBatchAsync", 12000) == (2, False)
    assert ask(b"cuNothing", 13000) == (1, False)
