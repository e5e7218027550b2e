"""One trial: a process meets a fault at one system call, then a second process wants the kernel."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import re
import shutil
import time
from typing import TYPE_CHECKING, Any

from tests.crash.processes import Ended, Process, Zygote
from tests.crash.scenarios import HeldLock, Keys, Scenario, lock_of
from tests.crash.sources import LOG, SOURCES, compiled_bytes
from tests.crash.strace import FILE_CALLS, KILL, Call, Strace, read_calls

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ERRORS", "Trials", "masks_of"]

ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EACCES", "ENOLCK", "ESTALE", "EINTR")

DIGESTS = {source: hashlib.sha256(compiled_bytes(source)).hexdigest() for source in SOURCES}

SECOND_PATIENCE_SECONDS = 0.3
"""Of the second process: short, for where a lease does stay held, it is to get past it."""

ATTEMPTS = 3
"""To reach a point: its number may be another if a thread was slow. Then nothing is shown."""

NOT_REACHED = "the point was not reached"
LIVES = "the process was not killed"

RELEASE_SECONDS = 60.0
"""How long a lease may take to be released; a killed process needs milliseconds to be gone."""


class Trials:
    """Runs trials. Any number of threads may.

    Args:
        zygote: Makes the processes.
        folder: For caches and traces.
    """

    def __init__(self, zygote: Zygote, folder: Path) -> None:
        self._zygote = zygote
        self._folder = folder
        self._numbers = itertools.count()
        self._points: dict[str, list[Call]] = {}
        self._warm: dict[str, Path] = {}
        self._keys: dict[str, Keys] = {}
        # One cache for two of them: of each pair the compiler rejects the second.
        for source, name in zip(SOURCES, ("plain", "plain", "header", "header"), strict=True):
            self._warm[source] = folder / f"warm-{name}"
            said = self._ask(Scenario("", source=source), self._warm[source])
            assert "base" in said, said
            self._keys[source] = Keys(said["base"], said.get("key", ""))

    def points(self, scenario: Scenario) -> list[Call]:
        """Return every call on the cache that a process makes if nothing fails, in order."""
        if scenario.name not in self._points:
            # A slow thread may look once more or less: the trace that comes twice is the usual one.
            calls = self._calls(scenario)
            while places(calls) != places(again := self._calls(scenario)):
                calls = again
            # Else another thread than the one that is traced did the work, and nothing is shown.
            assert calls, f"{scenario.name}: no call on the cache was seen"
            self._points[scenario.name] = calls
        return self._points[scenario.name]

    def run(self, scenario: Scenario, point: Call, fault: str) -> list[str]:
        """Let a fault happen at one call; return what is wrong afterwards."""
        how = f"signal={fault}" if fault == KILL else f"error={fault}"
        inject = f"{point.name}:{how}:when={point.ordinal}"
        wrong: list[str] = []
        for _ in range(ATTEMPTS):
            trial = _Trial(self, scenario, point, fault)
            trial.first_process(point.name, inject)
            trial.check_cache()
            shutil.rmtree(trial.cache_dir)
            wrong, hit = trial.wrong, places([call for call in trial.calls if call.injected])
            if hit == places([point]):
                break
        else:
            # It lives, if it was to be killed where it never came to.
            wrong = [complaint for complaint in wrong if LIVES not in complaint]
            wrong.append(f"but at {hit}: {NOT_REACHED}")
        return [f"{scenario.name}, {fault} at {point}: {complaint}" for complaint in wrong]

    def _calls(self, scenario: Scenario) -> list[Call]:
        trial = _Trial(self, scenario)
        trial.first_process(FILE_CALLS, "")
        assert _is_right(scenario, trial.said), trial.said
        assert not scenario.tier or trial.said["answer"] == scenario.tier, trial.said
        calls = [call for call in trial.calls if "CACHE" in call.target]
        if scenario.opening:
            return calls
        return [*itertools.dropwhile(lambda call: "KEY" not in call.target, calls)]

    def _ask(self, scenario: Scenario, cache_dir: Path) -> dict[str, Any]:
        """Return how a process ends that nothing happens to."""
        order = scenario.order(cache_dir) | {"patience_seconds": SECOND_PATIENCE_SECONDS}
        with self._zygote.process() as process:
            process.say(**order)
            said = process.answer()
            _end(process, said)
            return said


class _Trial:
    """One trial under way.

    Attributes:
        calls: What was traced of the first process.
        said: The answer of the first process; empty if it died.
        wrong: What is wrong.
    """

    def __init__(
        self, trials: Trials, scenario: Scenario, point: Call | None = None, fault: str = ""
    ) -> None:
        self._trials = trials
        self._scenario = scenario
        self._keys = trials._keys[scenario.source]
        self._point = point
        self._fault = fault
        self.cache_dir = trials._folder / f"cache-{next(trials._numbers)}"
        self.calls: list[Call] = []
        self.said: dict[str, Any] = {}
        self.wrong: list[str] = []
        scenario.prepare(self.cache_dir, trials._warm[scenario.source], self._keys)

    def first_process(self, traced: str, inject: str) -> None:
        """Run the process that meets the fault, and while it lives on, if it does, a second one."""
        scenario, trace = self._scenario, self.cache_dir.with_suffix(".trace")
        with (
            scenario.holder(self.cache_dir, self._keys.base) as held,
            self._trials._zygote.process() as process,
        ):
            with Strace(process.threads[scenario.thread], trace, traced, inject):
                process.say(**scenario.order(self.cache_dir))
                self.said = _hear_answer(process, held if scenario.lets_go else None)
            if held is not None:
                held.let_go()
            if self._point is not None:
                self._check_first()
                self._check_second()
            _end(process, self.said)
        self.calls = read_calls(
            trace.read_text().splitlines(), masks_of(self.cache_dir, self._keys.base)
        )
        trace.unlink()

    def _check_first(self) -> None:
        if self._fault == KILL:
            if self.said:
                self.wrong.append(f"{LIVES}, and said {self.said}")
        elif not _is_right(self._scenario, self.said):
            self.wrong.append(f"the process came to {self.said or 'its death'}")

    def _check_second(self) -> None:
        """A second process gets what it wants, and need not wait for it; a third one finds it."""
        if not self._lock_stays_open():
            _wait_until_free(lock_of(self.cache_dir, self._keys.base))
        second = self._trials._ask(self._scenario, self.cache_dir)
        if not _is_right(self._scenario, second):
            self.wrong.append(f"the second process came to {second}")
        elif second["waited_seconds"] and not (self._lock_stays_open() or self._is_not_marked()):
            self.wrong.append(f"the second process had to wait: {second}")
        elif self._scenario.tier:
            third = self._trials._ask(self._scenario, self.cache_dir)
            if not _is_right(self._scenario, third) or third["answer"] != "disk":
                self.wrong.append(f"the third process came to {third}")

    def _lock_stays_open(self) -> bool:
        # A call that strace makes fail does not happen: a file to be closed stays open, and locked,
        # as long as the process lives. Linux itself closes it whatever it reports.
        assert self._point is not None
        is_lock = self._point.target.startswith("CACHE/locks/KE/KEY.lock")
        return bool(self.said) and is_lock and self._point.name == "close"

    def _is_not_marked(self) -> bool:
        # A process that lives on could not mark its claim as left: then others need its silence.
        assert self._point is not None
        return bool(self.said) and self._point.target.startswith("CACHE/locks/KE/KEY.claims/")

    def check_cache(self) -> None:
        """With all processes gone: what ``ajit cache verify`` says, and what is left behind."""
        with self._trials._zygote.process() as process:
            process.say(do="verify", cache_dir=str(self.cache_dir))
            said = process.hear()
        # One entry: the kernel's, or, where the source is a broken one, one of another key.
        if (said["code"], said["checked"], said["bad"]) != (0, 1, []):
            self.wrong.append(f"`ajit cache verify` says {said}")
        left = [*(self.cache_dir / "tmp").iterdir()]
        if left:
            self.wrong.append(f"left behind: {left}")


def places(calls: list[Call]) -> list[str]:
    """Where calls are made: all of them but what came of it."""
    return [*map(str, calls)]


def masks_of(cache_dir: Path, base: str) -> dict[str, str]:
    """Return what differs between two runs on two caches, and what stands for it in a trace."""
    return {
        re.escape(str(cache_dir)): "CACHE",
        rf"{base[:16]}[0-9a-f]{{48}}": "KEY",  # the base key, and an entry's, which begins like it
        rf"\b{base[:2]}\b": "KE",
        r"\b[0-9a-f]{64}\b": "LIST",  # what is left: a reading list's digest
        r"[\w-]+(\.[0-9]+){3}\.[0-9a-f]{16}": "TEMPORARY",
    }


def _is_right(scenario: Scenario, said: dict[str, Any]) -> bool:
    """Whether a process came to the kernel's bytes, or to the compiler's words if it has none."""
    if scenario.tier:
        return said.get("digest") == DIGESTS[scenario.source]
    return said.get("failure") == "CompileError" and said.get("log") == LOG


def _hear_answer(process: Process, held: HeldLock | None) -> dict[str, Any]:
    """Return the answer of the process, {} if it dies. Let go of a lock once it waits."""
    try:
        said = process.hear()
        if "waiting" in said:
            if held is not None:
                held.let_go()
            said = process.answer()
    except Ended:
        return {}
    return said


def _end(process: Process, said: dict[str, Any]) -> None:
    """Let a process that still lives close its runtime and end."""
    if said:
        process.say(go="on")
    if said and "defect" not in said:
        assert process.hear() == {"closed": True}


def _wait_until_free(path: Path) -> None:
    """Wait until no process holds a lock file.

    Raises:
        AssertionError: A process keeps it.
    """
    deadline = time.monotonic() + RELEASE_SECONDS
    while _is_locked(path):
        assert time.monotonic() < deadline, "the lease is still held"
        time.sleep(0.001)


def _is_locked(path: Path) -> bool:
    """Whether another process holds a lock file. This one never does when it asks."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
