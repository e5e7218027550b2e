"""The same for a real ``ajit compile`` with a real compiler, all of its processes under ``strace``.

It has a dozen threads and processes, and ``strace`` counts calls in each of them. So it is told by
name of which files it is to count calls: the lock, the entry, the reading list and the temporary
files of the key, and the directories of these. Every such call of the command is a point, with a
number in its thread: it may be the last one, and it meets the errors. Two threads may have the same
number of one call (a beat is written beside the rest): these are one point, at which either may
fail.

At each point the process is killed, and meets one of the errors; ``make crash`` tries all of them.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.crash.processes import PROJECT
from tests.crash.real_main import temporary_name
from tests.crash.sources import HEADERS
from tests.crash.strace import FILE_CALLS, KILL, Call, read_calls
from tests.crash.trials import ATTEMPTS, ERRORS, masks_of

# Each point is two real compiles, one of them traced: minutes on a machine that has other work.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SOURCE = """#include "value.h"
extern "C" __global__ void kernel(int* x) { x[threadIdx.x] = VALUE; }
"""
LIMIT_SECONDS = 100
AT_ONCE = 2
PARTS = 6
"""Tests that share the faults, so that none comes near a test's limit on a busy machine."""
MOST_MISSED = 0.4
"""Share of the faults that may meet another call than the one they were for: on a busy machine two
threads may change places. Pretty arbitrary; what comes after a fault must be right in any case."""
FINE, PARTLY = 0, 3

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Point:
    """One call, or one of each of two threads.

    Attributes:
        name: The system call.
        ordinal: The how manyeth of that name, among those on the key's files, in its thread.
        targets: What it is about.
    """

    name: str
    ordinal: int
    targets: frozenset[str]

    def is_hit_by(self, call: Call) -> bool:
        """Whether a call is the one that is meant."""
        same = (call.name, call.ordinal) == (self.name, self.ordinal)
        return same and call.target in self.targets

    def __str__(self) -> str:
        return f"{self.name} #{self.ordinal} ({' or '.join(sorted(self.targets))})"


class Trial(NamedTuple):
    """What came of one fault.

    Attributes:
        complaints: What was wrong, wherever the fault happened.
        missed: That it was not where it was to be, or "".
    """

    complaints: list[str]
    missed: str = ""


class RealCompile:
    """Runs ``ajit compile`` on one source, in a new folder each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "kernel.cu").write_text(SOURCE)
        self._points: list[Point] = []
        self.key: str = json.loads(self.compile(folder / "first").stdout)["key"]
        (reading_list,) = (folder / "first" / "reads").glob("*/*/*")
        self._list = reading_list.relative_to(folder / "first")
        self._base = self._list.parent.name

    def compile(self, cache_dir: Path, *before: str) -> Done:
        """Compile into a cache, with the command after some other words."""
        return self.ajit(
            "compile", self.folder / "kernel.cu", "--entry", "kernel", "--arch", platform.machine(),
            "-I", HEADERS, "--json", "--cache-dir", cache_dir, before=before,
        )  # fmt: skip

    def ajit(self, *arguments: object, before: tuple[str, ...] = ()) -> Done:
        """Run a command of ajit."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("AJIT_")}
        module = "tests.crash.real_main" if before else "ajit"
        command = [*before, sys.executable, "-m", module, *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=environ | {"PYTHONPATH": str(PROJECT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )

    def traced(self, name: str, calls: str, inject: str = "") -> tuple[Done, list[list[Call]]]:
        """Compile into a new cache; return what came of it, and the calls of each thread."""
        cache_dir = self.folder / name
        words = ["strace", "-ff", "-qq", "-y", "-s", "512", "-o", f"{cache_dir}.trace"]
        words += ["-e", f"trace={calls}"] + (["-e", f"inject={inject}"] if inject else [])
        for file in self._files():
            # As the calls name it, below its directory's descriptor, and as descriptors are known.
            words += ["-P", Path(file).name, "-P", str(cache_dir / file)]
        done = self.compile(cache_dir, *words)
        masks = masks_of(cache_dir, self._base)
        threads = sorted(self.folder.glob(f"{name}.trace.*"))
        return done, [read_calls(t.read_text("latin-1").splitlines(), masks) for t in threads]

    def _files(self) -> list[str]:
        start, reads = self.key[:2], self._list
        folders = [
            f"locks/{start}",
            f"entries/{start}",
            str(reads.parent.parent),
            str(reads.parent),
        ]
        return [*folders, f"locks/{start}/{self._base}.lock", f"entries/{start}/{self.key}.ajit",
                str(reads), f"tmp/{temporary_name()}"]  # fmt: skip

    def points(self) -> list[Point]:
        """Return the calls on the key's files, of a compile that is made for it once."""
        if not self._points:
            self._points = self._find_points()
        return self._points

    def _find_points(self) -> list[Point]:
        done, threads = self.traced("clean", FILE_CALLS)
        assert done.returncode == FINE, done.stderr
        targets: dict[tuple[str, int], set[str]] = {}
        for call in chain.from_iterable(threads):
            targets.setdefault((call.name, call.ordinal), set()).add(call.target)
        return [Point(*which, frozenset(about)) for which, about in targets.items()]

    def try_out(self, point: Point, fault: str) -> Trial:
        """Let a fault happen at one call; return what is wrong afterwards."""
        how = f"signal={fault}" if fault == KILL else f"error={fault}"
        wrong: list[str] = []
        for attempt in range(ATTEMPTS):  # a slow thread may come later, and have another number
            name = f"{point.name}-{point.ordinal}-{fault}-{attempt}"
            first, threads = self.traced(
                name, point.name, f"{point.name}:{how}:when={point.ordinal}"
            )
            wrong += [] if fault == KILL else self._check_compiled(first)
            wrong += self._check_compiled(self.compile(self.folder / name))
            wrong += self._check_cache(self.folder / name)
            hit = [call for calls in threads for call in calls if call.injected]
            if any(map(point.is_hit_by, hit)):
                return Trial([f"{fault} at {point}: {complaint}" for complaint in wrong])
        met = [*map(str, hit)]
        missed = f"{fault} at {point}: the point was not reached, but: {met}"
        return Trial([f"{fault} at {met}: {complaint}" for complaint in wrong], missed)

    def _check_compiled(self, done: Done) -> list[str]:
        if done.returncode not in (FINE, PARTLY):
            return [f"ajit compile ended with {done.returncode}: {done.stderr[-1000:]}"]
        said: dict[str, Any] = json.loads(done.stdout)
        return [] if said["key"] == self.key else [f"ajit compile said {said}"]

    def _check_cache(self, cache_dir: Path) -> list[str]:
        verified = self.ajit("cache", "verify", "--json", "--cache-dir", cache_dir)
        wrong = []
        if verified.returncode != FINE or json.loads(verified.stdout)["checked"] != 1:
            wrong.append(f"ajit cache verify says {verified.stdout} {verified.stderr}")
        left = [*(cache_dir / "tmp").iterdir()]
        return [*wrong, f"left behind: {left}"] if left else wrong


@pytest.fixture(scope="module")
def real(strace, tmp_path_factory) -> RealCompile:
    """A folder for real compiles."""
    return RealCompile(tmp_path_factory.mktemp("real"))


def faults_for(points: list[Point], *, everything: bool) -> list[tuple[Point, str]]:
    """Pair points with faults: all with all, or each with its end and one error, in turn."""
    pairs = []
    for index, point in enumerate(points):
        errors = ERRORS if everything else [ERRORS[index % len(ERRORS)]]
        pairs += [(point, fault) for fault in (KILL, *errors)]
    return pairs


@pytest.mark.parametrize("part", range(PARTS))
def test_real_compile_may_be_killed_or_fail_at_any_point(real, part, all_faults, capsys):
    """The next ``ajit compile`` has the kernel, and ``ajit cache verify`` finds it whole."""
    points = real.points()
    pairs = faults_for(points, everything=all_faults)[part::PARTS]

    with ThreadPoolExecutor(AT_ONCE) as threads:
        tried = [*threads.map(lambda pair: real.try_out(*pair), pairs)]
    complaints = [*chain.from_iterable(trial.complaints for trial in tried)]
    missed = [trial.missed for trial in tried if trial.missed]
    with capsys.disabled():
        sys.stdout.write(
            f"\n  real compile: {len(points)} calls, {len(pairs)} faults, {len(missed)} of them at "
            f"another call\n"
        )

    assert not complaints, "\n".join(complaints)
    assert len(missed) <= MOST_MISSED * len(pairs), "\n".join(missed)


def test_every_call_of_publishing_and_locking_of_a_real_compile_is_a_point(real):
    """The points are not fewer than the protocol has calls."""
    points = {
        (point.name, *(word for word in target.split() if not word.startswith("O_")))
        for point in real.points()
        for target in point.targets
    }
    temporary, lock = "tmp/TEMPORARY", "locks/KE/KEY.lock"

    expected = {
        ("openat", "CACHE/locks/KE", "KEY.lock"),
        ("fcntl", f"CACHE/{lock}", "F_SETLK"),
        ("pwrite64", f"CACHE/{lock}"),
        ("close", f"CACHE/{lock}"),
        ("openat", "CACHE/tmp", "TEMPORARY"),
        ("write", f"CACHE/{temporary}"),
        ("fsync", f"CACHE/{temporary}"),
        ("close", f"CACHE/{temporary}"),
        ("linkat", "CACHE/tmp", "CACHE/entries/KE", "TEMPORARY", "KEY.ajit"),
        ("unlinkat", "CACHE/tmp", "TEMPORARY"),
        ("fsync", "CACHE/entries/KE"),
        ("renameat", "CACHE/tmp", "CACHE/reads/KE/KEY", "TEMPORARY", "LIST"),
        ("fsync", "CACHE/reads/KE/KEY"),
    }
    assert expected <= points


def test_real_point_that_is_not_reached_is_a_failure(real):
    """A fault that never happened is told: or nothing would be shown."""
    never = Point("fsync", 1000, frozenset({"CACHE/entries/KE"}))

    assert "not reached" in real.try_out(never, "EIO").missed
