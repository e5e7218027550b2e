"""Parts that are programs of their own: completions, the inversion, the device's tests."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import Any

from benchmarks import completion, inversion
from benchmarks.gpu.part import Part, Skip, run
from benchmarks.harness import ROOT

NEEDED = ("pytest", "trio", "uvloop", "blockbuster", "psutil", "pytest_timeout", "hypothesis")
TESTS_SECONDS = 1500


def measure(part: Part) -> dict[str, Any]:
    """Run the one that is asked for."""
    (which,) = part.rest
    return {"completion": _completion, "inversion": _inversion, "tests": _tests}[which](part)


def _completion(part: Part) -> dict[str, Any]:
    for loop in ("trio", "uvloop"):
        if not _is_there(loop):
            completion.LOOPS.pop(loop)
    effort = "quick" if part.quick else "brief"
    peers = _is_there("cuda") and _is_there("cuda.bindings") and _is_there("numpy")
    busy = (0,) if part.quick else completion.BUSY
    result: dict[str, Any] = completion.measure(part.driver, effort, busy=busy, peers=peers)
    failures = result["failures"]
    return {**result, "failed": f"{len(failures)} cells failed"} if failures else result


def _inversion(part: Part) -> dict[str, Any]:
    rows = inversion.rows(quick=part.quick, cuda=part.driver == "cuda")
    cells = {row.what: {"outcome": row.measured, "order_of_locks": row.beside} for row in rows}
    for row in rows:
        if row.met is False:
            raise OSError(f"{row.what}: {row.measured}")
    return cells


def _tests(part: Part) -> dict[str, Any]:
    missing = [name for name in NEEDED if not _is_there(name)]
    if missing:
        raise Skip(f"the tests need {', '.join(missing)}")
    report = part.folder / "tests.xml"
    where = ["tests/gpu", "tests/kv", "tests/examples/test_kv_engine.py"]
    where = ["tests/gpu/test_batch.py"] if part.quick else where
    which = "gpu or both" if part.driver == "cuda" else "both"
    command = [sys.executable, "-m", "pytest", *where, "-m", which, "-q", f"--junitxml={report}"]
    environ = os.environ | {"AJIT_TEST_DEVICE": part.driver}
    subprocess.run(
        command, cwd=ROOT, env=environ, stdout=sys.stderr, check=False, timeout=TESTS_SECONDS
    )
    cases = list(ET.parse(report).iter("testcase"))  # noqa: S314  # pytest has just written it
    bad = _names(cases, "failure") + _names(cases, "error")
    result = {"tests": len(cases), "skipped": len(_names(cases, "skipped")), "failures": bad}
    problem = f"{len(bad)} tests failed" if bad else "" if cases else "there were no tests"
    return {**result, "failed": problem} if problem else result


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _names(cases: list[ET.Element], kind: str) -> list[str]:
    return [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find(kind) is not None
    ]


if __name__ == "__main__":
    run(measure)
