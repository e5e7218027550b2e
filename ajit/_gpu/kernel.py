"""Kernels: entry points that are loaded on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from ajit._core.factory import FactoryMade
from ajit._core.short_repr import cut
from ajit._gpu import wire
from ajit._gpu.capturing import capture_block
from ajit._gpu.completion.state import TicketState
from ajit._gpu.configured import ConfiguredKernel
from ajit._gpu.inner import inner
from ajit._gpu.launcher import Launcher, PackedLaunch
from ajit._gpu.shape import LaunchAttributes, checked_attributes, shown
from ajit.errors import LaunchError

if TYPE_CHECKING:
    from ajit._core.spec import EntryPoint, Spec
    from ajit._gpu.completion.ticket import Ticket
    from ajit._gpu.module import LoadedModule
    from ajit._gpu.shape import Dimensions

__all__ = ["BoundLaunch", "Kernel"]


class Kernel(metaclass=FactoryMade, factory="rt.kernel() or module.kernel()"):
    """An entry point loaded on one device. Get it with `Runtime.kernel` or `LoadedModule.kernel`.

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
        self._inner = Launcher(inner(module), entry, address, self.attributes)

    def __getitem__(self, shape: tuple[Dimensions, Dimensions]) -> ConfiguredKernel:
        """``kernel[grid, block](*args)`` is ``kernel.launch(grid, block, *args)``.

        Raises:
            TypeError: The shape is not a grid and a block.
        """
        if type(shape) is not tuple or len(shape) != 2:
            raise TypeError(f"write kernel[grid, block](...), not kernel[{shown(shape)}]")
        return ConfiguredKernel.make(self, *shape)

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Refuse: a launch needs a grid and a block.

        Raises:
            TypeError: Always; it says how a kernel is launched.
        """
        raise TypeError(f"write {self.name}[grid, block](...): a launch needs a grid and a block")

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
        launcher = self._inner
        try:
            shape = launcher.shapes[grid, block, shared_bytes]
        except (KeyError, TypeError):  # new, or a list
            shape = launcher.new_shape(grid, block, shared_bytes)
        port = launcher.port
        if port.refusal is not None or not launcher.code.resource or capture_block.get():
            launcher.check_launch()
        if stream is not None or timeout is not None or timed:
            return launcher.launch_in(stream, timeout, shape, args, timed=timed, keep=self)
        signature, number = launcher.signature, next(launcher.numbers)
        submission = signature.pack((port.handle, number, 0, 0, 0), shape, args)
        return port.submit(submission, TicketState(number, signature.operation, (self, args)))

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
        launcher = self._inner
        operation = launcher.signature.operation
        attributes = checked_attributes(
            operation, cluster=cluster, programmatic=programmatic, priority=priority
        )
        if attributes.cluster is not None and not launcher.port.thread.info.clusters:
            detail = "the device has no clusters; they need compute capability 9.0"
            raise LaunchError(operation=operation, detail=detail)
        kernel: Kernel = object.__new__(Kernel)
        kernel.__dict__.update(self.__dict__)
        kernel.attributes = attributes
        kernel._inner = launcher.with_attributes(attributes)  # its own copy
        return kernel

    def bind(
        self, grid: Dimensions, block: Dimensions, *args: Any, shared_bytes: int = 0
    ) -> BoundLaunch:
        """Check and pack a launch now, to submit it later in batches, any number of times.

        Kernel and buffers are kept alive; if one is freed by hand, submitting a batch with it
        raises what launching would. Takes and raises what `launch` does.
        """
        launcher = self._inner
        gone = launcher.port.thread.gone  # before the check: what is freed after it is noticed
        operation = launcher.operation(grid, block, args, shared_bytes)
        return BoundLaunch.make(self, args, PackedLaunch(operation, gone))

    def __repr__(self) -> str:
        params = "undeclared" if self.params is None else ", ".join(self.params)
        state = " unloaded" if self.module.unloaded else ""
        return f"<Kernel {cut(self.name, 80)}({cut(params, 80)}){state}>"


class BoundLaunch(metaclass=FactoryMade, factory="kernel.bind()"):
    """A launch with its arguments, packed. Get it with `Kernel.bind`.

    Attributes:
        kernel: What it launches.
        args: With these.
    """

    __slots__ = ("_inner", "args", "kernel")

    def __init__(self, kernel: Kernel, args: tuple[Any, ...], packed: PackedLaunch) -> None:
        self.kernel, self.args = kernel, args
        self._inner = packed

    def __repr__(self) -> str:
        return f"<BoundLaunch of {cut(self.kernel.name, 80)}>"
