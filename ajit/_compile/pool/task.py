"""One job on its way through the compile pool."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal, TypeAlias

from ajit._system.warn import warn_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._compile.pool.admission import Permits
    from ajit._compile.pool.ledger import Claim
    from ajit._compile.pool.pack import Pack
    from ajit._compile.toolchains.identity import Toolchain
    from ajit._core.job import CompileJob, CompileOutput, Seen
    from ajit._system.loop import Promise
    from ajit._system.priority_line import Priority

__all__ = ["BeatPhase", "OnBeat", "Task", "TaskState"]

TaskState = Literal["queued", "running", "done"]
BeatPhase = Literal["queued", "compiling"]
OnBeat: TypeAlias = "Callable[[BeatPhase, float], None]"
"""Called with the phase, and the CPU seconds that the compiler has used."""


class Task:
    """One job on its way through the pool.

    `state`, `priority`, `claim`, `permit` and `jobs` belong to the pool's lock; `cancelled` is only
    ever set.

    Attributes:
        jobs: How many slots it has, once it runs.
    """

    def __init__(
        self,
        job: CompileJob,
        toolchain: Toolchain | None,
        on_beat: OnBeat,
        promise: Promise[CompileOutput],
        priority: Priority = "foreground",
        on_seen: Callable[[Seen], None] = lambda _: None,
        on_pack: Callable[[Pack], None] = lambda _: None,
    ) -> None:
        self.on_seen = on_seen
        self.on_pack = on_pack
        self.job = job
        self.key = job.key
        self.toolchain = toolchain
        self.promise = promise
        self.priority = priority
        self.state: TaskState = "queued"
        self.claim: Claim | None = None
        self.permit: Permits | None = None
        self.jobs = 1
        self.cancelled = threading.Event()
        self._on_beat: OnBeat | None = on_beat

    def beat(self, phase: BeatPhase, cpu_seconds: float = 0.0) -> None:
        """Tell the owner that the task is alive. An exception ends the beats, not the compile."""
        on_beat = self._on_beat
        if on_beat is None:
            return
        try:
            on_beat(phase, cpu_seconds)
        except Exception as exc:  # noqa: BLE001 - the owner's code; the compile is worth more
            self._on_beat = None
            warn_only(f"beat of {self.job.name} failed, there will be no more: {exc!r}")
