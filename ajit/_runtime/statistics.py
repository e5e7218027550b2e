"""What a runtime counts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    """What a runtime has done and is doing. `print` shows it in several lines.

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

    def __str__(self) -> str:
        """Return several lines for people: the requests, each wait, and what each part counts."""
        counts = [(name, getattr(self, name)) for name in (*_REPR_FIELDS, "loaded_modules")]
        parts = [("disk", self.disk), ("pool", self.pool), ("credits", self.credits)]
        if self.device is not None:
            parts.append(("device", self.device))
        return "\n".join([
            _line("runtime", counts),
            *(_line_of_wait(waiting) for waiting in self.waiting),
            *(_line(f"  {name}", _counts(part)) for name, part in parts),
        ])  # fmt: skip

    def __repr__(self) -> str:
        counts = [f"{name}={getattr(self, name)}" for name in _REPR_FIELDS]
        return f"RuntimeStatistics({', '.join(counts)}, waiting={len(self.waiting)})"


_REPR_FIELDS = ("compiled", "from_disk", "from_memory", "failed", "waited", "in_progress")


def _line(title: str, counts: Iterable[tuple[str, object]]) -> str:
    shown = [f"{name.replace('_', ' ')} {value}" for name, value in counts]
    return f"{title}: {', '.join(shown)}"


def _line_of_wait(waiting: Waiting) -> str:
    holder = waiting.holder or "another process"
    seconds = f"{waiting.waited_seconds:.1f} s"
    return f"  waiting: {waiting.name} ({waiting.key[:16]}) for {seconds}, for {holder}"


def _counts(part: object) -> list[tuple[str, object]]:
    """Return what a part counts, without what is empty; seconds with three digits."""
    values = [(field.name, getattr(part, field.name)) for field in fields(part)]  # type: ignore[arg-type]  # each is a dataclass
    return [
        (name, round(value, 3) if isinstance(value, float) else value)
        for name, value in values
        if value
    ]
