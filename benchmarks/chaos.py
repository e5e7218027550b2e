"""Chaos: several servers on one cache, killed, stopped, cancelled, their files damaged and edited.

``make chaos``, or ``python -m benchmarks.chaos [--seconds 600] [--seed N]``. Every process writes
down what it asked for, what it got and what ajit said that it did; at the end the journals are
judged. The run is bad if one second compile has no cause, one request hangs, one answer is wrong,
or anything is left behind. It is bounded in time, in processes, and in faults.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import anyio
from rich.table import Table

import ajit
from benchmarks.chaos_disk import Disk, why_no_disk
from benchmarks.chaos_faults import ROOT, Faults, Fleet
from benchmarks.chaos_headers import GROUPS, OPTIONAL, STATES, VALUE, HeaderEdits, put
from benchmarks.chaos_journal import Journal, read_journals
from benchmarks.chaos_judge import Limits, Verdict, judge
from benchmarks.chaos_kernels import (
    expected_digests,
    headers_of,
    is_real,
    is_rejected,
    make_compiler,
    spec_of,
)
from benchmarks.harness import console, environment

ARCH = platform.machine()
PATIENCE_SECONDS = 5.0
"""The least with which one waiter follows a silent claim before all the others lose patience."""
FAILURE_SECONDS = 5.0
HANG_SECONDS = 60.0
"""Longest request that is no hang: patience, a compile behind others, and a busy machine. (Beside
other work, on 2 CPUs with 18 processes ready to run, a compile of half a second took 14.)"""
CLOSE_SECONDS = 3.0
"""Longest close of a runtime, whatever the file system does."""
FAULTS_LIMIT = 20_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is.

    Attributes:
        seconds: How long faults are done.
        seed: Of everything that is random here.
        processes: Servers at a time.
        kernels: Keys that they ask for.
        disk: Whether the cache is on a file system that hangs, where one can be mounted.
    """

    seconds: float
    seed: int
    processes: int = 8
    kernels: int = 20
    disk: bool = True


@dataclass(frozen=True, kw_only=True)
class Left:
    """What was left when all servers had ended.

    Attributes:
        processes: Compilers and workers that still ran.
        temporaries: Unfinished files in the cache that no later opening swept.
        folders: Private folders of compiles that no later opening swept.
        bad_ends: Servers that did not end when told, or not well.
        not_mended: Kernels that a fresh process did not get right afterwards.
    """

    processes: list[str]
    temporaries: list[str]
    folders: list[str]
    bad_ends: list[int]
    not_mended: list[str]


class Run:
    """One run, in a separate folder."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self._rng = random.Random(plan.seed)  # noqa: S311 - chaos, not secrets
        self._folder = folder
        # What goes wrong on a disk that hangs is told apart from the rest by the journal.
        has_disk = plan.disk and not why_no_disk()
        self._disk = Disk(folder / "disk") if has_disk else None
        self._cache_dir = (self._disk.path if self._disk else folder) / "cache"
        self._home = folder / "home"
        self._journals = folder / "journals"
        self._temporary = folder / "tmp"
        self._headers = folder / "chaos-headers"
        for made in (self._home, self._journals, self._temporary):
            made.mkdir()
        secret = secrets.token_hex(16)
        self._settings: dict[str, Any] = {
            "cache_dir": str(self._cache_dir),
            "host_compiler": str(make_compiler(folder, self._headers)),
            "device": "none",
            "compile_slots": 2,
            "patience_seconds": PATIENCE_SECONDS,
            "failure_seconds": FAILURE_SECONDS,
            "hmac_key": secret,
        }
        # The compilers are told by their HOME, which goes through to them; see `_processes_left`.
        self._environ = {k: v for k, v in os.environ.items() if not k.startswith("AJIT_")} | {
            "HOME": str(self._home),
            "TMPDIR": str(self._temporary),
            "AJIT_CACHE_DIR": str(self._cache_dir),
            "AJIT_HMAC_KEY": secret,
        }
        # By kernel and SHA-256: what its headers held if this is its artifact.
        self._digests: dict[str, dict[str, tuple[str, ...]]] = {}

    def go(self) -> tuple[Verdict, Left, dict[str, int]]:
        """Do it, and judge it."""
        with ExitStack() as stack:
            if self._disk is not None:
                stack.callback(self._disk.close)
            return self._go()

    def _go(self) -> tuple[Verdict, Left, dict[str, int]]:
        self._digests = anyio.run(self._right_answers)
        journal = Journal(self._journals)
        edits = HeaderEdits(self._headers, journal, self._rng)
        log = (self._journals / "servers.log").open("ab")
        fleet = Fleet(self._order, self._environ, self.plan.processes, log)
        try:
            faults = Faults(
                fleet, self._cache_dir, journal, self._rng, self._environ, edits, self._disk
            )
            with self._hostile_member(log):
                self._storm(faults)
            if self._disk is not None:
                self._disk.settle()
            faults.continue_due(everybody=True)
            bad_ends = fleet.end(HANG_SECONDS)
        finally:
            fleet.abandon()
            log.close()
        records = read_journals(self._journals)
        limits = Limits(HANG_SECONDS, CLOSE_SECONDS, PATIENCE_SECONDS, FAILURE_SECONDS)
        verdict = judge(records, limits)
        return verdict, self._left(bad_ends, edits.labels), faults.done | {"servers": fleet.started}

    @contextmanager
    def _hostile_member(self, log: BinaryIO) -> Iterator[None]:
        """Run one who has no secret beside the servers."""
        environ = {k: v for k, v in self._environ.items() if k != "AJIT_HMAC_KEY"}
        command = [sys.executable, "-m", "benchmarks.chaos_hostile", json.dumps(self._order(-1))]
        member = subprocess.Popen(command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stderr=log)
        assert member.stdin is not None
        try:
            yield
        finally:
            member.stdin.close()
            try:
                member.wait(HANG_SECONDS)
            finally:
                member.kill()
        if member.returncode != 0:
            raise RuntimeError(f"the hostile member ended with {member.returncode}")

    def _storm(self, faults: Faults) -> None:
        end = time.monotonic() + self.plan.seconds
        for _ in range(FAULTS_LIMIT):
            pause = time.monotonic() + self._rng.expovariate(faults.rate)
            while time.monotonic() < min(pause, end):
                faults.continue_due()
                time.sleep(0.02)
            if time.monotonic() >= end:
                return
            faults.one()

    def _order(self, number: int) -> dict[str, Any]:
        return {
            "seed": self.plan.seed * 1_000_003 + number,
            "backend": "trio" if number % 2 else "asyncio",
            "kernels": self.plan.kernels,
            "arch": ARCH,
            "settings": self._settings,
            "digests": self._digests,
            "headers": str(self._headers),
            "journals": str(self._journals),
            "cache_dir": str(self._cache_dir),
        }

    async def _right_answers(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Digests of all kernels: computed, or compiled where the real compiler is used."""
        numbers = [n for n in range(self.plan.kernels) if not is_rejected(n, self.plan.kernels)]
        digests = {str(n): {} if is_real(n) else expected_digests(n) for n in numbers}
        with tempfile.TemporaryDirectory(prefix="ajit-chaos-") as quiet:
            async with ajit.open_runtime(**self._settings | {"cache_dir": quiet}) as runtime:
                for value, optional in STATES:
                    for group in range(GROUPS):
                        put(self._headers, f"{group}/{VALUE}", value)
                        put(self._headers, f"{group}/{OPTIONAL}", optional)
                    async with anyio.create_task_group() as group_of_compiles:
                        for number in filter(is_real, numbers):
                            state = (value, optional) if headers_of(number) else ()
                            group_of_compiles.start_soon(
                                self._learn, runtime, number, state, digests[str(number)]
                            )
        return digests

    async def _learn(
        self,
        runtime: ajit.Runtime,
        number: int,
        state: tuple[str, ...],
        digests: dict[str, tuple[str, ...]],
    ) -> None:
        """Compile a kernel, and note which contents its bytes stand for."""
        # Compiled in any case: whether ajit sees that a header has changed is what is judged.
        digest = await self._digest(runtime, number, recache=True)
        if digests.setdefault(digest, state) != state:
            raise RuntimeError(f"kernel {number} is the same for {state} and {digests[digest]}")

    async def _digest(self, runtime: ajit.Runtime, number: int, *, recache: bool = False) -> str:
        spec = spec_of(number, self.plan.kernels, self._headers)
        resolution = await runtime.resolve(spec, arch=ARCH, recache=recache)
        return hashlib.sha256(resolution.artifact.data).hexdigest()

    # --- afterwards ---

    def _left(self, bad_ends: list[int], labels: dict[str, str]) -> Left:
        processes = self._processes_left()
        # Opening a runtime sweeps what killed ones have left; nothing may be left after that.
        tempfile.tempdir = str(self._temporary)
        try:
            not_mended = anyio.run(self._not_mended, labels)
        finally:
            tempfile.tempdir = None
        folders = [path.name for path in self._temporary.iterdir()]
        temporaries = [path.name for path in (self._cache_dir / "tmp").glob("*")]
        return Left(
            processes=processes,
            temporaries=temporaries,
            folders=folders,
            bad_ends=bad_ends,
            not_mended=not_mended,
        )

    async def _not_mended(self, labels: dict[str, str]) -> list[str]:
        """Ask a fresh runtime for every kernel, and return those that it does not get right."""
        wrong = []
        async with ajit.open_runtime(**self._settings) as runtime:
            for number in map(int, self._digests):
                digest = await self._digest(runtime, number)
                state = tuple(labels[file] for file in headers_of(number))
                if self._digests[str(number)].get(digest) != state:
                    wrong.append(f"kernel {number}")
        return wrong

    def _processes_left(self) -> list[str]:
        """Processes with the run's own HOME, after the moment that dying takes."""
        deadline = time.monotonic() + 5.0
        while (found := list(self._living())) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def _living(self) -> list[str]:
        mark = f"HOME={self._home}\0".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes():
                    found.append(f"{process.name} {(process / 'comm').read_text().strip()}")
            except OSError:
                continue  # it has ended meanwhile, or belongs to another user
        return found


def report(verdict: Verdict, left: Left, faults: dict[str, int]) -> bool:
    """Print the table; return whether everything is as it must be."""
    table = Table(title="Chaos", title_justify="left")
    for column in ("what", "found", "must be"):
        table.add_column(column, overflow="fold")
    table.add_row("faults", _counts(faults))
    table.add_row("requests served", str(verdict.served), "> 0")
    table.add_row("requests by outcome", _counts(verdict.outcomes))
    table.add_row("longest request", f"{verdict.longest_seconds:.1f} s", f"< {HANG_SECONDS:.0f} s")
    table.add_row(
        "longest close", f"{verdict.longest_close_seconds:.1f} s", f"< {CLOSE_SECONDS:.0f} s"
    )
    table.add_row("compiles", str(verdict.compiles))
    table.add_row("compiles of a key again, and why", _counts(verdict.duplicates))
    table.add_row("corrupt entries met", str(verdict.rejected_entries))
    table.add_row("answers as old as the work they joined", str(verdict.joined))
    must_be_empty = _must_be_empty(verdict, left)
    for what, found in must_be_empty.items():
        table.add_row(what, "\n".join([str(len(found)), *map(str, found[:10])]), "0")
    console.print(table)
    return verdict.served > 0 and not any(must_be_empty.values())


def _must_be_empty(verdict: Verdict, left: Left) -> dict[str, Sequence[object]]:
    return {
        "compiles of a key again without a cause": verdict.unexplained,
        "hangs": verdict.hangs,
        "slow closes": verdict.slow_closes,
        "wrong results": verdict.wrong,
        "errors that no fault explains": verdict.errors,
        "servers that did not end well": left.bad_ends,
        "kernels that were wrong afterwards": left.not_mended,
        "processes left": left.processes,
        "servers with descriptors left": verdict.descriptors,
        "temporary files left": left.temporaries,
        "compile folders left": left.folders,
    }


def _counts(counts: dict[str, int]) -> str:
    return "\n".join(f"{count} {name}" for name, count in sorted(counts.items())) or "0"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 if everything is as it must be, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--kernels", type=int, default=20)
    parser.add_argument("--no-disk", dest="disk", action="store_false", help="none that hangs")
    parser.add_argument("--keep", help="a folder to keep journals and cache in")
    plan = vars(parser.parse_args(arguments))
    keep = plan.pop("keep")
    why = why_no_disk() if plan["disk"] else "not wanted"
    disk = f"no file system that hangs: {why}" if why else "a disk that hangs"
    console.print(f"{environment()}; chaos {json.dumps(plan)}; {disk}")
    with tempfile.TemporaryDirectory(prefix="ajit-chaos-") as folder:
        place = Path(keep or folder).absolute()
        place.mkdir(parents=True, exist_ok=True)
        return 0 if report(*Run(Plan(**plan), place).go()) else 1


if __name__ == "__main__":
    sys.exit(main())
