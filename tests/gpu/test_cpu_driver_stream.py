"""Streams, events, capture, and faults on demand."""

from __future__ import annotations

import ctypes
import os
import threading

import numpy as np
import pytest

from tests.gpu.cpu_driver import Cpu, address, build_image
from tests.gpu.test_cpu_driver_context import HOST_FUNCTION

INVALID_VALUE, INVALID_HANDLE, NOT_READY = 1, 400, 600
UNSUPPORTED, INVALIDATED, UNJOINED, IMPLICIT, CAPTURED_EVENT = 900, 901, 904, 906, 907
GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2
SIZE = ctypes.c_size_t


class Log:
    """Host functions that write down that they ran."""

    def __init__(self, cpu: Cpu) -> None:
        self.cpu, self.seen = cpu, list[int]()
        self.function = HOST_FUNCTION(lambda number: self.seen.append(number or 0))

    def add(self, stream: object, number: int) -> None:
        """Submit one that writes `number`."""
        self.cpu.ok("cuLaunchHostFunc", stream, self.function, ctypes.c_void_p(number))


def event(cpu: Cpu, flags: int = 0) -> ctypes.c_void_p:
    """A new event."""
    return cpu.get("cuEventCreate", ctypes.c_void_p, flags)


# ---- order ----


def test_a_stream_keeps_its_order(cpu: Cpu) -> None:
    """Work submitted first is done first."""
    log, stream = Log(cpu), cpu.stream()
    for number in range(200):
        log.add(stream, number)
    cpu.ok("cuStreamSynchronize", stream)

    assert log.seen == list(range(200))


def test_query_tells_whether_work_is_left(cpu: Cpu) -> None:
    """600 while there is work, 0 when there is none; a held device never finishes."""
    log, stream = Log(cpu), cpu.stream()
    cpu.library.ajit_cpu_hold_streams(1)
    log.add(stream, 1)

    assert cpu.try_("cuStreamQuery", stream) == NOT_READY
    cpu.library.ajit_cpu_hold_streams(0)
    cpu.ok("cuStreamSynchronize", stream)
    assert cpu.try_("cuStreamQuery", stream) == 0


def test_a_stream_waits_for_another_ones_event(cpu: Cpu) -> None:
    """Work after the wait runs after the event, and recording again does not change that."""
    log, first, second, done = Log(cpu), cpu.stream(), cpu.stream(), event(cpu)
    cpu.library.ajit_cpu_hold_streams(1)
    log.add(first, 1)
    cpu.ok("cuEventRecord", done, first)
    cpu.ok("cuStreamWaitEvent", second, done, 0)
    log.add(second, 2)
    cpu.ok("cuEventRecord", done, second)

    assert cpu.try_("cuEventQuery", done) == NOT_READY
    cpu.library.ajit_cpu_hold_streams(0)
    cpu.ok("cuEventSynchronize", done)
    assert log.seen == [1, 2]


def test_a_stream_is_done_when_its_last_event_is(cpu: Cpu) -> None:
    """Whichever of the two a thread waits for, the other is done as well.

    On one core, where the kernel runs the woken thread before the one that woke it goes on.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # of this thread, and of the stream's, which it starts
    try:
        stream, done = cpu.stream(), event(cpu)
        for _ in range(500):
            cpu.ok("cuEventRecord", done, stream)
            cpu.ok("cuEventSynchronize", done)
            assert cpu.try_("cuStreamQuery", stream) == 0

            cpu.ok("cuEventRecord", done, stream)
            cpu.ok("cuStreamSynchronize", stream)
            assert cpu.try_("cuEventQuery", done) == 0
    finally:
        os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def spinning(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A kernel that runs until a flag is set."""
    source = "__global__ void spin(volatile int *go) { while (!*go) __nanosleep(1000); }"
    return build_image(tmp_path_factory.mktemp("image"), source, "spin")


@pytest.mark.parametrize(("flags", "ordered"), [(0, True), (1, False)])
def test_blocking_streams_are_ordered_with_the_legacy_stream(
    cpu: Cpu, spinning: bytes, *, flags: int, ordered: bool
) -> None:
    """The legacy stream waits for a blocking stream's kernel, not for a non-blocking one's."""
    stream, done, go = cpu.stream(flags), event(cpu, 2), cpu.pinned(4)
    go[:] = 0
    kernel, flag = cpu.function(cpu.load(spinning), "spin"), ctypes.c_uint64(go.ctypes.data)
    assert cpu.try_launch(kernel, (1, 1, 1), (1, 1, 1), flag, stream=stream) == 0
    cpu.ok("cuEventRecord", done, None)
    if not ordered:
        cpu.ok("cuEventSynchronize", done)
    before, busy = cpu.try_("cuEventQuery", done), cpu.try_("cuStreamQuery", stream)
    go[:] = 1
    cpu.synchronize()

    assert (before, busy) == (NOT_READY if ordered else 0, NOT_READY)
    assert cpu.try_("cuEventQuery", done) == 0


def test_a_destroyed_stream_still_does_its_work(cpu: Cpu) -> None:
    """Destroying returns at once; the context still waits for it. Default streams cannot be."""
    log, stream = Log(cpu), cpu.stream()
    cpu.library.ajit_cpu_hold_streams(1)
    log.add(stream, 1)
    cpu.ok("cuStreamDestroy_v2", stream)
    cpu.library.ajit_cpu_hold_streams(0)
    cpu.synchronize()

    assert log.seen == [1]
    assert cpu.try_("cuStreamDestroy_v2", None) == INVALID_HANDLE


# ---- events ----


def test_elapsed_time_is_what_the_device_took(cpu: Cpu) -> None:
    """From when the first event happened to when the second did."""
    stream, start, end, elapsed = cpu.stream(), event(cpu), event(cpu), ctypes.c_float()
    cpu.library.ajit_cpu_inject(b"device:host", 0, 1, 20_000)
    cpu.ok("cuEventRecord", start, stream)
    Log(cpu).add(stream, 1)
    cpu.ok("cuEventRecord", end, stream)
    cpu.synchronize()
    cpu.ok("cuEventElapsedTime_v2", ctypes.byref(elapsed), start, end)

    assert 20 <= elapsed.value < 2000


def test_elapsed_time_needs_recorded_events_with_timing(cpu: Cpu) -> None:
    """400 for events without timing or never recorded, 600 while one has not happened."""
    stream, timed, plain, elapsed = cpu.stream(), event(cpu), event(cpu, 2), ctypes.c_float()

    def ask(start: object, end: object) -> int:
        return cpu.try_("cuEventElapsedTime_v2", ctypes.byref(elapsed), start, end)

    assert ask(timed, timed) == INVALID_HANDLE
    cpu.library.ajit_cpu_hold_streams(1)
    cpu.ok("cuEventRecord", timed, stream)
    cpu.ok("cuEventRecord", plain, stream)
    assert ask(timed, timed) == NOT_READY
    cpu.library.ajit_cpu_hold_streams(0)
    cpu.synchronize()
    assert ask(timed, plain) == INVALID_HANDLE
    assert ask(timed, timed) == 0


# ---- capture ----


def test_captured_work_does_not_run(cpu: Cpu) -> None:
    """It becomes nodes of the graph; the stream is free again after the capture."""
    log, stream = Log(cpu), cpu.stream()
    graph, status, nodes = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_size_t()
    cpu.ok("cuStreamBeginCapture_v2", stream, GLOBAL)
    log.add(stream, 1)
    cpu.ok("cuStreamIsCapturing", stream, ctypes.byref(status))
    cpu.ok("cuStreamEndCapture", stream, ctypes.byref(graph))
    cpu.ok("cuGraphGetNodes", graph, None, ctypes.byref(nodes))
    cpu.ok("cuGraphDestroy", graph)
    log.add(stream, 2)
    cpu.synchronize()

    assert status.value == 1
    assert nodes.value == 1
    assert log.seen == [2]


@pytest.mark.parametrize("mode", [GLOBAL, THREAD_LOCAL, RELAXED])
@pytest.mark.parametrize("own", [True, False], ids=["own thread", "other thread"])
def test_unsafe_calls_during_a_capture(cpu: Cpu, mode: int, *, own: bool) -> None:
    """Global forbids them to all threads, thread-local to its own, relaxed to none."""
    stream, graph, codes = cpu.stream(), ctypes.c_void_p(), list[int]()
    pointer = ctypes.c_uint64()

    def allocate() -> None:
        cpu.start()
        codes.append(cpu.try_("cuMemAlloc_v2", ctypes.byref(pointer), SIZE(4)))
        cpu.ok("cuDevicePrimaryCtxRelease_v2", 0)

    cpu.ok("cuStreamBeginCapture_v2", stream, mode)
    if own:
        allocate()
    else:
        thread = threading.Thread(target=allocate)
        thread.start()
        thread.join()
    end = cpu.try_("cuStreamEndCapture", stream, ctypes.byref(graph))

    forbidden = mode == GLOBAL or (mode == THREAD_LOCAL and own)
    assert codes == [UNSUPPORTED if forbidden else 0]
    assert end == (INVALIDATED if forbidden else 0)


def test_a_relaxed_thread_may_load_during_a_capture(cpu: Cpu) -> None:
    """Exchanging the thread's mode returns the old one, and lifts what captures forbid."""
    stream, graph, mode = cpu.stream(), ctypes.c_void_p(), ctypes.c_int(RELAXED)
    cpu.ok("cuStreamBeginCapture_v2", stream, GLOBAL)
    cpu.ok("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
    cpu.allocate(4)
    cpu.ok("cuStreamEndCapture", stream, ctypes.byref(graph))

    assert mode.value == GLOBAL
    cpu.ok("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
    assert mode.value == RELAXED


def test_waiting_for_a_capturing_stream_is_refused(cpu: Cpu) -> None:
    """Synchronising it is 900 and invalidates; so would the legacy stream's work be 906."""
    log, stream, graph = Log(cpu), cpu.stream(0), ctypes.c_void_p()
    cpu.ok("cuStreamBeginCapture_v2", stream, RELAXED)

    assert cpu.try_("cuLaunchHostFunc", None, log.function, None) == IMPLICIT
    assert cpu.try_("cuStreamSynchronize", stream) == UNSUPPORTED
    assert cpu.try_("cuLaunchHostFunc", stream, log.function, None) == INVALIDATED
    assert cpu.try_("cuStreamEndCapture", stream, ctypes.byref(graph)) == INVALIDATED
    assert cpu.try_("cuStreamEndCapture", stream, ctypes.byref(graph)) == INVALID_VALUE


@pytest.mark.parametrize(("joined", "code"), [(True, 0), (False, UNJOINED)])
def test_a_capture_spreads_over_events(cpu: Cpu, *, joined: bool, code: int) -> None:
    """A stream that waits for a captured event joins the capture, and has to be joined back."""
    log, first, second = Log(cpu), cpu.stream(), cpu.stream()
    fork, back, graph = event(cpu), event(cpu), ctypes.c_void_p()
    cpu.ok("cuStreamBeginCapture_v2", first, RELAXED)
    cpu.ok("cuEventRecord", fork, first)
    cpu.ok("cuStreamWaitEvent", second, fork, 0)
    log.add(second, 1)
    cpu.ok("cuEventRecord", back, second)
    if joined:
        cpu.ok("cuStreamWaitEvent", first, back, 0)

    assert cpu.try_("cuEventElapsedTime_v2", ctypes.byref(ctypes.c_float()), fork, back) == (
        CAPTURED_EVENT
    )
    assert cpu.try_("cuStreamEndCapture", first, ctypes.byref(graph)) == code
    cpu.synchronize()
    assert log.seen == []


# ---- faults on demand ----


def test_an_injected_error_comes_as_often_as_asked(cpu: Cpu) -> None:
    """The named function fails `count` times and nothing else does."""
    pointer = ctypes.c_uint64()
    cpu.library.ajit_cpu_inject(b"cuMemAlloc_v2", 2, 2, 0)
    codes = [cpu.try_("cuMemAlloc_v2", ctypes.byref(pointer), SIZE(4)) for _ in range(3)]

    assert codes == [2, 2, 0]


def test_a_device_error_is_sticky_and_stops_host_functions(cpu: Cpu) -> None:
    """After a failed launch step no host function runs, waits end, and every call says why."""
    log, stream, host = Log(cpu), cpu.stream(), np.zeros(1, np.int32)
    pointer = cpu.upload(host)
    cpu.library.ajit_cpu_inject(b"device:copy", 700, 1, 0)
    cpu.library.ajit_cpu_hold_streams(1)
    cpu.ok("cuMemcpyHtoDAsync_v2", pointer, address(host), SIZE(4), stream)
    log.add(stream, 1)
    cpu.library.ajit_cpu_hold_streams(0)

    assert cpu.try_("cuStreamSynchronize", stream) == 700
    assert cpu.try_("cuMemFree_v2", pointer) == 700
    assert log.seen == []
    cpu.library.ajit_cpu_reset()
    assert cpu.try_("cuMemFree_v2", pointer) == 0


def test_a_poisoned_device_answers_with_its_error(cpu: Cpu) -> None:
    """Until it is reset; contexts can still be made current and released."""
    cpu.library.ajit_cpu_poison(999)
    context = cpu.get("cuCtxGetCurrent", ctypes.c_void_p)

    assert cpu.try_("cuCtxSynchronize") == 999
    assert cpu.try_("cuCtxSetCurrent", context) == 0
    cpu.library.ajit_cpu_reset()
    assert cpu.try_("cuCtxSynchronize") == 0


def test_lost_callbacks_never_run(cpu: Cpu) -> None:
    """The stream goes on without them."""
    log, stream = Log(cpu), cpu.stream()
    cpu.library.ajit_cpu_set_lost_callbacks(2)
    for number in range(4):
        log.add(stream, number)
    cpu.synchronize()

    assert log.seen == [2, 3]
