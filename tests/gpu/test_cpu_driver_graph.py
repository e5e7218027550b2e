"""Graphs: what a capture recorded, launched again and again."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from tests.gpu.cpu_driver import Cpu, address, build_image
from tests.gpu.test_cpu_driver_stream import Log, event

INVALID_VALUE, NOT_SUPPORTED, ISOLATION = 1, 801, 905
RELAXED = 2
KERNEL, MEMCPY, MEMSET, HOST = range(4)
SIZE, ONE = ctypes.c_size_t, (1, 1, 1)
SOURCE = """
extern "C" __global__ void add(int *x, int n) { x[threadIdx.x] += n; }
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """One kernel."""
    return build_image(tmp_path_factory.mktemp("image"), SOURCE, "add")


def begin(cpu: Cpu, stream: object) -> None:
    """Begin a capture that forbids nothing."""
    cpu.ok("cuStreamBeginCapture_v2", stream, RELAXED)


def end(cpu: Cpu, stream: object) -> ctypes.c_void_p:
    """End the capture and return its graph."""
    graph = ctypes.c_void_p()
    cpu.ok("cuStreamEndCapture", stream, ctypes.byref(graph))
    return graph


def instantiate(cpu: Cpu, graph: ctypes.c_void_p) -> ctypes.c_void_p:
    """An executable of the graph, which is destroyed: the executable stands alone."""
    executable = cpu.get(
        "cuGraphInstantiateWithFlags", ctypes.c_void_p, graph, ctypes.c_ulonglong(0)
    )
    cpu.ok("cuGraphDestroy", graph)
    return executable


def types(cpu: Cpu, graph: ctypes.c_void_p) -> list[int]:
    """The kinds of the nodes, in the order in which they were captured."""
    nodes, count = (ctypes.c_void_p * 8)(), SIZE(8)
    cpu.ok("cuGraphGetNodes", graph, nodes, ctypes.byref(count))
    return [node_type(cpu, nodes[i]) for i in range(count.value)]


def node_type(cpu: Cpu, node: int | None) -> int:
    """The type of one node."""
    kind = ctypes.c_uint()
    cpu.ok("cuGraphNodeGetType", ctypes.c_void_p(node), ctypes.byref(kind))
    return kind.value


def test_a_graph_does_all_that_was_captured_at_each_launch(cpu: Cpu, image: bytes) -> None:
    """Fill, kernel, copy and host function, with the parameters of the capture."""
    stream, log, out = cpu.stream(), Log(cpu), cpu.pinned(16)
    out[:] = 0
    memory, add = cpu.allocate(16), cpu.function(cpu.load(image), "add")
    amount = ctypes.c_int(5)
    begin(cpu, stream)
    cpu.ok("cuMemsetD32Async", memory, ctypes.c_uint(2), SIZE(4), stream)
    assert cpu.try_launch(add, ONE, (4, 1, 1), memory, amount, stream=stream) == 0
    cpu.ok("cuMemcpyDtoHAsync_v2", address(out), memory, SIZE(16), stream)
    log.add(stream, 7)
    graph = end(cpu, stream)
    kinds = types(cpu, graph)
    amount.value = 1000
    executable = instantiate(cpu, graph)
    cpu.synchronize()
    before = out.view(np.int32).tolist()
    for _ in range(3):
        cpu.ok("cuGraphLaunch", executable, stream)
    cpu.ok("cuGraphExecDestroy", executable)
    cpu.synchronize()

    assert kinds == [MEMSET, KERNEL, MEMCPY, HOST]
    assert before == [0] * 4
    assert out.view(np.int32).tolist() == [7] * 4
    assert log.seen == [7] * 3


def test_edges_follow_events_between_streams(cpu: Cpu) -> None:
    """A fork and a join: the middle nodes come after the first, the last after both."""
    log, first, second = Log(cpu), cpu.stream(), cpu.stream()
    fork, back = event(cpu), event(cpu)
    begin(cpu, first)
    log.add(first, 1)
    cpu.ok("cuEventRecord", fork, first)
    cpu.ok("cuStreamWaitEvent", second, fork, 0)
    log.add(second, 2)
    log.add(first, 3)
    cpu.ok("cuEventRecord", back, second)
    cpu.ok("cuStreamWaitEvent", first, back, 0)
    log.add(first, 4)
    graph = end(cpu, first)
    nodes, count = (ctypes.c_void_p * 4)(), SIZE(4)
    cpu.ok("cuGraphGetNodes", graph, nodes, ctypes.byref(count))
    sources, targets, edges = (ctypes.c_void_p * 8)(), (ctypes.c_void_p * 8)(), SIZE(8)
    cpu.ok("cuGraphGetEdges_v2", graph, sources, targets, None, ctypes.byref(edges))
    number = {node: index + 1 for index, node in enumerate(nodes)}
    found = {(number[sources[i]], number[targets[i]]) for i in range(edges.value)}
    executable = instantiate(cpu, graph)
    cpu.ok("cuGraphLaunch", executable, second)
    cpu.synchronize()
    cpu.ok("cuGraphExecDestroy", executable)

    assert count.value == 4
    assert found == {(1, 2), (1, 3), (2, 4), (3, 4)}
    assert log.seen == [1, 2, 3, 4]


def test_launches_of_one_executable_follow_each_other(cpu: Cpu, image: bytes) -> None:
    """In whatever stream they are launched."""
    streams, memory = [cpu.stream(), cpu.stream()], cpu.upload(np.zeros(64, np.int32))
    add = cpu.function(cpu.load(image), "add")
    begin(cpu, streams[0])
    for _ in range(20):
        assert cpu.try_launch(add, ONE, (64, 1, 1), memory, ctypes.c_int(1), stream=streams[0]) == 0
    executable = instantiate(cpu, end(cpu, streams[0]))
    cpu.library.ajit_cpu_hold_streams(1)
    for index in range(20):
        cpu.ok("cuGraphLaunch", executable, streams[index % 2])
    cpu.ok("cuGraphExecDestroy", executable)
    cpu.library.ajit_cpu_hold_streams(0)
    cpu.synchronize()

    assert cpu.download(memory, np.zeros(64, np.int32)).tolist() == [400] * 64


def test_capture_info_tells_the_graph_and_what_the_next_node_comes_after(cpu: Cpu) -> None:
    """None of it outside of a capture."""
    log, stream, status = Log(cpu), cpu.stream(), ctypes.c_int()
    number, graph, tips, count = ctypes.c_uint64(), ctypes.c_void_p(), ctypes.c_void_p(), SIZE()

    def ask() -> None:
        cpu.ok(
            "cuStreamGetCaptureInfo_v3", stream, ctypes.byref(status), ctypes.byref(number),
            ctypes.byref(graph), ctypes.byref(tips), None, ctypes.byref(count),
        )  # fmt: skip

    ask()
    idle = status.value
    begin(cpu, stream)
    log.add(stream, 1)
    ask()
    captured = end(cpu, stream)
    cpu.ok("cuGraphDestroy", captured)

    assert (idle, status.value, count.value) == (0, 1, 1)
    assert number.value > 0
    assert graph.value == captured.value


def test_an_operation_that_a_graph_cannot_hold_is_refused(cpu: Cpu) -> None:
    """Memory (801), a graph (801), events from outside (905), a destroyed executable (1)."""
    stream, outside, memory = cpu.stream(), event(cpu), cpu.allocate(16)
    begin(cpu, stream)
    executable = instantiate(cpu, end(cpu, stream))
    cpu.ok("cuEventRecord", outside, cpu.stream())
    begin(cpu, stream)
    pointer = ctypes.c_uint64()

    assert cpu.try_("cuMemAllocAsync", ctypes.byref(pointer), SIZE(4), stream) == NOT_SUPPORTED
    assert cpu.try_("cuMemFreeAsync", memory, stream) == NOT_SUPPORTED
    assert cpu.try_("cuGraphLaunch", executable, stream) == NOT_SUPPORTED
    assert cpu.try_("cuStreamWaitEvent", stream, outside, 0) == ISOLATION
    cpu.ok("cuGraphDestroy", end(cpu, stream))
    cpu.ok("cuGraphExecDestroy", executable)
    assert cpu.try_("cuGraphLaunch", None, stream) == INVALID_VALUE
