"""A short run of `benchmarks.kv_chaos`, and that it would see what goes wrong.

Engines with real pages and their service are killed, stopped, flooded and kept short of memory, at
random: no wrong byte, no hang, nothing left. The long run is ``make chaos-kv``.
"""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.kv_chaos import Plan, Verdict, run
from benchmarks.kv_chaos_engine import HANG, WRONG
from benchmarks.kv_chaos_fleet import Fleet, StuckError, wait_for

SECONDS = 15.0


@pytest.mark.slow
@pytest.mark.timeout(600)  # far above what its own limits allow; each wait in it has one
def test_no_wrong_byte_no_hang_and_no_leak_whatever_is_killed(capsys):
    """And engines that live go on."""
    plan = Plan(seconds=SECONDS, seed=secrets.randbelow(10**6))
    verdict = run(plan)
    with capsys.disabled():
        sys.stdout.write(f"\n  seed {plan.seed}: {verdict.faults}; {verdict.counts}\n")

    assert verdict.wrong == []
    assert {name: number for name, number in verdict.left.items() if number} == {}
    assert verdict.counts["found"] > 0
    assert verdict.well


def test_a_wait_that_does_not_end_says_what_it_waited_for():
    """And ends."""
    with pytest.raises(StuckError, match=r"waited 0.02 s for pigs to fly"):
        wait_for("pigs to fly", lambda: False, 0.02)

    assert wait_for("what is there", lambda: 7) == 7


@pytest.mark.parametrize(
    ("left", "wrong", "found"),
    [({"leases": 1}, [], 5), ({}, ["an engine ended with 3"], 5), ({}, [], 0)],
    ids=str,
)
def test_a_run_with_anything_wrong_or_left_is_bad(left, wrong, found):
    """As is one in which nothing was found: it has shown nothing."""
    verdict = Verdict(
        counts={"found": found}, faults={}, wrong=wrong, left=left, last={}, seconds=1.0
    )

    assert not verdict.well


@pytest.mark.parametrize("code", [WRONG, HANG])
def test_an_engine_that_ends_by_itself_is_seen(tmp_path, code, monkeypatch):
    """Whatever it says; and another one takes its place."""
    fleet = Fleet(tmp_path / "kv.sock", chance=None)
    fleet.service = Ended(None)
    fleet.engines = [Running(Ended(code), tmp_path / "progress")]
    replaced = []
    monkeypatch.setattr(Fleet, "_replace", lambda _, index, __: replaced.append(index))
    fleet.look()

    assert fleet.wrong == [f"an engine ended with {code}"]
    assert replaced == [0]


class Ended:
    """A process that has ended with a code, or runs."""

    def __init__(self, code):
        self._code = code

    def poll(self):
        """As `subprocess.Popen` has it."""
        return self._code


class Running:
    """As `benchmarks.kv_chaos_fleet.Engine`."""

    def __init__(self, process, progress: Path):
        self.process, self.progress = process, progress
        progress.write_bytes(b"1")
        self.seen, self.moved, self.counts = b"", 0.0, Counter
