"""The demo: serve, compile on demand, verify, and show what happened.

It starts the model server with four workers on an empty kernel cache, sends every shape to every
worker at once while it probes their health, checks all answers against NumPy, starts the server
again on the cache that is warm by now, and compares. It ends by compiling the same kernels for a
GPU that need not be there.

Exit code 1: a kernel was compiled twice, a result is wrong, a health probe failed or took longer
than a second, the second start compiled anything, or something stayed behind.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import anyio

import ajit
from examples.interruption import interruptible
from examples.model_server.demonstration.leftovers import find_leftovers
from examples.model_server.demonstration.process import ServerFailed
from examples.model_server.demonstration.scenario import Result, run_scenario
from examples.model_server.demonstration.steps import Steps
from examples.model_server.demonstration.tables import print_json, print_tables

__all__ = ["main"]


def main() -> int:
    """Run the demo, print what happened, and return the exit code."""
    arguments = _arguments()
    result, steps = Result(), Steps()
    with tempfile.TemporaryDirectory(prefix="ajit-demo-") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        anyio.run(_run, folder, result, steps)
        result.leftovers = find_leftovers(folder)
    result.seconds = steps.elapsed
    (print_json if arguments.json else print_tables)(result)
    return 1 if result.problems() else 0


async def _run(folder: Path, result: Result, steps: Steps) -> None:
    def broken_off(why: str) -> None:
        result.broke_off = why

    async with interruptible(broken_off):
        try:
            await run_scenario(folder, result, steps)
        except (ServerFailed, ajit.AjitError) as exc:
            result.broke_off = f"{type(exc).__name__}: {exc}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ajit demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
