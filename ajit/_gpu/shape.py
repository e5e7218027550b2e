"""Shapes of launches: grid, block, shared memory and launch attributes, checked and packed."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, overload

from ajit._gpu import wire
from ajit.errors import ArgumentError, LaunchError

if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "Dimensions",
    "LaunchAttributes",
    "ShapeLimits",
    "checked_attributes",
    "cover",
    "pack_shape",
    "shown",
    "whole_number",
]

Dimensions: TypeAlias = int | Sequence[int]
"""A grid, a block or a cluster: a number, or up to three of them, x first."""

_PRIORITIES = range(-(1 << 15), 1 << 15)
"""What a launch has room for; those of devices are a handful around 0."""


@dataclass(frozen=True, slots=True)
class LaunchAttributes:
    """How a kernel is launched, beyond its shape: `Kernel.attributes`.

    Get a kernel with others from `Kernel.with_attributes`.

    Attributes:
        cluster: Blocks of a cluster in x, y and z, or None for no clusters.
        programmatic: Whether a launch may begin before what is in front of it has ended.
        priority: Of the launch, or None for that of its stream.
    """

    cluster: tuple[int, int, int] | None = None
    programmatic: bool = False
    priority: int | None = None


class ShapeLimits:
    """What a launch of one kernel may ask for."""

    __slots__ = ("block", "grid", "shared_bytes", "threads")

    def __init__(self, info: wire.DeviceInfo, threads: int, shared_bytes: int) -> None:
        self.grid = tuple(info.max_grid)
        self.block = tuple(info.max_block)
        self.threads = threads
        self.shared_bytes = shared_bytes


def checked_attributes(
    operation: str,
    *,
    cluster: Dimensions | None,
    programmatic: bool,
    priority: int | None,
) -> LaunchAttributes:
    """Return launch attributes, if they can be.

    Raises:
        LaunchError: They cannot; the driver saw nothing.
    """
    blocks = None if cluster is None else _three(operation, "cluster", cluster)
    if blocks is not None and min(blocks) < 1:
        raise _refused(operation, f"cluster is {shown(cluster)}, must be 1 or more everywhere")
    if not isinstance(programmatic, bool):
        raise _refused(operation, f"programmatic is {shown(programmatic)}, must be a bool")
    if priority is not None:
        priority = whole_number(operation, "priority", priority)
        if priority not in _PRIORITIES:
            raise _refused(operation, f"no device has priority {priority}")
    return LaunchAttributes(blocks, programmatic, priority)


def _packed_attributes(attributes: LaunchAttributes) -> tuple[int, ...]:
    """Return the last numbers of `wire.SHAPE`: cluster, flags, priority."""
    flags = wire.CLUSTERED if attributes.cluster is not None else 0
    flags |= wire.PROGRAMMATIC if attributes.programmatic else 0
    flags |= wire.PRIORITISED if attributes.priority is not None else 0
    return (*(attributes.cluster or (0, 0, 0)), flags, attributes.priority or 0)


def pack_shape(
    operation: str,
    shape: tuple[Dimensions, Dimensions, int],
    limits: ShapeLimits,
    attributes: LaunchAttributes,
) -> bytes:
    """Return a shape as the executor wants it.

    Args:
        operation: For messages.
        shape: Grid, block, and bytes of dynamic shared memory.
        limits: Of the kernel on its device.
        attributes: Of the launch.

    Raises:
        LaunchError: The device cannot run such a launch; the driver saw nothing of it.
    """
    grid, block = _three(operation, "grid", shape[0]), _three(operation, "block", shape[1])
    for what, dims, most in (("grid", grid, limits.grid), ("block", block, limits.block)):
        for axis, value, limit in zip("xyz", dims, most, strict=True):
            if not 1 <= value <= limit:
                raise _refused(operation, f"{what}.{axis} is {value}, must be 1 to {limit}")
    threads = block[0] * block[1] * block[2]
    if threads > limits.threads:
        detail = f"a block of {threads} threads; the kernel can have {limits.threads}"
        raise _refused(operation, detail)
    shared_bytes = whole_number(operation, "shared_bytes", shape[2])
    if not 0 <= shared_bytes <= limits.shared_bytes:
        room = limits.shared_bytes
        detail = f"{shared_bytes} bytes of dynamic shared memory; 0 to {room} are left"
        raise _refused(operation, detail)
    _check_divides(operation, grid, attributes.cluster)
    return wire.SHAPE.pack(*grid, *block, shared_bytes, *_packed_attributes(attributes))


def _check_divides(
    operation: str, grid: tuple[int, int, int], cluster: tuple[int, int, int] | None
) -> None:
    for axis, blocks, together in zip("xyz", grid, cluster or grid, strict=True):
        if blocks % together:
            detail = f"grid.{axis} is {blocks}, no multiple of the cluster's {together}"
            raise _refused(operation, detail)


def _three(operation: str, what: str, dimensions: Dimensions) -> tuple[int, int, int]:
    sizes = dimensions if isinstance(dimensions, Sequence) else (dimensions,)
    try:
        x, y, z = [size.__index__() for size in (*sizes, 1, 1, 1)[: max(3, len(sizes))] if sizes]
    except (AttributeError, TypeError, ValueError):
        detail = f"{what} is {shown(dimensions)}, must be one to three whole numbers"
        raise _refused(operation, detail) from None
    return x, y, z


def _refused(operation: str, detail: str) -> LaunchError:
    return LaunchError(operation=operation, detail=detail)


@overload
def cover(n: int, block: int) -> int: ...
@overload
def cover(n: Sequence[int], block: Sequence[int]) -> tuple[int, ...]: ...
def cover(n: int | Sequence[int], block: int | Sequence[int]) -> int | tuple[int, ...]:
    """Return how many blocks cover n threads: the grid of ``kernel[cover(n, 256), 256]``.

    Args:
        n: Threads that are needed: a number, or one for each axis.
        block: Threads of a block: the same.

    Returns:
        n / block, rounded up, but at least 1: CUDA launches no empty grid, and a kernel that asks
        ``if (i < n)`` is right then, too.

    Raises:
        ValueError: n is below 0, block below 1, or they have different numbers of axes.
        TypeError: One is a number and the other is not.
    """
    if isinstance(n, Sequence) and isinstance(block, Sequence):
        return tuple(_cover(*pair) for pair in zip(n, block, strict=True))
    if isinstance(n, Sequence) or isinstance(block, Sequence):
        raise TypeError(f"n and block have as many axes, not {shown(n)} and {shown(block)}")
    return _cover(n, block)


def _cover(n: int, block: int) -> int:
    n, block = operator.index(n), operator.index(block)
    if n < 0 or block < 1:
        raise ValueError(f"n must be at least 0 and block at least 1, got {n} and {block}")
    return max(1, -(-n // block))


def whole_number(operation: str, what: str, value: Any) -> int:
    """Return a value that must be a whole number as one.

    Raises:
        ArgumentError: It is none.
    """
    try:
        return operator.index(value)
    except TypeError:
        detail = f"{what} is {shown(value)}, must be a whole number"
        raise ArgumentError(operation=operation, detail=detail) from None


def shown(value: object) -> str:
    """Return what messages show of a value."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
