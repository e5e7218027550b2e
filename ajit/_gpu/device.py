"""The device of a runtime: memory, copies and modules, awaited from one event loop."""

from __future__ import annotations

import functools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import anyio

from ajit._core.factory import FactoryMade
from ajit._core.spec import EntryPoint
from ajit._gpu import wire
from ajit._gpu.batch import Batch
from ajit._gpu.call import check_no_coroutine
from ajit._gpu.capturing import refuse_in_capture
from ajit._gpu.completion.watching import TicketWatch
from ajit._gpu.device_memory import DeviceMemory
from ajit._gpu.graph import capture
from ajit._gpu.membership import ThreadMembership
from ajit._gpu.module import load_module
from ajit._gpu.shape import whole_number
from ajit._gpu.statistics import ThreadStatistics
from ajit._gpu.stream import Event, Stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from ajit._core.entry import Artifact
    from ajit._gpu.completion.state import TicketState
    from ajit._gpu.completion.ticket import Ticket
    from ajit._gpu.graph import Graph
    from ajit._gpu.health import DeviceHealth
    from ajit._gpu.module import LoadedModule
    from ajit.settings import Settings

__all__ = ["Device", "ThreadStatistics", "open_device"]

T = TypeVar("T")
P = ParamSpec("P")

EVENT_DISABLE_TIMING = 2
"""``CU_EVENT_DISABLE_TIMING``."""


class Device(DeviceMemory, metaclass=FactoryMade, factory="rt.device"):
    """A GPU, or the CPU driver, as one event loop uses it. Get it with ``rt.device``.

    Everything is submitted to the CUDA thread, which other loops of the process may share. Launches
    and copies run in the order of their submission.

    Attributes:
        arch: What code must be built for: ``sm_90a``, ..., or ``x86_64``, ``aarch64`` on the CPU.
        name: What the driver calls it.
        kind: ``cuda`` or ``cpu``.
        has_clusters: Whether kernels can be launched in clusters, see `Kernel.with_attributes`.
        max_threads: Threads that a block can have.
        max_block: Threads that a block can have in x, y and z.
        max_grid: Blocks that a grid can have in x, y and z.
        max_shared_bytes: Shared memory that a block can have, static and dynamic.
        multiprocessors: How many it has.
        warp_size: Threads of a warp.
        driver_version: Of the driver, as 13000 for CUDA 13.0.
        numa_node: Whose host memory is next to it; None on the CPU driver, and where the machine
            does not say.
    """

    def __init__(self, membership: ThreadMembership) -> None:
        """Made by `open_device`."""
        thread = membership.thread
        super().__init__(thread, membership.port)
        self._membership = membership
        self.kind = thread.choice.kind
        self.arch = thread.choice.arch(thread.info)
        self.name = thread.info.name.decode(errors="replace")
        self.max_threads = int(thread.info.max_threads)
        self.max_block = tuple(thread.info.max_block)
        self.max_grid = tuple(thread.info.max_grid)
        self.max_shared_bytes = int(thread.info.shared_optin_bytes)
        self.warp_size = int(thread.info.warp_size)
        self.has_clusters = bool(thread.info.clusters)
        self.multiprocessors = int(thread.info.multiprocessors)
        self.driver_version = int(thread.info.driver_version)
        self.numa_node = thread.numa_node

    # --- order ----------------------------------------------------------------------------------

    def batch(
        self,
        *,
        steps: bool = False,
        stream: object = None,
        timeout: float | None = None,
        timed: bool = False,
    ) -> Batch:
        """Return an empty batch: many operations, submitted as one.

        Args:
            steps: Whether each operation can be awaited by itself, with ``ticket.at(index)``. Costs
                a host function of the driver for each.
            stream: Where to submit it; None takes the device's own.
            timeout: Time after which its ticket is overdue; None: as the settings say.
            timed: Whether the device tells how long it worked on all of it, see `Kernel.launch`.
        """
        return Batch.make(
            self._port,
            steps=steps,
            stream=stream,
            timeout=timeout,
            timed=timed,
        )

    def capture(self) -> AbstractAsyncContextManager[Graph]:
        """Collect operations in an ``async with`` block, and make a graph of them at its end.

        In the block, asking for a kernel that is not loaded raises `CaptureMiss`. A launch, a copy,
        a fill or a batch would run at once there, and raises `UsageError`.
        """
        return capture(self._port)

    async def create_stream(self, *, priority: int = 0) -> Stream:
        """Create a stream that no default stream waits for.

        Args:
            priority: Lower numbers go first; what the device does not have is brought into range.

        Raises:
            ArgumentError: The priority is no whole number; nothing was started.
        """
        priority = whole_number("create a stream", "priority", priority)
        operation = wire.simple(wire.MAKE_STREAM, priority & wire.ALL_LANES)
        port = self._port
        return await self._patiently(
            operation, "create a stream", lambda made: Stream.make(port, made, priority)
        )

    async def create_event(self, *, timing: bool = True) -> Event:
        """Create an event, to be recorded in streams. It is cheaper without timing."""
        operation = wire.simple(wire.MAKE_EVENT, 0 if timing else EVENT_DISABLE_TIMING)
        port = self._port
        return await self._patiently(
            operation, "create an event", lambda made: Event.make(port, made, timing)
        )

    def mark(self) -> Ticket[None]:
        """Submit nothing: the ticket is done when everything submitted before it is.

        That is, to the device's own stream; others have a `Stream.mark`.
        """
        state: TicketState[None] = self._port.new_state("wait for the device", None)
        return self._port.submit_operations(wire.simple(wire.MARK), state)

    async def synchronize(self) -> None:
        """Wait until everything submitted before to the device's own stream is done."""
        await (await self._port.patiently(self.mark))

    async def submit(
        self, function: Callable[P, Ticket[T]], *args: P.args, **kwargs: P.kwargs
    ) -> Ticket[T]:
        """Call something that submits, once the CUDA thread has room for it.

        ``await device.submit(kernel.launch, grid, block, x)`` is ``kernel.launch(...)`` that waits
        where that raises `WouldBlock`. Those who wait go in order. Cancelling submits nothing.

        Args:
            function: Returns a ticket: `Kernel.launch`, `Device.copy`, `Batch.submit`, ...
            *args: For it.
            **kwargs: For it.

        Returns:
            The ticket, submitted.

        Raises:
            UsageError: It is a coroutine function, which is awaited without this.
        """
        check_no_coroutine(function)
        return await self._port.patiently(lambda: function(*args, **kwargs))

    # --- code -----------------------------------------------------------------------------------

    async def load(
        self, artifact: Artifact, entries: Sequence[EntryPoint] | None = None
    ) -> LoadedModule:
        """Load an artifact, eagerly: module, entry points, and everything they need to be launched.

        Args:
            artifact: Compiled for this device's `arch`.
            entries: The entry points with their parameter types; None takes the artifact's names,
                undeclared.

        Raises:
            LoadError: The driver does not take it; the artifact itself stays in the cache.
            CaptureMiss: This is a block of `capture`. Nothing was started.
        """
        refuse_in_capture(artifact.name)
        loaded = entries or [EntryPoint(name) for name in artifact.entries]
        port = self._port
        return await (await port.patiently(lambda: load_module(port, artifact, loaded)))

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function on the CUDA thread, after everything that was submitted before it.

        For code that enters the driver itself, such as PyTorch or CuPy: the device's context is
        current there. While it runs nothing else is submitted to the device. Cancelling only
        leaves.

        Args:
            function: Not a coroutine function: no event loop runs on that thread.
            *args: For it.

        Returns:
            What it returns. Raises what it raises.

        Raises:
            UsageError: It is a coroutine function; nothing was started.
        """
        check_no_coroutine(function)
        call = functools.partial(function, *args) if args else function
        port, thread = self._port, self._thread
        ticket = await port.patiently(lambda: thread.call(port, call))
        port.waiting.look_no_more()
        outcome = await ticket
        return outcome()

    # --- life -----------------------------------------------------------------------------------

    def health(self) -> DeviceHealth:
        """Return how the CUDA thread is, without asking it: for ``/healthz``. Takes microseconds.

        Another process reads the same with `read_heartbeat` and `statistics().heartbeat_path`.
        """
        return self._thread.health()

    def statistics(self) -> ThreadStatistics:
        """Return what the CUDA thread counts; loops that share it share the numbers."""
        return self._thread.statistics()

    def _watch_tickets(
        self,
        ended: Callable[[TicketState[Any], Any], None],
        begun: Callable[[], object] | None = None,
    ) -> Callable[[], None]:
        """Tell someone of each ticket of this loop, see `TicketWatch`.

        Returns:
            A function that ends it.
        """
        port, watch = self._port, TicketWatch(ended, begun)
        port.watches += (watch,)

        def stop() -> None:
            port.watches = tuple(each for each in port.watches if each is not watch)

        return stop

    async def aclose(self) -> None:
        """Wait for tickets in flight, free everything of this loop, and leave the CUDA thread.

        Waits for at most 5 s. What the device has not finished by then is abandoned: its memory is
        not freed, for that could wait for ever. While other loops have work in flight, what is
        to be freed goes after that work, and closing does not wait for it. May be called more than
        once.
        """
        await self._membership.leave(self._transfers.pool.close)

    def __repr__(self) -> str:
        state = "closed" if self._port.closed else f"in_flight={len(self._port.in_flight)}"
        return f"<Device {self.name!r} arch={self.arch} {state}>"


@asynccontextmanager
async def open_device(settings: Settings) -> AsyncGenerator[Device, None]:
    """Open the device that the settings name, for the running loop, and close it in the end.

    Raises:
        NoDevice: There is none; nothing stays behind.
        DeviceError: The driver could not be started; nothing stays behind.
    """
    membership = await ThreadMembership.join(settings)
    device = Device.make(membership)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(membership.serve)
            try:
                yield device
            finally:
                await device.aclose()
    except BaseExceptionGroup as group:
        # The one task beside the body raises nothing, so the group is the body's own exception.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise
