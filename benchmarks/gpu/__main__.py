"""``make gpu``: everything that only a GPU can tell, as one JSON report.

``python -m benchmarks.gpu [--driver cuda|cpu] [--report FILE] [--effort full|quick] [--only PART]``

Needs only what commonly lies beside PyTorch, and what ajit itself needs (anyio, msgspec); each
library that is measured beside ajit is left out where it is missing, with the reason. The report
goes into ``docs/measurements/``. Without a GPU this says so, ends with 4 and writes nothing. With
``--driver cpu`` the CPU driver is used, to see that all this works: then ``--report`` says where
the report goes, and it says of itself that it is not of a GPU.

Each part is a separate process group with a time limit, so that one that fails or hangs leaves
the others: exit code 1 says that there was one.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ajit._gpu.driver import CPU_LIBRARY
from ajit._gpu.wire import NATIVE
from benchmarks.gpu.part import SKIPPED
from benchmarks.harness import ROOT, console, environment

FAILED, USAGE, NO_DEVICE = 1, 2, 4
MEASUREMENTS = ROOT / "docs" / "measurements"
LOG_LINES = 30


@dataclass(frozen=True)
class Step:
    """One part: its program, what it is told, and the seconds that it may take."""

    name: str
    module: str
    argument: str = ""
    seconds: float = 300.0


LAUNCHERS = ("ajit", "cuda.core", "cupy", "triton", "torch")
STEPS = (
    *(Step(f"launch {who}", "launch", who) for who in LAUNCHERS),
    Step("completion", "others", "completion", 1200),
    Step("copies", "copies"),
    *(Step(f"first launch {how}", "first_launch", how) for how in ("lazy", "eager", "ajit")),
    Step("capture", "capture"),
    Step("million", "million", seconds=1200),
    Step("inversion", "others", "inversion", 1800),
    Step("tests", "others", "tests", 1800),
)  # fmt: skip
PROBE = Step("probe", "probe", seconds=300)


def run_step(step: Step, driver: str, effort: str, folder: Path) -> dict[str, Any]:
    """Run a part in its own process group; whatever becomes of it is said, not raised."""
    command = [sys.executable, "-m", f"benchmarks.gpu.{step.module}", driver, effort, str(folder)]
    begun = time.monotonic()
    with (folder / "stdout").open("w+") as out, (folder / "stderr").open("w+") as err:
        process = subprocess.Popen(
            command + [step.argument] * bool(step.argument), cwd=ROOT, env=_environ(driver, folder),
            stdout=out, stderr=err, start_new_session=True,
        )  # fmt: skip
        try:
            status: int | None = process.wait(step.seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _kill_group(process)
        said, log = (folder / "stdout").read_text(), (folder / "stderr").read_text()
    outcome = {
        "seconds": round(time.monotonic() - begun, 2),
        **_outcome(status, said, step.seconds),
    }
    return outcome if "failed" not in outcome else {**outcome, "log": log.splitlines()[-LOG_LINES:]}


def _outcome(status: int | None, said: str, limit: float) -> dict[str, Any]:
    if status is None:
        return {"failed": f"not done after {limit:.0f} s", "status": None}
    if status not in (0, SKIPPED):
        return {"failed": f"exit status {status}", "status": status}
    try:
        result = json.loads(said.splitlines()[-1])
    except (IndexError, ValueError):
        return {"failed": "printed no result", "status": status}
    if status == SKIPPED or "failed" not in result:
        return result if status == SKIPPED else {"result": result}
    return {"failed": result.pop("failed"), "status": status, "result": result}


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Nothing of a part outlives it: a hanging process takes no other signal."""
    with contextlib.suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environ(driver: str, folder: Path) -> dict[str, str]:
    """On the CPU driver, programs that look for NVIDIA's find that."""
    found = {"LD_LIBRARY_PATH": str(folder)} if driver == "cpu" else {}
    return {**os.environ, **found}


def build() -> None:
    """Build the C libraries where that was not done, with what is installed.

    Raises:
        OSError: There is no cmake; says what to do.
        subprocess.CalledProcessError: The build failed.
    """
    if (NATIVE / CPU_LIBRARY).exists():
        return
    cmake = shutil.which("cmake")
    if cmake is None:
        raise OSError("the C libraries are not built and there is no cmake: run `make setup`")
    folder = ROOT / "build" / "gpu"
    options = [f"-DAJIT_NATIVE_OUTPUT_DIR={NATIVE}", "-DCMAKE_BUILD_TYPE=Release"]
    subprocess.run([cmake, "-S", ROOT, "-B", folder, *options], check=True)
    subprocess.run([cmake, "--build", folder], check=True)


def measure(driver: str, effort: str, only: list[str]) -> dict[str, Any] | int:
    """Run the parts. Returns the report; the exit status where there is no device to measure."""
    with tempfile.TemporaryDirectory(prefix="ajit-gpu-") as name:
        folder = Path(name)
        if driver == "cpu":
            (folder / "libcuda.so.1").symlink_to(NATIVE / CPU_LIBRARY)
        device = run_step(PROBE, driver, effort, folder)
        if "result" not in device:
            console.print("\n".join(device["log"][-3:]), markup=False)
            return NO_DEVICE if device["status"] == NO_DEVICE else FAILED
        parts = {}
        for step in STEPS:
            if not only or step.name in only:
                parts[step.name] = outcome = run_step(step, driver, effort, folder)
                console.print(f"{step.name}: {_said(outcome)}", markup=False)
        after = run_step(PROBE, driver, effort, folder).get("result", {})
    return {
        "of_a_gpu": driver == "cuda",
        "driver": driver,
        "device": device["result"],
        "free_memory_bytes_after": after.get("free_memory_bytes"),
        "machine": environment(),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="minutes"),
        "effort": effort,
        "parts": parts,
    }


def _said(outcome: dict[str, Any]) -> str:
    if "skipped" in outcome:
        return f"left out: {outcome['skipped']}"
    if "failed" in outcome:
        return f"FAILED: {outcome['failed']}: {' | '.join(outcome['log'][-2:])}"
    return f"done in {outcome['seconds']} s"


def main(arguments: list[str]) -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--driver", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--report", type=Path, help="default: docs/measurements/<GPU>-<date>.json")
    parser.add_argument("--effort", choices=("full", "quick"), default="full")
    parser.add_argument("--only", action="append", default=[], choices=[s.name for s in STEPS])
    options = parser.parse_args(arguments)
    if options.driver == "cpu" and _is_measurement(options.report):
        parser.error("--driver cpu needs --report, outside of docs/measurements")
    build()
    report = measure(options.driver, options.effort, options.only)
    if isinstance(report, int):
        what = "no device" if report == NO_DEVICE else "no working ajit"
        console.print(f"{what} to measure on: nothing is written")
        return report
    path = options.report or MEASUREMENTS / _file_name(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    console.print(f"written: {path}")
    return FAILED if any("failed" in part for part in report["parts"].values()) else 0


def _is_measurement(path: Path | None) -> bool:
    return path is None or MEASUREMENTS in path.resolve().parents


def _file_name(report: dict[str, Any]) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", report["device"]["name"].lower()).strip("-")
    return f"{name}-{report['date'][:10]}.json"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
