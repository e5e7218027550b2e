"""Runs ``spin`` on the model: generates a checker in C, compiles it and runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["MODEL", "Checked", "check_model", "why_impossible"]

MODEL = Path(__file__).with_name("resolve.pml")

LIMIT_SECONDS = 100
DEPTH = 10_000
"""Steps of the longest run that is followed; the longest one of the model has about a hundred."""

MEMORY_MEGABYTES = 1500

Search = Literal["ends", "cycles"]
"""For broken assertions and processes that are stuck, or for runs that never stop."""


@dataclass(frozen=True)
class Checked:
    """The result of a check.

    Attributes:
        errors: How many were found: the search ends with the first.
        complaint: What was found, in the words of the checker; "" for nothing.
        states: How many states were visited.
        unreached: Lines of the model that were never reached.
    """

    errors: int
    complaint: str
    states: int
    unreached: tuple[str, ...]


def check_model(folder: Path, search: Search, model: Path = MODEL, **defines: object) -> Checked:
    """Check the model; a define without a value is given as None.

    Args:
        folder: For the checker; to be made.
        search: What to look for.
        model: Its file.
        **defines: Macros of the model.
    """
    folder.mkdir()
    compiler = _compiler()
    assert compiler is not None
    words = [
        f"-D{name}" if value is None else f"-D{name}={value}" for name, value in defines.items()
    ]
    # -P: spin preprocesses with gcc unless it is told.
    _run(folder, "spin", f"-P{compiler} -E -x c", *words, "-a", str(model))
    kind = "-DSAFETY" if search == "ends" else "-DNP"
    # Not optimised: compiling would take longer, running not much less.
    _run(folder, compiler, "-O0", "-w", kind, f"-DMEMLIM={MEMORY_MEGABYTES}", "-o", "pan", "pan.c")
    text = _run(folder, "./pan", f"-m{DEPTH}", *(["-l"] if search == "cycles" else []))
    return _read(text, model.name)


def _read(text: str, name: str) -> Checked:
    errors = re.search(r"errors: (\d+)", text)
    states = re.search(r"(\d+) states, stored", text)
    assert errors, text
    assert states, text
    # Out of memory or out of depth: then no error means nothing.
    assert "max search depth too small" not in text, text
    complaint = re.search(r"^pan:1: (.*?)(?: \(at depth \d+\))?$", text, re.MULTILINE)
    found = complaint[1] if complaint else ""
    # "Search not completed" after an error is right; without one it was cut short.
    assert found or "Search not completed" not in text, text
    unreached = re.findall(rf"{re.escape(name)}:\d+, state \d+, .*", text)
    return Checked(int(errors[1]), found, int(states[1]), tuple(unreached))


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def why_impossible() -> str:
    """Say why the model cannot be checked here, or "" if it can."""
    if shutil.which("spin") is None:
        return "spin is not installed"
    if _compiler() is None:
        return "there is no C compiler for what spin generates"
    return ""
