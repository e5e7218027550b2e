"""What this worker's kernels cost: one line a kernel, made from ajit's events."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ajit._core import events

if TYPE_CHECKING:
    from ajit.events import Event

__all__ = ["KernelLine", "KernelRecord"]


@dataclass(slots=True)
class KernelLine:
    """One kernel in this process.

    Attributes:
        name: The spec's name.
        tier: Where it was found: ``disk``, ``remote`` or ``compiled``; empty until it is ready.
        compiles: Compiles that this process started.
        seconds: From the first request for it until it was loaded.
        waits: How often it waited for another process that was compiling it.
        waited_for: That process, as ``host:pid``.
        size_bytes: The artifact's.
    """

    name: str
    tier: str = ""
    compiles: int = 0
    seconds: float = 0.0
    waits: int = 0
    waited_for: str = ""
    size_bytes: int = 0


class KernelRecord:
    """Collects events; it is called in the server's event loop, so it needs no lock."""

    def __init__(self) -> None:
        self._lines: dict[str, KernelLine] = {}

    def __call__(self, event: Event) -> None:
        """Note one event."""
        line = self._lines.setdefault(event.key, KernelLine(event.name))
        match event:
            case events.CompileStarted():
                line.compiles += 1
            case events.WaitEnded(holder=holder):
                line.waits += 1
                if holder is not None:
                    line.waited_for = f"{holder.host}:{holder.pid}"
            case events.KernelReady(tier=tier, seconds=seconds, size_bytes=size_bytes):
                line.tier, line.seconds, line.size_bytes = tier, seconds, size_bytes

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Every kernel by its key, ready for JSON."""
        return {key: asdict(line) for key, line in self._lines.items()}
