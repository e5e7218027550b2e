"""Loaded modules and their kernels."""

from __future__ import annotations

import copy
import ctypes
import struct
from typing import TYPE_CHECKING, Any

from ajit._core.factory import FactoryMade
from ajit._gpu import wire
from ajit._gpu.configured import ConfiguredKernel
from ajit._gpu.launch import Signature
from ajit._gpu.operand import mark_used
from ajit._gpu.shape import LaunchAttributes, ShapeLimits, pack_shape, shown
from ajit._gpu.stream import stream_target
from ajit._gpu.submission import timeout_ns
from ajit.errors import AjitError, LaunchError, LoadError, RuntimeClosed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit._core.entry import Artifact
    from ajit._core.spec import EntryPoint, Spec
    from ajit._gpu.completion import Port, Ticket
    from ajit._gpu.shape import Dimensions

__all__ = ["BoundLaunch", "Kernel", "LoadedModule", "load"]


_IMAGE_PADDING = 64
"""Drivers get an address without a size: no look for a header may leave the buffer."""
_ELF_SECTIONS = struct.Struct("<40xQ10xHH")
"""Of an ELF header: offset of the section table, size of one section's entry, their number."""
_SHAPES_KEPT = 64
"""Checked shapes that a kernel remembers. Pretty arbitrary: servers use a handful."""


class Kernel(metaclass=FactoryMade, factory="rt.kernel() or module.kernel()"):
    """An entry point loaded on one device. Get it from a `LoadedModule`.

    Attributes:
        name: The entry point, as it was asked for.
        params: C types of its parameters, or None if undeclared.
        module: The module it belongs to; a kernel keeps its module loaded.
        max_threads: Threads that a block of this kernel can have.
        shared_bytes: Static shared memory of a block.
        max_dynamic_shared_bytes: Dynamic shared memory that a launch may ask for.
        registers: Registers of a thread; 0 where the driver does not know.
        attributes: How it is launched, see `with_attributes`.
        stands_in_for: The spec that was asked for, if this kernel is its fallback; else None.
    """

    attributes = LaunchAttributes()
    stands_in_for: Spec | None = None

    def __init__(self, module: LoadedModule, entry: EntryPoint, address: int) -> None:
        function = wire.Function.from_address(address)
        self.name = entry.name
        self.params = entry.params
        self.module = module
        self.max_threads = function.max_threads
        self.shared_bytes = function.shared_bytes
        self.max_dynamic_shared_bytes = function.max_dynamic_shared_bytes
        self.registers = function.registers
        self._port = module.port
        thread = module.port.thread
        table = function.param_offsets
        sizes = [(table[2 * i], table[2 * i + 1]) for i in range(function.param_count)]
        self._signature = Signature(entry.name, entry.params, address, sizes, thread)
        self._limits = ShapeLimits(thread.info, self.max_threads, self.max_dynamic_shared_bytes)
        self._shapes: dict[Any, bytes] = {}

    def __getitem__(self, shape: tuple[Dimensions, Dimensions]) -> ConfiguredKernel:
        """``kernel[grid, block](*args)`` is ``kernel.launch(grid, block, *args)``.

        Raises:
            TypeError: The shape is not a grid and a block.
        """
        if type(shape) is not tuple or len(shape) != 2:
            raise TypeError(f"write kernel[grid, block](...), not kernel[{shown(shape)}]")
        return ConfiguredKernel.make(self, *shape)

    def launch(
        self,
        grid: Dimensions,
        block: Dimensions,
        *args: Any,
        shared_bytes: int = 0,
        stream: object = None,
        timeout: float | None = None,
        timed: bool = False,
    ) -> Ticket[None]:
        """Submit the kernel at once, and return without waiting for it.

        Args:
            grid: Blocks: a number, or up to three.
            block: Threads of a block: a number, or up to three.
            *args: One for each declared parameter: numbers, `DeviceBuffer`, an address, None for a
                null pointer, a part of a buffer, an array that another library has on the device
                (``__cuda_array_interface__``, DLPack), or the bytes of a struct.
            shared_bytes: Dynamic shared memory of a block.
            stream: A `Stream`, or that of another library (``__cuda_stream__`` or its handle); None
                takes the device's own, in which everything runs in the order of submission.
            timeout: Time after which the ticket is overdue; None: as the settings say.
            timed: Whether the device tells how long it worked: ``ticket.device_seconds``. Costs two
                events of the driver. The CUDA thread settles such a ticket, so after what it is at:
                mostly some microseconds later, but behind a load when the load is over.

        Returns:
            The ticket; await it to wait for the device. It keeps kernel and arguments alive.

        Raises:
            ArgumentError: The arguments do not fit the parameters. The driver saw nothing.
            LaunchError: The device cannot run that shape. The driver saw nothing.
            WouldBlock: Too many submissions wait for the CUDA thread. Nothing was submitted;
                `Device.submit` waits instead.
            DeviceLost: The context is unusable. Nothing was submitted.
            RuntimeClosed: The device was closed, or the module unloaded. Nothing was submitted.
        """
        try:
            shape = self._shapes[grid, block, shared_bytes]
        except (KeyError, TypeError):  # new, or a list
            shape = self._new_shape(grid, block, shared_bytes)
        if self.module.unloaded:
            raise self.module.unloaded_error()
        port, signature = self._port, self._signature
        if stream is not None or timeout is not None or timed:
            return self._launch_in(stream, timeout, shape, args, wire.TIME if timed else 0)
        number = next(port.thread.numbers)
        submission = signature.pack((port.handle, number, 0, 0, 0), shape, args)
        return port.submit(submission, number, signature.operation, (self, args))

    def with_attributes(
        self,
        *,
        cluster: Dimensions | None = None,
        programmatic: bool = False,
        priority: int | None = None,
    ) -> Kernel:
        """Return the same kernel, launched with attributes, alone and in batches and graphs.

        Args:
            cluster: Blocks that run together as a cluster: a number, or up to three. The grid must
                be a multiple of it. Every GPU that has clusters can have 8 blocks in one.
            programmatic: Whether a launch may begin before what is in front of it in the stream has
                ended (programmatic dependent launch). The kernel itself must wait, with
                ``cudaGridDependencySynchronize()`` or PTX's ``griddepcontrol.wait``, before it
                reads what that writes. Of use behind another launch of the same batch or graph: a
                ticket ends with a host function, and nothing overtakes that.
            priority: Of the launch: lower numbers go first; None takes the stream's.

        Raises:
            LaunchError: The device has no clusters, or these are no attributes. What only the
                driver can know, such as too large a cluster, fails the ticket of a launch.
        """
        operation = self._signature.operation
        attributes = LaunchAttributes.checked(
            operation, cluster=cluster, programmatic=programmatic, priority=priority
        )
        if attributes.cluster is not None and not self._port.thread.info.clusters:
            detail = "the device has no clusters; they need compute capability 9.0"
            raise LaunchError(operation=operation, detail=detail)
        kernel = copy.copy(self)
        kernel.attributes, kernel._shapes = attributes, {}  # noqa: SLF001  # its own copy
        return kernel

    def _launch_in(
        self,
        stream: object,
        timeout: float | None,
        shape: bytes,
        args: tuple[Any, ...],
        time: int,
    ) -> Ticket[None]:
        port, signature = self._port, self._signature
        number = next(port.thread.numbers)
        handle, lane = stream_target(stream, port.thread)
        where = (port.handle, number, handle, timeout_ns(timeout), lane + time)
        submission = signature.pack(where, shape, args)
        mark_used(args, lane)
        ticket: Ticket[None] = port.submit(
            submission, number, signature.operation, (self, args, stream)
        )
        ticket.stream = stream
        return ticket.due_in(timeout)

    def bind(
        self, grid: Dimensions, block: Dimensions, *args: Any, shared_bytes: int = 0
    ) -> BoundLaunch:
        """Check and pack a launch now, to submit it later in batches, any number of times.

        Kernel and buffers are kept alive; if one is freed by hand, submitting a batch with it
        raises what launching would. Takes and raises what `launch` does.
        """
        gone = self._port.thread.gone  # before the check: what is freed after it is noticed
        return BoundLaunch.make(self, args, self.operation(grid, block, args, shared_bytes), gone)

    def operation(
        self, grid: Dimensions, block: Dimensions, args: tuple[Any, ...], shared_bytes: int
    ) -> bytes:
        """Return a launch as one operation of a batch. Raises what `launch` does."""
        try:
            shape = self._shapes[grid, block, shared_bytes]
        except (KeyError, TypeError):  # new, or a list
            shape = self._new_shape(grid, block, shared_bytes)
        if self.module.unloaded:
            raise self.module.unloaded_error()
        return self._signature.pack_operation(shape, args)

    def _new_shape(self, grid: Dimensions, block: Dimensions, shared_bytes: int) -> bytes:
        operation, limits = self._signature.operation, self._limits
        shape = pack_shape(operation, (grid, block, shared_bytes), limits, self.attributes)
        if isinstance(grid, int | tuple) and isinstance(block, int | tuple):
            if len(self._shapes) >= _SHAPES_KEPT:
                self._shapes.clear()
            self._shapes[grid, block, shared_bytes] = shape
        return shape

    def __repr__(self) -> str:
        params = "undeclared" if self.params is None else ", ".join(self.params)
        state = " unloaded" if self.module.unloaded else ""
        return f"<Kernel {self.name}({params}){state}>"


class BoundLaunch(metaclass=FactoryMade, factory="kernel.bind()"):
    """A launch with its arguments, packed. Get it with `Kernel.bind`.

    Attributes:
        kernel: What it launches.
        args: With these.
        operation: Its bytes.
        gone: `DeviceThread.gone` when it was checked.
    """

    __slots__ = ("args", "gone", "kernel", "operation")

    def __init__(self, kernel: Kernel, args: tuple[Any, ...], operation: bytes, gone: int) -> None:
        self.kernel, self.args = kernel, args
        self.operation, self.gone = operation, gone

    def __repr__(self) -> str:
        return f"<BoundLaunch of {self.kernel.name}>"


class LoadedModule(metaclass=FactoryMade, factory="rt.module() or device.load()"):
    """The code of one artifact, loaded on one device.

    It is unloaded by `unload`, by the garbage collector once neither it nor one of its kernels is
    referred to, or when the device closes. Unloading only posts (rule R3).

    Attributes:
        key: Of the artifact.
        name: Label of the spec.
        entry_points: In order, with their declared parameters.
    """

    def __init__(
        self, port: Port, resource: int, artifact: Artifact, entries: Sequence[EntryPoint]
    ) -> None:
        self.port = port
        self.key = artifact.key
        self.name = artifact.name
        self.entry_points = tuple(entries)
        self._thread = port.thread
        self._resource = resource
        functions = ctypes.addressof(wire.Resource.from_address(resource).functions.contents)
        size = ctypes.sizeof(wire.Function)
        # Not kept here: a kernel refers to its module, and a cycle would wait for the collector.
        self._functions = {
            entry.name: (entry, functions + i * size) for i, entry in enumerate(entries)
        }

    def kernel(self, name: str | None = None) -> Kernel:
        """Return the kernel of an entry point, or of the only one.

        Raises:
            LoadError: The module has no such entry point, or there are several and none was named.
            RuntimeClosed: The module was unloaded.
        """
        if self.unloaded:
            raise self.unloaded_error()
        if name is None and len(self._functions) == 1:
            name = next(iter(self._functions))
        if name not in self._functions:
            raise LoadError(
                operation=f"find kernel {name!r} in module {self.name!r}",
                detail=f"it has {', '.join(self._functions)}",
            )
        return Kernel.make(self, *self._functions[name])

    def unloaded_error(self) -> AjitError:
        """What using it raises once it is unloaded."""
        if self.port.closed:
            return self.port.refusal()
        return RuntimeClosed(f"module {self.name!r} was unloaded; nothing was started")

    @property
    def unloaded(self) -> bool:
        """Whether it was unloaded, or its device was closed."""
        return not self._resource or self.port.closed

    def unload(self) -> None:
        """Give the code back. May be called more than once; submitted launches still run."""
        resource, self._resource = self._resource, 0
        if resource:
            self._thread.gone += 1
            self._thread.post(resource)

    def __del__(self) -> None:
        if getattr(self, "_resource", 0):
            self.unload()

    def __repr__(self) -> str:
        state = "unloaded" if self.unloaded else "loaded"
        return f"<LoadedModule {self.name!r} {state} entries=[{', '.join(self._functions)}]>"


def load(port: Port, artifact: Artifact, entries: Sequence[EntryPoint]) -> Ticket[LoadedModule]:
    """Submit the load of an artifact: the module, its entry points, and what is known of each.

    Everything is loaded eagerly, so that no first launch has to wait for the device.
    """
    _check_image(artifact)
    image = ctypes.create_string_buffer(artifact.data, len(artifact.data) + _IMAGE_PADDING)
    lowered = [artifact.lowered.get(entry.name, entry.name).encode() for entry in entries]
    names = (ctypes.c_char_p * len(lowered))(*lowered)
    operation = wire.LoadLayout.pack(
        wire.LOAD,
        wire.LoadLayout.size,
        ctypes.addressof(image),
        ctypes.addressof(names),
        len(lowered),
    )

    def finish(resource: int) -> LoadedModule:
        return LoadedModule.make(port, resource, artifact, entries)

    def explain(detail: int) -> str:
        return f"entry point {entries[detail - 1].name!r}" if detail else "the module"

    keep: Any = (image, names, lowered)
    ticket = port.submit_operations(operation, f"load {artifact.name}", keep, finish)
    return ticket.explained_by(explain)


def _check_image(artifact: Artifact) -> None:
    """Refuse an ELF image whose section table is not in it: a driver would read past the end.

    Entries are verified when they are read, so this is the last line of defence, not the first.
    """
    data = artifact.data
    if data[:4] != b"\x7fELF":
        return  # the driver says what it thinks of it
    ends = None
    if len(data) >= _ELF_SECTIONS.size:
        offset, size, count = _ELF_SECTIONS.unpack_from(data)
        ends = offset + size * count
    if ends is None or ends > len(data):
        detail = f"the image is cut short: {len(data)} bytes, its section table ends at {ends}"
        raise LoadError(operation=f"load {artifact.name}", detail=detail)
