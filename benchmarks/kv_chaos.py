"""KV chaos: engines and their KV service killed, stopped, flooded, short of memory; no wrong byte.

``make chaos-kv``, or ``python -m benchmarks kv-chaos [--seconds 600] [--seed N] [--engines 3]``.
Engines store and load prompts with pages of the CPU driver, in memory for a part of them; the bytes
of each chunk follow from its name, and each that is loaded is compared. The run is bad if one byte
is wrong, one call neither answers nor ends at its limit, one process ends by itself, or if anything
is left at the end: leases, memory, descriptors, files.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from rich.table import Table

from ajit.kv import connect
from benchmarks.harness import console, environment
from benchmarks.kv_chaos_engine import LAYOUT
from benchmarks.kv_chaos_fleet import CHUNKS, WAIT_SECONDS, Fleet, StuckError, end, wait_for

STEPS_LIMIT = 20_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is.

    Attributes:
        seconds: How long faults are done.
        seed: Of everything that is random here; what processes make of it is not in its power.
        engines: How many at a time.
    """

    seconds: float
    seed: int
    engines: int = 3


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a run has shown.

    Attributes:
        counts: What engines did: operations, found, stored, cancelled, copies.
        faults: What was done to them.
        wrong: What went wrong; empty if all is well.
        left: What was left at the end, of what should be nought.
        last: What the last service had counted.
        seconds: How long it took.
    """

    counts: dict[str, int]
    faults: dict[str, int]
    wrong: list[str]
    left: dict[str, int]
    last: dict[str, Any]
    seconds: float

    @property
    def well(self) -> bool:
        """Whether nothing went wrong, and nothing was left."""
        return not self.wrong and not any(self.left.values()) and self.counts["found"] > 0


def run(plan: Plan) -> Verdict:
    """Do it all."""
    begun = time.monotonic()
    shared = _in_shared_memory()
    with tempfile.TemporaryDirectory(prefix="ajit-kv-chaos-") as folder:
        fleet = Fleet(Path(folder, "kv.sock"), random.Random(plan.seed))  # noqa: S311  # no secret
        left: dict[str, int] = {}
        last: dict[str, Any] = {}
        try:
            fleet.open(plan.engines)
            _do_faults(fleet, plan.seconds)
            last, left = _end_all(fleet)
        except StuckError as exc:
            fleet.wrong.append(str(exc))
        finally:
            for process in (fleet.service, *(engine.process for engine in fleet.engines)):
                if process.poll() is None:
                    end(process)
        left["files"] = len(
            [each for each in Path(folder).iterdir() if "progress" not in each.name]
        )
    left["names in /dev/shm"] = len(_in_shared_memory() - shared)
    counts = dict(fleet.counts) or Counter({"found": 0})
    took = time.monotonic() - begun
    return Verdict(
        counts=dict(counts), faults=dict(fleet.faults), wrong=fleet.wrong, left=left, last=last,
        seconds=took,
    )  # fmt: skip


def _do_faults(fleet: Fleet, seconds: float) -> None:
    until = time.monotonic() + seconds
    for _ in range(STEPS_LIMIT):
        fleet.step()
        if time.monotonic() > until:
            return
        time.sleep(fleet.chance.random() / 5)


def _end_all(fleet: Fleet) -> tuple[dict[str, Any], dict[str, int]]:
    """End the engines, one half well and one killed; what the service then has, and its end."""
    fleet.restart()  # one with enough memory, that has seen no fault but the ends of its clients
    known = len(_descriptors(fleet.service.pid))
    found = sum(engine.counts()["found"] for engine in fleet.engines)
    wait_for(
        "engines to find chunks in the last service",
        lambda: sum(engine.counts()["found"] for engine in fleet.engines) > found + 20,
    )
    for index, engine in enumerate(fleet.engines):
        end(engine.process, signal.SIGTERM if index % 2 else signal.SIGKILL)
        fleet.counts.update(engine.counts())
    fleet.engines.clear()
    values = wait_for("all that was held to be given back", lambda: anyio.run(_ask, fleet.path))
    used = values["used_bytes"] - values["chunks"] * LAYOUT.chunk_bytes
    slabs = values["slab_bytes"] - sum(_slab_sizes(fleet.service.pid))
    descriptors = [name for name in _descriptors(fleet.service.pid) if "memfd" not in name]
    left = {name: values[name] for name in ("leases", "reservations", "lingering")}
    left |= {"bytes of no chunk": used, "bytes of memfds that are no slabs": -slabs}
    left["descriptors"] = max(0, len(descriptors) - known)
    code = end(fleet.service, signal.SIGTERM)
    if code:
        fleet.wrong.append(f"the service that was asked to end ended with {code}")
    return values, left


async def _ask(path: Path) -> dict[str, Any] | None:
    """What the service counts, once nothing is held."""
    async with connect(path, timeout=WAIT_SECONDS / 2) as store:
        values = await store.service_statistics()
        held = ("leases", "reservations", "lingering")
        return values if values and not any(values[name] for name in held) else None


def _descriptors(pid: int) -> list[str]:
    """What the descriptors of a process are."""
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(each.readlink()))
        except OSError:
            continue
    return found


def _slab_sizes(pid: int) -> list[int]:
    """Sizes of its slabs. Each has two descriptors: its own and that of its mapping."""
    sizes: dict[int, int] = {}
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if "memfd:ajit-kv " in f"{each.readlink()} ":
                status = each.stat()
                sizes[status.st_ino] = status.st_size
        except OSError:
            continue
    return list(sizes.values())


def _in_shared_memory() -> set[str]:
    folder = Path("/dev/shm")  # noqa: S108  # only listed
    return {each.name for each in folder.iterdir() if "ajit" in each.name}


def draw(plan: Plan, verdict: Verdict) -> Table:
    """The verdict as a table."""
    table = Table(title="KV chaos", title_justify="left", show_header=False)
    done = ", ".join(f"{number} {name}" for name, number in sorted(verdict.counts.items()))
    faults = ", ".join(f"{number} {name}" for name, number in sorted(verdict.faults.items()))
    left = ", ".join(f"{number} {name}" for name, number in verdict.left.items())
    table.add_row("run", f"{verdict.seconds:.0f} s, seed {plan.seed}, {plan.engines} engines")
    table.add_row("memory", f"{CHUNKS} chunks of {LAYOUT.chunk_bytes} bytes")
    table.add_row("engines did", done)
    table.add_row("faults", f"{sum(verdict.faults.values())}: {faults}")
    names = "chunks_found", "chunks_stored", "chunks_evicted", "lost_clients"
    last = ", ".join(f"{name} {verdict.last[name]}" for name in names if name in verdict.last)
    table.add_row("the last service", last)
    table.add_row("left at the end", left)
    table.add_row("wrong", "; ".join(verdict.wrong) or "nothing")
    table.add_row("verdict", "well" if verdict.well else "[bold]bad[/bold]")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the verdict, and say it by the exit code as well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks kv-chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--engines", type=int, default=3, choices=range(1, 17))
    given = parser.parse_args(arguments)
    plan = Plan(seconds=given.seconds, seed=given.seed, engines=given.engines)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    console.print(f"{environment()}, load {load}; pages are the CPU driver's. Seed {plan.seed}")
    verdict = run(plan)
    console.print(draw(plan, verdict))
    return 0 if verdict.well else 1


if __name__ == "__main__":
    sys.exit(main())
