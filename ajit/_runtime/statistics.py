"""What a runtime counts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ajit._cache.entries.disk import DiskStatistics
    from ajit._compile.pool.pool import PoolStatistics
    from ajit._core.events import MakingKey, Waiting
    from ajit._gpu.statistics import ThreadStatistics
    from ajit._resolve.credits import CreditStatistics
    from ajit._resolve.layers import LayerStatistics

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

    A number is a count since the runtime was opened, where nothing else is said. A *resolution* is
    the work for one kernel that is not loaded: requests for it at the same time share it.

    Attributes:
        from_memory: Requests that found their kernel or module loaded.
        from_disk: Resolutions that found a good entry in the cache or in a layer.
        compiled: Resolutions that ended with a compile, by this runtime or by another one of this
            process.
        failed: Resolutions that ended with an error.
        waited: Resolutions that waited for another process to compile.
        in_progress: Kernels that are being looked for, compiled or loaded now.
        late: Compiles and builds that were asked for while the runtime was frozen: of its own, and
            of the adapters in its process; those that were refused among them.
        waiting: What resolutions wait for now: one event for each, with the process that compiles,
            its phase and age, and the seconds of the wait.
        making_keys: Requests whose key is not made after half a second: one event for each, with
            what it is at, and the seconds since the request.
        layers: One for each read-only cache below the cache: its path, problem and reads.
        loaded_modules: Modules on the device now.
        cache_problem: Why the cache is not looked at, or nothing is kept in it: it does not answer,
            or cannot be written; "" if it is used.
        disk: Reads and writes of the cache's entries.
        pool: The compile pool: jobs and worker processes.
        credits: Leases that this runtime may try to take at once, so that processes share work.
        device: The device and its CUDA thread; None without one.
    """

    from_memory: int
    from_disk: int
    compiled: int
    failed: int
    waited: int
    in_progress: int
    late: int = 0
    waiting: tuple[Waiting, ...]
    making_keys: tuple[MakingKey, ...] = ()
    layers: tuple[LayerStatistics, ...] = ()
    loaded_modules: int
    cache_problem: str
    disk: DiskStatistics
    pool: PoolStatistics
    credits: CreditStatistics
    device: ThreadStatistics | None

    def __str__(self) -> str:
        """Return several lines for people: the requests, each wait, and what each part counts."""
        counts = [(name, getattr(self, name)) for name in (*_REPR_FIELDS, "loaded_modules")]
        counts += [("late", self.late)] if self.late else []
        parts: list[tuple[str, object]] = [
            ("disk", self.disk),
            ("pool", self.pool),
            ("credits", self.credits),
        ]
        parts += [(f"layer {layer.path}", layer.disk) for layer in self.layers]
        if self.device is not None:
            parts.append(("device", self.device))
        return "\n".join([
            _line("runtime", counts),
            *([f"  cache: {self.cache_problem}"] if self.cache_problem else []),
            *(_line_of_wait(waiting) for waiting in self.waiting),
            *(_line_of_key(making) for making in self.making_keys),
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


def _line_of_key(making: MakingKey) -> str:
    return f"  making the key: {making.name} for {making.waited_seconds:.1f} s, at {making.doing}"


def _counts(part: object) -> list[tuple[str, object]]:
    """Return what a part counts, without what is empty; seconds with three digits."""
    values = [(field.name, getattr(part, field.name)) for field in fields(part)]  # type: ignore[arg-type]  # each is a dataclass
    return [
        (name, round(value, 3) if isinstance(value, float) else value)
        for name, value in values
        if value
    ]
