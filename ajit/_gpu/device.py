"""The device of a runtime: memory, copies and modules, awaited from one event loop."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from ajit._core.spec import EntryPoint
from ajit._gpu import module, wire
from ajit._gpu.batch import Batch
from ajit._gpu.driver import driver_choices
from ajit._gpu.hostview import HostView
from ajit._gpu.memory import DeviceBuffer, PinnedBuffer
from ajit._gpu.staging import STAGED_FROM_BYTES, Staged, StagingPool
from ajit._gpu.statistics import ThreadStatistics
from ajit._gpu.thread import DeviceThread
from ajit.errors import AjitError, ArgumentError, NoDevice, RuntimeClosed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from ajit._core.entry import Artifact
    from ajit._gpu.completion import Port, Ticket
    from ajit._gpu.module import LoadedModule
    from ajit.settings import Settings

__all__ = ["Device", "ThreadStatistics", "open_device"]

T = TypeVar("T")

CLOSE_SECONDS = 5.0
"""How long closing waits for tickets in flight. Arbitrary; a server's grace period is near 30 s."""


class Device:
    """A GPU, or the CPU driver, as one event loop uses it. Get it with `open_device`.

    Everything is submitted to the CUDA thread, which other loops of the process may share. Launches
    and copies run in the order of their submission.

    Attributes:
        arch: What code must be built for: ``sm_90a``, ..., or ``x86_64``, ``aarch64`` on the CPU.
        name: What the driver calls it.
        kind: ``cuda`` or ``cpu``.
        stages_copies: Whether large copies go through page-locked memory: on a GPU.
    """

    def __init__(self, thread: DeviceThread, port: Port) -> None:
        """Made by `Device.open`."""
        self._thread = thread
        self._port = port
        self.stages_copies = thread.choice.kind == "cuda"
        self._staging = StagingPool(self.alloc_pinned, thread.settings.pinned_pool_bytes)
        self._serving = anyio.CancelScope(shield=True)
        self.kind = thread.choice.kind
        self.arch = thread.choice.arch(thread.info)
        self.name = thread.info.name.decode(errors="replace")
        self.total_memory_bytes = int(thread.info.total_memory_bytes)
        self.max_threads = int(thread.info.max_threads)
        self.max_block = tuple(thread.info.max_block)
        self.max_grid = tuple(thread.info.max_grid)
        self.max_shared_bytes = int(thread.info.shared_optin_bytes)
        self.warp_size = int(thread.info.warp_size)
        self.multiprocessors = int(thread.info.multiprocessors)
        self.driver_version = int(thread.info.driver_version)

    @classmethod
    async def open(cls, settings: Settings) -> Device:
        """Open the device that the settings name, for the running loop.

        The caller runs `serve_completions` in a task, and calls `aclose`; `open_device` does both.

        Raises:
            NoDevice: There is none; nothing stays behind.
            DeviceError: The driver could not be started; nothing stays behind.
        """
        *others, last = driver_choices(settings.device)
        for choice in others:
            try:
                thread = await DeviceThread.acquire(choice, settings)
                break
            except NoDevice:
                continue
        else:
            thread = await DeviceThread.acquire(last, settings)
        try:
            return cls(thread, thread.open_port())
        except BaseException:
            thread.release()
            raise

    async def serve_completions(self) -> None:
        """Tell tasks that their tickets are done, until `aclose`. trio needs it; others just sleep.

        Cancelling the task does not end it: `aclose` itself waits for tickets, and a runtime is
        often closed because everything is being cancelled.
        """
        with self._serving:
            await self._port.serve()

    # --- memory ---------------------------------------------------------------------------------

    async def alloc(self, nbytes: int) -> DeviceBuffer:
        """Allocate device memory; its contents are undefined.

        Raises:
            OutOfMemory: There is not enough; nothing was allocated.
        """
        return await self._alloc(wire.ALLOC, nbytes, DeviceBuffer)

    async def alloc_pinned(self, nbytes: int) -> PinnedBuffer:
        """Allocate page-locked host memory.

        Raises:
            OutOfMemory: There is not enough; nothing was allocated.
        """
        return await self._alloc(wire.ALLOC_HOST, nbytes, PinnedBuffer)

    async def upload(self, obj: Any) -> DeviceBuffer:
        """Copy host memory to new device memory.

        Args:
            obj: Any contiguous object with the buffer protocol or ``__array_interface__``: bytes,
                an array. It must not be changed before this returns.

        Raises:
            ArgumentError: The object has no contiguous memory; nothing was started.
            OutOfMemory: There is not enough device memory; nothing was allocated.

        Cancelling leaves: the copy is finished and its memory freed in the background.
        """
        view = HostView(obj)
        if not view.nbytes:
            return DeviceBuffer(self._port, 0, 0)
        staged = await self._stage(view.nbytes)
        if staged is not None:
            await self._staging.move(staged.address, view.address, view.nbytes)
        source = staged.address if staged is not None else view.address
        alloc = wire.SIMPLE.pack(wire.ALLOC, wire.SIMPLE.size, view.nbytes)
        copy = wire.COPY.pack(wire.COPY_TO_DEVICE, wire.COPY.size, 0, source, view.nbytes)
        operation = f"upload {view.nbytes} bytes"
        finish = self._buffer(DeviceBuffer, view.nbytes)
        return await self._submit(alloc + copy, 2, operation, (staged, view), finish)

    async def download(self, buffer: DeviceBuffer, out: Any = None) -> Any:
        """Copy device memory to the host.

        Args:
            buffer: What to copy, all of it.
            out: A writable contiguous object of the same size to fill; None makes new bytes.

        Returns:
            ``out``, or the bytes.

        Raises:
            ArgumentError: The sizes differ, ``out`` cannot be written, or the buffer was freed.

        Cancelling leaves: ``out`` may still be written to until the copy is done.
        """
        self._check(buffer, buffer.nbytes, "download")
        view = HostView.of_new_bytes(buffer.nbytes) if out is None else HostView(out, writable=True)
        self._check(buffer, view.nbytes, "download")
        if view.nbytes:
            await self._download(buffer, view)
        return view.owner if out is None else out

    async def _download(self, buffer: DeviceBuffer, view: HostView) -> None:
        staged = await self._stage(view.nbytes)
        target = staged.address if staged is not None else view.address
        copy = wire.COPY.pack(
            wire.COPY_TO_HOST, wire.COPY.size, target, buffer.pointer, view.nbytes
        )
        operation = f"download {view.nbytes} bytes"
        await self._submit(copy, 1, operation, (buffer, staged, view), None)
        if staged is not None:
            await self._staging.move(view.address, staged.address, view.nbytes)

    async def _stage(self, nbytes: int) -> Staged | None:
        if not self.stages_copies or nbytes <= STAGED_FROM_BYTES:
            return None
        return await self._staging.lend(nbytes)

    def copy_to(self, buffer: DeviceBuffer, obj: Any) -> Ticket[None]:
        """Submit a copy of host memory into a buffer of the same size.

        The object must not be changed before the ticket is done.
        """
        view = HostView(obj)
        self._check(buffer, view.nbytes, "copy to")
        copy = wire.COPY.pack(
            wire.COPY_TO_DEVICE, wire.COPY.size, buffer.pointer, view.address, view.nbytes
        )
        return self._submit(
            copy, 1, f"copy {view.nbytes} bytes to the device", (buffer, view), None
        )

    def copy(self, target: DeviceBuffer, source: DeviceBuffer) -> Ticket[None]:
        """Submit a copy from one buffer to another of the same size."""
        self._check(source, target.nbytes, "copy")
        self._check(target, source.nbytes, "copy")
        copy = wire.COPY.pack(
            wire.COPY_ON_DEVICE, wire.COPY.size, target.pointer, source.pointer, source.nbytes
        )
        operation = f"copy {source.nbytes} bytes on the device"
        return self._submit(copy, 1, operation, (target, source), None)

    def fill(self, buffer: DeviceBuffer, value: int) -> Ticket[None]:
        """Submit the filling of a buffer with a byte."""
        if not 0 <= value <= 0xFF:
            raise ArgumentError(operation="fill", detail=f"{value} is not a byte", index=1)
        self._check(buffer, buffer.nbytes, "fill")
        if not buffer.nbytes:
            return self.mark()
        fill = wire.FillLayout.pack(
            wire.FILL, wire.FillLayout.size, buffer.pointer, buffer.nbytes, value
        )
        return self._submit(fill, 1, f"fill {buffer.nbytes} bytes", buffer, None)

    def batch(self) -> Batch:
        """Return an empty batch: many operations, submitted as one."""
        return Batch(self._port)

    def mark(self) -> Ticket[None]:
        """Submit nothing: the ticket is done when everything submitted before it is."""
        mark = wire.SIMPLE.pack(wire.MARK, wire.SIMPLE.size, 0)
        return self._submit(mark, 1, "wait for the device", None, None)

    async def synchronize(self) -> None:
        """Wait until everything submitted before is done."""
        await self.mark()

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
        """
        entries = entries or [EntryPoint(name) for name in artifact.entries]
        return await module.load(self._port, artifact, entries)

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function on the CUDA thread, after everything that was submitted before it.

        While it runs nothing else is submitted to the device. Cancelling only leaves.
        """
        outcome = await self._thread.call(self._port, function)
        return outcome()

    # --- life -----------------------------------------------------------------------------------

    def statistics(self) -> ThreadStatistics:
        """Return what the CUDA thread counts; loops that share it share the numbers."""
        return self._thread.statistics()

    async def aclose(self) -> None:
        """Wait for tickets in flight, free everything of this loop, and leave the CUDA thread.

        Waits for at most `CLOSE_SECONDS`. What the device is still at then is abandoned: its memory
        is not freed, for that could wait for ever. May be called more than once.
        """
        if self._port.closed:
            return
        self._port.refuse(_closed)
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(CLOSE_SECONDS):
                await self._port.wait_idle()
                self._staging.close()
                await self._thread.close_port(self._port)
            self._serving.cancel()
            await checkpoint()  # so that nobody waits for the descriptor when it is closed
            self._port.close()
            self._thread.release()
            with anyio.move_on_after(CLOSE_SECONDS):
                await self._thread.wait_ended()

    def __repr__(self) -> str:
        state = "closed" if self._port.closed else f"in_flight={len(self._port.in_flight)}"
        return f"<Device {self.name!r} arch={self.arch} {state}>"

    # --- inside ---------------------------------------------------------------------------------

    def _submit(
        self,
        operations: bytes,
        count: int,
        operation: str,
        keep: object,
        finish: Callable[[int], T] | None,
    ) -> Ticket[T]:
        port = self._port
        if port.closed:
            raise port.refusal()
        number = next(self._thread.numbers)
        header = wire.SUBMISSION.pack(port.handle, number, 0, count, len(operations))
        return port.submit(header + operations, number, operation, keep, finish)

    async def _alloc(self, opcode: int, nbytes: int, kind: type[T]) -> T:
        if nbytes < 0:
            raise ArgumentError(operation="alloc", detail=f"{nbytes} bytes", index=0)
        finish = self._buffer(kind, nbytes)
        if not nbytes:
            return finish(0)
        operation = wire.SIMPLE.pack(opcode, wire.SIMPLE.size, nbytes)
        return await self._submit(operation, 1, f"allocate {nbytes} bytes", None, finish)

    def _buffer(self, kind: type[T], nbytes: int) -> Callable[[int], T]:
        port, make = self._port, kind
        return lambda resource: make(port, resource, nbytes)  # type: ignore[call-arg]

    def _check(self, buffer: DeviceBuffer, nbytes: int, operation: str) -> None:
        if buffer._thread is not self._thread:  # noqa: SLF001  # one package, one secret
            raise ArgumentError(operation=operation, detail=f"{buffer!r} is of another device")
        if buffer.nbytes != nbytes:
            detail = f"{buffer!r} has {buffer.nbytes} bytes, the other side {nbytes}"
            raise ArgumentError(operation=operation, detail=detail)


@asynccontextmanager
async def open_device(settings: Settings) -> AsyncGenerator[Device, None]:
    """Open the device that the settings name, for the running loop, and close it in the end.

    Raises:
        NoDevice: There is none; nothing stays behind.
        DeviceError: The driver could not be started; nothing stays behind.
    """
    device = await Device.open(settings)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(device.serve_completions)
            try:
                yield device
            finally:
                await device.aclose()
    except BaseExceptionGroup as group:
        # The one task beside the body raises nothing, so the group is the body's own exception.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise


def _closed() -> AjitError:
    return RuntimeClosed("the device was closed; nothing was started")
