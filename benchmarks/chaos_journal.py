"""What every process of a chaos run writes down, in one line of JSON a fact, and how it is read.

Times are of the monotonic clock, which all processes of a machine share. A line is one write, so a
process that is killed leaves whole lines.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Journal", "Record", "read_journals"]


@dataclass(frozen=True, slots=True)
class Record:
    """One fact.

    Attributes:
        time: When it was written down, in seconds.
        pid: Who wrote it.
        what: Its kind.
        facts: The rest.
    """

    time: float
    pid: int
    what: str
    facts: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]


class Journal:
    """The journal of this process."""

    def __init__(self, folder: Path) -> None:
        path = folder / f"{os.getpid()}.jsonl"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(self, what: str, **facts: Any) -> None:
        """Write one fact down."""
        line = {"time": time.monotonic(), "pid": os.getpid(), "what": what, "facts": facts}
        os.write(self._fd, json.dumps(line).encode() + b"\n")


def read_journals(folder: Path) -> list[Record]:
    """Return the facts of all processes, in the order of their times."""
    records = []
    for path in folder.glob("*.jsonl"):
        records += [Record(**json.loads(line)) for line in path.read_text().splitlines()]
    return sorted(records, key=lambda record: record.time)
