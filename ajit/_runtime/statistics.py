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
    fallbacks: int = 0


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
        handovers: Of these, those that got the lease and no result: the other process died, was
            cancelled, or could not keep what it had compiled.
        fallbacks: Requests that were answered with their fallback.
        compile_seconds: What compiles of this runtime took, failed ones included.
        queue_seconds: For how long they had waited before, for a slot, memory or a permit.
        saved_seconds: What the compiles had taken, wherever that was, whose results this runtime
            found in the cache.
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
        cache_entries: Entries of the cache, and
        cache_bytes: their size, as of the last time that this runtime looked, which it does
            when it evicts; None before that.
        cache_limit_bytes: What the cache may hold; 0 is any number.
        evicted_entries: Entries that this runtime removed because of the cache's limits, and
        evicted_bytes: the size of all files that it removed so.
        background_errors: Calls on the cache that failed where no request gets the error.
        events_dropped: Events that were lost for a subscriber, because it raised.
        disk: Looks for entries in the cache, and what was written.
        pool: The compile pool: jobs and worker processes.
        credits: Leases that this runtime may try to take at once, so that processes share work.
        device: The device and its CUDA thread; None without one.
    """

    from_memory: int
    from_disk: int
    compiled: int
    failed: int
    waited: int
    handovers: int = 0
    fallbacks: int = 0
    compile_seconds: float = 0.0
    queue_seconds: float = 0.0
    saved_seconds: float = 0.0
    in_progress: int
    late: int = 0
    waiting: tuple[Waiting, ...]
    making_keys: tuple[MakingKey, ...] = ()
    layers: tuple[LayerStatistics, ...] = ()
    loaded_modules: int
    cache_problem: str
    cache_entries: int | None = None
    cache_bytes: int | None = None
    cache_limit_bytes: int = 0
    evicted_entries: int = 0
    evicted_bytes: int = 0
    background_errors: int = 0
    events_dropped: int = 0
    disk: DiskStatistics
    pool: PoolStatistics
    credits: CreditStatistics
    device: ThreadStatistics | None

    def __str__(self) -> str:
        """Return several lines for people: the requests, each wait, and what each part counts."""
        counts = [(name, getattr(self, name)) for name in (*_REPR_FIELDS, "loaded_modules")]
        sums = [(name, shown) for name in _SUMS if (shown := self._shown(name))]
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
            *([_line("  sums", sums)] if sums else []),
            *([f"  cache: {self.cache_problem}"] if self.cache_problem else []),
            *(_line_of_wait(waiting) for waiting in self.waiting),
            *(_line_of_key(making) for making in self.making_keys),
            *(_line(f"  {name}", _counts(part)) for name, part in parts),
        ])  # fmt: skip

    def _shown(self, name: str) -> object:
        value = getattr(self, name)
        return round(value, 3) if isinstance(value, float) else value

    def __repr__(self) -> str:
        counts = [f"{name}={getattr(self, name)}" for name in _REPR_FIELDS]
        return f"RuntimeStatistics({', '.join(counts)}, waiting={len(self.waiting)})"


_REPR_FIELDS = ("compiled", "from_disk", "from_memory", "failed", "waited", "in_progress")

_SUMS = (
    "late",
    "handovers",
    "fallbacks",
    "compile_seconds",
    "queue_seconds",
    "saved_seconds",
    "cache_entries",
    "cache_bytes",
    "evicted_entries",
    "evicted_bytes",
    "background_errors",
    "events_dropped",
)
"""Shown where they are not zero."""


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
