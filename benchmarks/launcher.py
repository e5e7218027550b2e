"""A real CMake project through ``ajit cc`` and through ccache: seconds, hits, identical objects.

The project is aws-c-common, C sources of the source distribution of ``awscrt``, which pip fetches.
It is built in the same directory each time: without a launcher, then with each of the two on an
empty cache, then again with each (its outputs removed). At last one compile is repeated alone, so
that the cost of a hit is seen without ninja.

Needs cmake, ninja and a C compiler; ccache is left out where it is not installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import Row, Sample, console, seconds, timed

__all__ = ["rows"]

PACKAGE = "awscrt"
PROJECT = "crt/aws-c-common"

HIT_SECONDS = 0.1
"""What a hit may cost more than ccache's."""

HIT_RUNS = 30


@dataclass
class Built:
    """One launcher's builds."""

    cold_seconds: float
    warm_seconds: float
    hits: int
    digests: dict[str, str] = field(repr=False)
    hit: Sample


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="ajit-launcher-") as place:
        source = _fetch(Path(place))
        if source is None:
            return [Row("compiler launcher", f"{PACKAGE} cannot be fetched here")]
        project = _Project(Path(place), source)
        plain_seconds, expected = project.build("")
        ours = project.launched(f"{Path(sys.executable).with_name('ajit')};cc;--")
        has_ccache = shutil.which("ccache") is not None
        peer = project.launched("ccache") if has_ccache else None
    return _table(plain_seconds, expected, ours, peer)


def _table(
    plain_seconds: float, expected: dict[str, str], ours: Built, peer: Built | None
) -> list[Row]:
    def beside(text: str) -> str:
        return "" if peer is None else f"ccache: {text}"

    count = len(expected)
    same = sum(ours.digests[name] == digest for name, digest in expected.items())
    found = None if peer is None else sum(peer.digests[n] == d for n, d in expected.items())
    over = None if peer is None else ours.hit.median - peer.hit.median
    return [
        Row(
            f"launcher: {count} files of C, cold; without one {seconds(plain_seconds)}",
            seconds(ours.cold_seconds),
            beside="" if peer is None else beside(seconds(peer.cold_seconds)),
        ),
        Row(
            "launcher: the same again",
            f"{seconds(ours.warm_seconds)}, {ours.hits} hits",
            f"{count} hits",
            ours.hits == count,
            "" if peer is None else beside(f"{seconds(peer.warm_seconds)}, {peer.hits} hits"),
        ),
        Row(
            "launcher: objects as without one",
            f"{same} of {count}",
            f"{count}",
            same == count,
            beside(f"{found} of {count}"),
        ),
        Row(
            "launcher: one hit",
            str(ours.hit),
            f"{seconds(HIT_SECONDS)} above ccache's",
            None if over is None else over <= HIT_SECONDS,
            "" if peer is None else beside(str(peer.hit)),
        ),
    ]


class _Project:
    """The project, always in the same directories."""

    def __init__(self, place: Path, source: Path) -> None:
        self._place, self._source, self._folder = place, source, place / "build"
        caches = {"AJIT_CACHE_DIR": place / "ajit", "CCACHE_DIR": place / "ccache"}
        # No statistics, sloppiness or limits of the machine's own configuration.
        self._env = os.environ | {name: str(path) for name, path in caches.items()}
        self._env |= {"CCACHE_CONFIGPATH": os.devnull}
        # Compiled modules, as an installed ajit has them.
        for name in ("CCACHE_DISABLE", "PYTHONDONTWRITEBYTECODE"):
            self._env.pop(name, None)

    def build(self, launcher: str) -> tuple[float, dict[str, str]]:
        """Configure and build; return the seconds of the build alone, and digests of objects."""
        shutil.rmtree(self._folder, ignore_errors=True)
        options = [f"-DCMAKE_C_COMPILER_LAUNCHER={launcher}"] if launcher else []
        self._run(
            *("cmake", "-G", "Ninja", "-S", str(self._source), "-B", str(self._folder)),
            *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF", *options),
        )
        return self._ninja()

    def launched(self, launcher: str) -> Built:
        """Build twice with a launcher, the second time from its cache; then repeat one compile."""
        cold, _ = self.build(launcher)
        before = self._hits(launcher)
        self._run("ninja", "-C", str(self._folder), "-t", "clean")
        warm, digests = self._ninja()
        hits = self._hits(launcher) - before
        command = self._first_command()
        hit = timed(lambda: self._run("sh", "-c", command, cwd=self._folder), HIT_RUNS)
        return Built(cold, warm, hits, digests, hit)

    def _ninja(self) -> tuple[float, dict[str, str]]:
        begun = time.perf_counter()
        self._run("ninja", "-C", str(self._folder))
        wall = time.perf_counter() - begun
        objects = sorted(self._folder.rglob("*.c.o"))
        return wall, {
            str(path.relative_to(self._folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in objects
        }

    def _first_command(self) -> str:
        listed = json.loads(
            self._run("ninja", "-C", str(self._folder), "-t", "compdb", "-x", output=True)
        )
        return next(item["command"] for item in listed if item["file"].endswith(".c"))

    def _hits(self, launcher: str) -> int:
        if launcher == "ccache":
            lines = self._run("ccache", "--print-stats", output=True).splitlines()
            counts = dict(line.split("\t")[:2] for line in lines)
            return sum(int(counts[f"{kind}_cache_hit"]) for kind in ("direct", "preprocessed"))
        told = self._run(*launcher.split(";")[:-1], "--statistics", "--json", output=True)
        return int(json.loads(told)["hits"])

    def _run(self, *command: str, output: bool = False, cwd: Path | None = None) -> str:
        ran = subprocess.run(
            command, env=self._env, cwd=cwd, capture_output=True, text=True, check=False
        )
        if ran.returncode:
            raise RuntimeError(f"{command[0]} failed: {ran.stdout[-2000:]}{ran.stderr[-2000:]}")
        return ran.stdout if output else ""


def _fetch(place: Path) -> Path | None:
    console.print(f"[dim]fetching the sources of {PACKAGE} ...[/dim]")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    if subprocess.run([*pip, "--dest", str(place), PACKAGE], check=False).returncode:
        return None
    archive = next(place.glob("*.tar.gz"))
    with tarfile.open(archive) as packed:
        top = packed.next()
        assert top is not None
        packed.extractall(place, filter="data")
    return place / top.name.split("/")[0] / PROJECT
