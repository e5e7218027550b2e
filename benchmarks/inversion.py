"""The lock-order inversion: who deadlocks, and that ajit does not.

``python -m benchmarks.inversion [--quick] [--cuda] [--kv]``.

One thread inside the driver wants the GIL, another that holds the GIL wants the driver's lock. The
matrix is {Python callback, C callback to an eventfd} x {GIL held in the calls, released} x {one
thread, that thread and a foreign library on another one, which enters the driver with the GIL
held}. Each cell is a separate process, and its time limit is kept from outside: a cell that makes
no progress for `SILENT_SECONDS` is called a deadlock and killed.

On the CPU driver this is a model: its lock is one mutex, held while host functions run. NVIDIA's
driver has other locks, which are not documented; with ``--cuda`` the same is run there. ``--kv``
runs the last rows alone, whose work is the loads and saves of a KV cache, with bytes compared.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ajit._gpu.driver import CPU_LIBRARY, CUDA_LIBRARY
from ajit._gpu.wire import NATIVE
from benchmarks.harness import ROOT, Row, console, environment, print_rows

AJIT_OPERATIONS = 1_000_000
KV_TRANSFERS = 1_000_000
CELL_OPERATIONS = 20_000
QUICK_SHARE = 50
"""By what --quick divides the two."""
SILENT_SECONDS = 5.0
POLL_SECONDS = 0.05
LIMIT_SECONDS = 1800.0


@dataclass(frozen=True)
class Outcome:
    """What became of one cell.

    Attributes:
        done: Operations that it came to.
        seconds: How long that took.
        deadlocked: Whether it stopped making progress.
        error: What it said if it failed by itself.
    """

    done: int
    seconds: float
    deadlocked: bool
    error: str

    def __str__(self) -> str:
        if self.error:
            return f"failed: {self.error}"
        if self.deadlocked:
            return f"deadlock after {self.done} operations"
        return f"{self.done} operations in {self.seconds:.3g} s"


def run_cell(driver: str, callbacks: str, gil: str, threads: str, count: int) -> Outcome:
    """Run a cell in a separate process, for as long as it makes progress."""
    with tempfile.TemporaryDirectory(prefix="ajit-inversion-") as folder:
        progress = Path(folder, "progress")
        progress.write_bytes(bytes(8))
        library = build_callback(Path(folder)) if callbacks == "eventfd" else ""
        arguments = [driver, callbacks, gil, threads, str(count), str(progress), library]
        command = [sys.executable, "-m", "benchmarks.inversion_cell", *arguments]
        with Path(folder, "stderr").open("w+") as stderr:
            process = subprocess.Popen(command, cwd=ROOT, stderr=stderr)
            began = time.monotonic()
            deadlocked = not _watch(process, progress)
            took = time.monotonic() - began
            stderr.seek(0)
            said = stderr.read().strip().splitlines()
        failed = not deadlocked and process.returncode
        error = (said or [f"exit status {process.returncode}"])[-1] if failed else ""
        return Outcome(_read(progress), took, deadlocked, error)


def _watch(process: subprocess.Popen[bytes], progress: Path) -> bool:
    """Wait for the end of a cell; returns False if it had to be killed."""
    began = moved = time.monotonic()
    before = 0
    while process.poll() is None:
        now, done = time.monotonic(), _read(progress)
        if done != before:
            before, moved = done, now
        if now - moved > SILENT_SECONDS or now - began > LIMIT_SECONDS:
            process.kill()  # a deadlocked interpreter takes no other signal
            process.wait()
            return False
        time.sleep(POLL_SECONDS)
    return True


def _read(progress: Path) -> int:
    return int.from_bytes(progress.read_bytes(), "little")


def build_callback(folder: Path) -> str:
    """Build the host function in C, and return its library's path."""
    found = shutil.which("cc")
    compiler = [found] if found else [sys.executable, "-m", "ziglang", "cc"]
    library = folder / "callback.so"
    source = Path(__file__).with_name("inversion_callback.c")
    subprocess.run([*compiler, "-O2", "-fPIC", "-shared", source, "-o", library], check=True)
    return str(library)


def rows(*, quick: bool = True, cuda: bool = False) -> list[Row]:
    """Run the matrix, and ajit."""
    driver = CUDA_LIBRARY if cuda else str(NATIVE / CPU_LIBRARY)
    share = QUICK_SHARE if quick else 1
    made = []
    cells = itertools.product(("python", "eventfd"), ("held", "released"), ("one", "foreign"))
    for callbacks, gil, threads in cells:
        outcome = run_cell(driver, callbacks, gil, threads, CELL_OPERATIONS // share)
        what = f"{callbacks} callback, GIL {gil}, "
        what += "one thread" if threads == "one" else "beside a foreign library"
        expected = callbacks == "python" and (gil == "held" or threads == "foreign")
        beside = "can deadlock, by the order of its locks" if expected else "cannot"
        made.append(Row(what, str(outcome), beside=beside))
    outcome = run_cell(driver, "ajit", "released", "foreign", AJIT_OPERATIONS // share)
    made.append(_ajit_row("ajit, beside a foreign library", outcome))
    return made + kv_rows(driver, KV_TRANSFERS // share)


def kv_rows(driver: str, count: int) -> list[Row]:
    """Run loads and saves of KV pages beside another library.

    It keeps the GIL in the driver, or its host functions want it. Both at once stop each other,
    with or without ajit.
    """
    made = []
    for beside, what in (("foreign", "a foreign library"), ("callbacks", "Python host functions")):
        outcome = run_cell(driver, "kv", "released", beside, count)
        made.append(_ajit_row(f"ajit.kv, loads and saves, beside {what}", outcome))
    return made


def _ajit_row(what: str, outcome: Outcome) -> Row:
    well = not (outcome.deadlocked or outcome.error)
    return Row(what, str(outcome), "no deadlock", well)


def main(arguments: list[str]) -> int:
    """Print the matrix."""
    unknown = set(arguments) - {"--quick", "--cuda", "--kv"}
    if unknown:
        console.print(f"unknown: {', '.join(unknown)}")
        return 2
    cuda = "--cuda" in arguments
    where = "NVIDIA's driver" if cuda else "the CPU driver, a model: one lock, one driver thread"
    console.print(f"{environment()}; on {where}")
    quick = "--quick" in arguments
    if "--kv" in arguments:
        driver = CUDA_LIBRARY if cuda else str(NATIVE / CPU_LIBRARY)
        made = kv_rows(driver, KV_TRANSFERS // (QUICK_SHARE if quick else 1))
    else:
        made = rows(quick=quick, cuda=cuda)
    print_rows("Lock-order inversion", made)
    return 0 if all(row.met is not False for row in made) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
