"""Per kernel, how many of the server's processes asked, compiled, waited and found it on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from examples.model_server.demonstration.load import Load

__all__ = ["KernelCount", "count_kernels"]


@dataclass(slots=True)
class KernelCount:
    """What the processes of one server did for one kernel.

    Attributes:
        name: The spec's name.
        asked: Processes that had a request for it.
        compiles: Compiles that were started, in all processes together.
        waited: Processes that waited for another one's compile.
        disk: Processes that found it on disk, the waiting ones included.
        seconds: How long the process that compiled it took to have it ready.
    """

    name: str
    asked: int = 0
    compiles: int = 0
    waited: int = 0
    disk: int = 0
    seconds: float = 0.0


def count_kernels(load: Load) -> list[KernelCount]:
    """Add up what the workers say, kernel by kernel."""
    counts: dict[str, KernelCount] = {}
    for stats in load.stats.values():
        for key, line in stats["kernels"].items():
            kernel = counts.setdefault(key, KernelCount(line["name"]))
            kernel.asked += 1
            kernel.compiles += line["compiles"]
            kernel.waited += line["waits"] > 0
            kernel.disk += line["tier"] == "disk"
            if line["compiles"]:
                kernel.seconds = line["seconds"]
    return sorted(counts.values(), key=lambda kernel: kernel.name)
