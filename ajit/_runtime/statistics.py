"""What a runtime counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._core.short_repr import short_repr

if TYPE_CHECKING:
    from ajit._cache.entries.disk import DiskStatistics
    from ajit._compile.pool.pool import PoolStatistics
    from ajit._core.events import Waiting
    from ajit._gpu.statistics import ThreadStatistics
    from ajit._resolve.credits import CreditStatistics

__all__ = ["Counts", "RuntimeStatistics"]


@dataclass(slots=True)
class Counts:
    """Requests by how they ended. Belongs to the runtime's event loop."""

    memory: int = 0
    disk: int = 0
    compiled: int = 0
    failed: int = 0
    waited: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeStatistics:
    """What a runtime has done and is doing.

    Attributes:
        from_memory: Requests for kernels and modules that were loaded already.
        from_disk: Resolutions that found the entry on disk, verified.
        compiled: Resolutions that ended with a compile, of this runtime or one of this process.
        failed: Resolutions that ended with an error.
        waited: Resolutions that waited for another process.
        in_progress: Specs that are being resolved or loaded now.
        waiting: The processes that resolutions wait for now: holder, phase, age.
        loaded_modules: Modules on the device.
        disk: The cache's own counts.
        pool: The compile pool.
        credits: Lease credits: resolutions that may take a lease, and those that wait for a credit.
        device: The device and its CUDA thread; None without one.
    """

    from_memory: int
    from_disk: int
    compiled: int
    failed: int
    waited: int
    in_progress: int
    waiting: tuple[Waiting, ...]
    loaded_modules: int
    disk: DiskStatistics
    pool: PoolStatistics
    credits: CreditStatistics
    device: ThreadStatistics | None

    def __repr__(self) -> str:
        return short_repr(self)
