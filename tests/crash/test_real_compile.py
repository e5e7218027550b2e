"""The same for a real ``ajit compile`` with a real compiler, all of its processes under ``strace``.

It has a dozen threads and processes, and ``strace`` counts calls in each of them, so a fault can be
aimed at calls of which no other thread or process has so many: those are the points here. Each of
them may be the last one, and each meets one of the errors; ``make crash`` tries all of them.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest

from tests.crash.processes import PROJECT
from tests.crash.strace import FILE_CALLS, KILL, Call, read_calls
from tests.crash.trials import ERRORS, masks_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # each point is two real compiles, one of them traced

SOURCE = 'extern "C" __global__ void kernel(int* x) { x[threadIdx.x] = 1; }'
LIMIT_SECONDS = 100
AT_ONCE = 2
FINE, PARTLY = 0, 3


@dataclass
class RealCompile:
    """Runs ``ajit compile`` on one source, in a folder of its own each time."""

    folder: Path
    keys: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "kernel.cu").write_text(SOURCE)

    def compile(self, cache_dir: Path, *before: str) -> subprocess.CompletedProcess[str]:
        """Compile into a cache, with the command after some other words."""
        return self.ajit(
            "compile", self.folder / "kernel.cu", "--entry", "kernel", "--arch", platform.machine(),
            "--json", "--cache-dir", cache_dir, before=before,
        )  # fmt: skip

    def ajit(
        self, *arguments: object, before: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of ajit."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("AJIT_")}
        command = [*before, sys.executable, "-m", "ajit", *map(str, arguments)]
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

    def traced(
        self, name: str, calls: str, inject: str = ""
    ) -> tuple[subprocess.CompletedProcess[str], list[list[Call]]]:
        """Compile into a new cache; return what came of it, and the calls of each thread."""
        cache_dir = self.folder / name
        words = ["strace", "-ff", "-qq", "-y", "-s", "512", "-o", f"{cache_dir}.trace"]
        words += ["-e", f"trace={calls}"] + (["-e", f"inject={inject}"] if inject else [])
        done = self.compile(cache_dir, *words)
        if not self.keys:
            self.keys.append(json.loads(done.stdout)["key"])
        masks = masks_of(cache_dir, self.keys[0])
        threads = sorted(self.folder.glob(f"{name}.trace.*"))
        return done, [read_calls(t.read_text("latin-1").splitlines(), masks) for t in threads]

    def points(self) -> list[Call]:
        """Return the calls on the key's own files that a fault can be aimed at."""
        done, threads = self.traced("clean", FILE_CALLS)
        assert done.returncode == FINE, done.stderr
        highest: dict[str, list[int]] = {}
        for calls in threads:
            for name in {call.name for call in calls}:
                highest.setdefault(name, []).append(max(c.ordinal for c in calls if c.name == name))
        return [
            call
            for call in chain.from_iterable(threads)
            if call.target.startswith("CACHE") and ("KEY" in call.target or "TEMP" in call.target)
            if sum(count >= call.ordinal for count in highest[call.name]) == 1
        ]

    def try_out(self, point: Call, fault: str) -> list[str]:
        """Let a fault happen at one call; return what is wrong afterwards."""
        name = f"{point.name}-{point.ordinal}-{fault}"
        how = f"signal={fault}" if fault == KILL else f"error={fault}"
        first, threads = self.traced(name, point.name, f"{point.name}:{how}:when={point.ordinal}")
        wrong = [] if fault == KILL else self._check_compiled(first)
        hit = [call for calls in threads for call in calls if call.injected]
        # A beat more or less may give another thread that many calls: then both have the fault.
        if (point.name, point.ordinal, point.target) not in {
            (call.name, call.ordinal, call.target) for call in hit
        }:
            wrong.append(f"the point was not reached, but: {[*map(str, hit)]}")
        wrong += self._check_compiled(self.compile(self.folder / name))
        wrong += self._check_cache(self.folder / name)
        return [f"{fault} at {point}: {complaint}" for complaint in wrong]

    def _check_compiled(self, done: subprocess.CompletedProcess[str]) -> list[str]:
        if done.returncode not in (FINE, PARTLY):
            return [f"ajit compile ended with {done.returncode}: {done.stderr[-1000:]}"]
        said: dict[str, Any] = json.loads(done.stdout)
        return [] if said["key"] == self.keys[0] else [f"ajit compile said {said}"]

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


def test_real_compile_may_be_killed_or_fail_at_any_point(real, all_faults, capsys):
    """The next ``ajit compile`` has the kernel, and ``ajit cache verify`` finds it whole."""
    points = real.points()
    pairs = [(point, KILL) for point in points]
    for index, point in enumerate(points):
        errors = ERRORS if all_faults else [ERRORS[index % len(ERRORS)]]
        pairs += [(point, error) for error in errors]

    with ThreadPoolExecutor(AT_ONCE) as threads:
        wrong = threads.map(lambda pair: real.try_out(*pair), pairs)
        complaints = [*chain.from_iterable(wrong)]
    with capsys.disabled():
        sys.stdout.write(f"\n  real compile: {len(points)} calls, {len(pairs)} faults\n")

    # Writes of the holder record have twins, those of the compile permit, so that no fault can be
    # aimed at one of them here: `test_crash_points`, which traces one thread, has them all.
    assert {"linkat", "fsync", "fchmod"} <= {point.name for point in points}
    assert not complaints, "\n".join(complaints)
