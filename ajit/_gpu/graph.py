"""Graphs: work that is captured once and launched many times as one operation.

An ajit capture is one submission: what was added is captured on the CUDA thread in one go, on a
stream of its own. So no load, allocation or free of ajit can come into it, those wait; and the
thread is in relaxed capture mode all its life, so that they do not kill the captures of other
threads either. While a block that captures is open, a kernel that is not loaded yet is a
`CaptureMiss`: a step that was meant to be recorded must not stop to compile.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ajit._core.factory import FactoryMade
from ajit._gpu import wire
from ajit._gpu.batch import Operations
from ajit._gpu.capturing import capturing, refuse_to_submit
from ajit._gpu.owned import Handled
from ajit._gpu.stream import stream_target
from ajit.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ajit._gpu.completion.port import CompletionPort
    from ajit._gpu.completion.state import TicketState
    from ajit._gpu.completion.ticket import Ticket

__all__ = ["Graph", "capture"]


class Graph(Operations, metaclass=FactoryMade, factory="device.capture()"):
    """Collects operations, then launches them as a graph. Get it with `Device.capture`.

    Kernels, buffers and host memory that it uses are kept as long as it is.
    """

    __slots__ = ("_graph",)

    def __init__(self, port: CompletionPort) -> None:
        super().__init__(port)
        self._graph: _Executable | None = None

    @property
    def captured(self) -> bool:
        """Whether it can be launched."""
        return self._graph is not None

    async def _finish(self) -> None:
        """Capture what was added, at the end of the block.

        Raises:
            ArgumentError: A buffer was freed meanwhile, or nothing was added.
            LaunchError: The driver refused an operation; there is no graph.
        """
        self._over = "its block has ended"
        self._check_alive("capture", 0)
        if not self._operations:
            raise ArgumentError(operation="capture", detail="nothing was added")
        operations = [wire.simple(wire.CAPTURE), *self._operations]
        body, port = b"".join(operations), self._port

        def submit() -> Ticket[_Executable]:
            state = port.new_state("launch a capture", self._keep, self._made)
            state.explain = _explain
            return port.submit_operations(body, state, count=len(operations))

        self._graph = await (await port.patiently(submit))

    def _made(self, resource: int) -> _Executable:
        return _Executable(self._port, resource, wire.ALL_LANES)

    def launch(
        self,
        *,
        stream: object = None,
        timeout: float | None = None,
        timed: bool = False,
    ) -> Ticket[None]:
        """Submit the whole graph as one operation.

        Args:
            stream: Any stream, see `Kernel.launch`; None takes the device's own.
            timeout: Time after which the ticket is overdue; None: as the settings say.
            timed: Whether the device tells how long it worked, see `Kernel.launch`.

        Raises:
            ArgumentError: It was not captured, was freed, or a buffer of it was.
            WouldBlock: Too many submissions wait for the CUDA thread. Nothing was submitted.
            DeviceLost: The context is unusable. Nothing was submitted.
            RuntimeClosed: The device was closed, or a module unloaded. Nothing was submitted.
        """
        port, graph = self._port, self._graph
        if graph is None:
            raise ArgumentError(operation="launch a graph", detail="it was not captured")
        refuse_to_submit("launch a graph")
        target = stream_target(stream, port.thread)
        self._check_alive("launch a graph", target[1])
        self._gone = port.thread.gone
        state: TicketState[None] = port.new_state("launch a graph", (graph, self._keep, stream))
        state.stream = stream
        operation = wire.simple(wire.LAUNCH_GRAPH, graph.handle)
        return port.submit_operations(operation, state, target=target, timeout=timeout, timed=timed)

    def free(self) -> None:
        """Give the graph back. Launches that were submitted still run."""
        if self._graph is not None:
            self._graph.free()

    def __repr__(self) -> str:
        state = "captured" if self.captured else "open"
        return f"<Graph of {len(self)} operations: {state}>"


class _Executable(Handled):
    """The driver's executable graph."""

    __slots__ = ()

    _called = "graph"

    def __repr__(self) -> str:
        return "<captured graph>"


@asynccontextmanager
async def capture(port: CompletionPort) -> AsyncGenerator[Graph, None]:
    """Collect operations in a block, and capture them at its end. A block that raises: nothing."""
    graph: Graph = Graph.make(port)
    with capturing():
        yield graph
    await graph._finish()  # noqa: SLF001  # the block is its other half


def _explain(detail: int) -> str:
    return f"operation {detail - 1} of the capture was refused" if detail else ""
