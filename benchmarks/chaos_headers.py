"""The headers of a chaos run: what they may hold, who includes them, and the faults that edit them.

A header has few contents, each with a label, and what is made of it tells which one was read. Only
the driver edits. Each edit is one line of its journal, with the time before and after it, so that
the judge knows what a header may have held at any moment. To save a file in place are two edits:
in between it holds its first half, of which no compiler makes anything but an error.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.chaos_journal import Journal

__all__ = [
    "GONE",
    "GROUPS",
    "HALF",
    "OPTIONAL",
    "STATES",
    "THERE",
    "VALUE",
    "VALUES",
    "HeaderEdits",
    "files_of",
    "group_of",
    "put",
]

GROUPS = 3
"""Directories of headers, each with kernels of its own: an edit spoils some of the kernels."""

VALUE, OPTIONAL = "value.h", "optional.h"
VALUES = ("0", "1", "2")
"""What a ``value.h`` may hold, apart from its first half."""

HALF = "half"
THERE, GONE = "there", "gone"
"""What an ``optional.h`` may be."""

STATES = [(value, optional) for value in VALUES for optional in (THERE, GONE)]

_FIRST_HALF = "constexpr int chaos_value = (7000 +\n"
_OPTIONAL_TEXT = "#define CHAOS_EXTRA 500\n"
HALF_SECONDS = 1.5
"""Longest time that a header is half saved: long enough for an error to be recorded, and shared."""


def group_of(number: int) -> int | None:
    """Return the directory of headers that a kernel includes from; None if it has no headers."""
    group = number % (GROUPS + 1)
    return group if group < GROUPS else None


def files_of(number: int, *, real: bool) -> tuple[str, ...]:
    """Return the headers that a kernel reads; only the real compiler's ask for the optional one."""
    group = group_of(number)
    if group is None:
        return ()
    names = (VALUE, OPTIONAL) if real else (VALUE,)
    return tuple(f"{group}/{name}" for name in names)


def put(folder: Path, file: str, label: str) -> None:
    """Give a header a content, whole, by a rename."""
    path = folder / file
    if label == GONE:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(_OPTIONAL_TEXT if label == THERE else _FIRST_HALF + _second_half(label))
    new.rename(path)


def _second_half(label: str) -> str:
    return f"    {label});\n"


class _Held(NamedTuple):
    """What a header held, and the time that the file system said."""

    label: str
    mtime_ns: int


class HeaderEdits:
    """Edits headers as editors, version control and build systems do.

    Args:
        folder: Where the directories of headers are.
        journal: Where each edit is written down.
        rng: Decides.

    Attributes:
        kinds: The faults, by name; each says whether there was anything to edit.
        labels: What each header holds.
    """

    def __init__(self, folder: Path, journal: Journal, rng: random.Random) -> None:
        self._folder = folder
        self._journal = journal
        self._rng = rng
        self._due: dict[str, tuple[float, str]] = {}  # half saved: when to go on, and with what
        self._former: dict[str, _Held] = {}
        self.labels: dict[str, str] = {}
        self.kinds: dict[str, Callable[[], bool]] = {
            "header replaced": self._replace,
            "header saved in place": self._save,
            "header put back": self._put_back,
            "header touched": self._touch,
            "optional header": self._change_optional,
        }
        for group in range(GROUPS):
            self._edit(f"{group}/{VALUE}", VALUES[0])
            self._edit(f"{group}/{OPTIONAL}", GONE)

    def finish_due(self, *, all_of_them: bool = False) -> None:
        """Write the second half of what has been half saved for long enough."""
        for file, (due, label) in list(self._due.items()):
            if all_of_them or time.monotonic() >= due:
                del self._due[file]
                begun = time.monotonic()
                with (self._folder / file).open("a") as opened:
                    opened.write(_second_half(label))
                self._note(file, label, begun)

    def _replace(self) -> bool:
        file = self._a_whole_one()
        if file is not None:
            self._remember(file)
            self._edit(file, self._another(file))
        return file is not None

    def _save(self) -> bool:
        """Write the first half over it; `finish_due` writes the second."""
        file = self._a_whole_one()
        if file is None:
            return False
        self._remember(file)
        label = self._another(file)
        begun = time.monotonic()
        (self._folder / file).write_text(_FIRST_HALF)
        self._note(file, HALF, begun)
        self._due[file] = (time.monotonic() + self._rng.uniform(0.0, HALF_SECONDS), label)
        return True

    def _put_back(self) -> bool:
        """Give it back its former content, and half of the times its former time as well."""
        file = self._a_whole_one()
        former = self._former.get(file) if file is not None else None
        if file is None or former is None:
            return False
        self._remember(file)
        begun = time.monotonic()
        put(self._folder, file, former.label)
        if self._rng.random() < 0.5:
            os.utime(self._folder / file, ns=(former.mtime_ns, former.mtime_ns))
        self._note(file, former.label, begun)
        return True

    def _touch(self) -> bool:
        file = self._a_whole_one()
        if file is not None:
            begun = time.monotonic()
            os.utime(self._folder / file)
            self._note(file, self.labels[file], begun)
        return file is not None

    def _change_optional(self) -> bool:
        file = f"{self._rng.randrange(GROUPS)}/{OPTIONAL}"
        self._edit(file, THERE if self.labels[file] == GONE else GONE)
        return True

    def _a_whole_one(self) -> str | None:
        file = f"{self._rng.randrange(GROUPS)}/{VALUE}"
        return None if file in self._due else file

    def _another(self, file: str) -> str:
        return self._rng.choice([label for label in VALUES if label != self.labels[file]])

    def _remember(self, file: str) -> None:
        self._former[file] = _Held(self.labels[file], (self._folder / file).stat().st_mtime_ns)

    def _edit(self, file: str, label: str) -> None:
        begun = time.monotonic()
        put(self._folder, file, label)
        self._note(file, label, begun)

    def _note(self, file: str, label: str, begun: float) -> None:
        self.labels[file] = label
        self._journal.note("edited", file=file, label=label, begun=begun)
