"""``kernel[grid, block]``: a kernel with the shape of its launch, to be called with arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ajit._core.factory import FactoryMade

if TYPE_CHECKING:
    from ajit._gpu.completion.ticket import Ticket
    from ajit._gpu.kernel import Kernel
    from ajit._gpu.shape import Dimensions

__all__ = ["ConfiguredKernel"]


class ConfiguredKernel(metaclass=FactoryMade, factory="kernel[grid, block]"):
    """A kernel and a shape. Get it with ``kernel[grid, block]``.

    Attributes:
        kernel: The kernel.
        grid: Blocks: a number, or up to three.
        block: Threads of a block: a number, or up to three.
    """

    __slots__ = ("block", "grid", "kernel")

    def __init__(self, kernel: Kernel, grid: Dimensions, block: Dimensions) -> None:
        self.kernel, self.grid, self.block = kernel, grid, block

    def __call__(
        self,
        *args: Any,
        shared_bytes: int = 0,
        stream: object = None,
        timeout: float | None = None,
        timed: bool = False,
    ) -> Ticket[None]:
        """Submit the kernel at once. Takes, returns and raises what `Kernel.launch` does."""
        return self.kernel.launch(
            self.grid, self.block, *args,
            shared_bytes=shared_bytes, stream=stream, timeout=timeout, timed=timed,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<ConfiguredKernel {self.kernel!r}[{self.grid}, {self.block}]>"
