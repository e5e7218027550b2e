"""One job on its way through the compile pool."""

from __future__ import annotations

import contextlib
import threading
import warnings
from typing import TYPE_CHECKING, Literal

from ajit.errors import AjitWarning

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._compile.pool.admission import Permit
    from ajit._compile.pool.ledger import Claim
    from ajit._compile.toolchains.identity import Toolchain
    from ajit._core.job import CompileJob, CompileOutput
    from ajit._system.loop import Promise

__all__ = ["BeatPhase", "Priority", "Task", "TaskState", "warn"]

TaskState = Literal["queued", "running", "done"]
BeatPhase = Literal["queued", "compiling"]

Priority = Literal["foreground", "background"]
"""Whether somebody waits for the result now, or it is warm-up work."""


class Task:
    """One job on its way through the pool.

    `state`, `priority`, `claim` and `permit` belong to the pool's lock; `cancelled` is only ever
    set.
    """

    def __init__(
        self,
        job: CompileJob,
        toolchain: Toolchain | None,
        on_beat: Callable[[BeatPhase], None],
        promise: Promise[CompileOutput],
        priority: Priority = "foreground",
    ) -> None:
        self.job = job
        self.toolchain = toolchain
        self.promise = promise
        self.priority = priority
        self.state: TaskState = "queued"
        self.claim: Claim | None = None
        self.permit: Permit | None = None
        self.cancelled = threading.Event()
        self._on_beat: Callable[[BeatPhase], None] | None = on_beat

    def beat(self, phase: BeatPhase) -> None:
        """Tell the owner that the task is alive. An exception ends the beats, not the compile."""
        on_beat = self._on_beat
        if on_beat is None:
            return
        try:
            on_beat(phase)
        except Exception as exc:  # noqa: BLE001 - the owner's code; the compile is worth more
            self._on_beat = None
            warn(f"beat of {self.job.name} failed, it gets no more: {exc!r}")


def warn(message: str) -> None:
    """Say what cannot be raised. Any thread."""
    # Where warnings are errors, this one is still not a reason to lose a compile.
    with contextlib.suppress(AjitWarning):
        warnings.warn(message, AjitWarning, stacklevel=3)
