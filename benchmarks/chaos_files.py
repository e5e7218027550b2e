"""Faults of a chaos run in a cache's small files: lists, holders, failures, temporaries.

None of them may cost more than a compile, which the judge has to be able to explain: by the key of
a reading list or a failure record, by the process that a temporary file is named after. A holder
record explains nothing: whatever it says, the lock holds.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.chaos_journal import Journal

__all__ = ["SmallFiles"]

CATCH_SECONDS = 0.5
"""How long a temporary file is lain in wait for: there is one for some milliseconds."""

JUNK_BYTES = 1500


class SmallFiles:
    """Damages what is no entry.

    Attributes:
        kinds: The faults, by name; each says whether there was anything to damage.
    """

    def __init__(self, cache_dir: Path, journal: Journal, rng: random.Random) -> None:
        self._cache_dir = cache_dir
        self._journal = journal
        self._rng = rng
        self.kinds: dict[str, Callable[[], bool]] = {
            "holder record": self._holder_record,
            "failure record": self._failure_record,
            "temporary file": self._temporary,
            "reading list": self._reading_list,
        }

    def _holder_record(self) -> bool:
        """Overwrite, cut off or tear a lock file, which is never unlinked while it is in use."""
        path = self._one_of("locks/*/*.lock")
        if path is None:
            return False
        damage = self._rng.choice([self._junk, self._cut, self._tear])
        begun = time.monotonic()
        with contextlib.suppress(FileNotFoundError):
            damage(path)
        self._journal.note("record_damaged", file=path.stem, begun=begun)
        return True

    def _failure_record(self) -> bool:
        """Damage or remove the record of a rejection, or put it where another kernel's would be."""
        path = self._one_of("failures/*/*.json")
        if path is None:
            return False
        damage = self._rng.choice([self._junk, self._cut, self._tear, Path.unlink, self._plant])
        begun = time.monotonic()
        with contextlib.suppress(FileNotFoundError):
            damage(path)
        self._journal.note("damaged", kind="failure", keys=[path.stem], begun=begun)
        return True

    def _plant(self, record: Path) -> None:
        base = self._one_of("reads/*/*")
        if base is not None:
            place = self._cache_dir / "failures" / base.name[:2] / f"{base.name}.json"
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(record.read_bytes())

    def _reading_list(self) -> bool:
        """Damage or remove what leads from a base key to its entries."""
        path = self._one_of("reads/*/*/*")
        if path is None:
            return False
        damage = self._rng.choice([self._junk, self._cut, self._tear, Path.unlink])
        begun = time.monotonic()
        with contextlib.suppress(FileNotFoundError):
            damage(path)
        self._journal.note("damaged", kind="list", keys=[path.parent.name], begun=begun)
        return True

    def _temporary(self) -> bool:
        """Remove, damage or replace a file that is just being written or published."""
        deadline = time.monotonic() + CATCH_SECONDS
        while (path := self._one_of("tmp/*")) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        damage = self._rng.choice([Path.unlink, self._cut, self._tear, self._replace])
        begun = time.monotonic()
        with contextlib.suppress(FileNotFoundError):
            damage(path)
        # host.namespace.pid.start.random
        server = int(path.name.split(".")[2])
        self._journal.note("temporary_damaged", server=server, begun=begun)
        return True

    def _replace(self, path: Path) -> None:
        entry, other = self._one_of("entries/*/*.ajit"), self._cache_dir / "replacement"
        if entry is not None:
            other.write_bytes(entry.read_bytes())
            if path.exists():  # else the damage would create a file, which nothing removes
                other.replace(path)

    def _junk(self, path: Path) -> None:
        with path.open("r+b") as file:
            file.write(self._rng.randbytes(JUNK_BYTES))

    def _cut(self, path: Path) -> None:
        os.truncate(path, path.stat().st_size // 2)

    def _tear(self, path: Path) -> None:
        """Overwrite a few bytes in the middle."""
        with path.open("r+b") as file:
            file.seek(self._rng.randrange(max(1, path.stat().st_size)))
            file.write(self._rng.randbytes(4))

    def _one_of(self, pattern: str) -> Path | None:
        found = sorted(self._cache_dir.glob(pattern))
        return self._rng.choice(found) if found else None
