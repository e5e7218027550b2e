"""Run the demo, ``python -m examples.kv_engine``.

It starts `ajit kv serve` and two engines, measures the time to the first token, kills an engine and
the service in between, and compares all logits with those of the first answer.

Exit code 1: logits differ, a request has failed, something hung, or something stayed behind.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import anyio
import httpx
from rich.console import Console
from rich.markup import escape

from examples.interruption import interruptible
from examples.kv_engine.demonstration.processes import Failed
from examples.kv_engine.demonstration.report import as_json, print_tables
from examples.kv_engine.demonstration.scenario import Result, run_scenario
from examples.model_server.demonstration.leftovers import find_leftovers

LIMIT_SECONDS = 300.0
"""What takes longer hangs, even on a busy machine."""


def main() -> int:
    """Run it, and return the exit code."""
    arguments = _arguments()
    result, begun = Result(), perf_counter()
    with tempfile.TemporaryDirectory(prefix="ajit-kv-demo-") as name:
        folder = Path(name)  # of mode 0700, as a service demands
        (folder / "tmp").mkdir()
        anyio.run(_run, folder, result, begun)
        result.problems += find_leftovers(folder)
    result.seconds = perf_counter() - begun
    if arguments.json:
        print(as_json(result))
    else:
        print_tables(result)
    return 0 if result.equal and not result.problems else 1


async def _run(folder: Path, result: Result, begun: float) -> None:
    console = Console(stderr=True, highlight=False)
    said = [""]

    def say(text: str) -> None:
        said[0] = text
        console.print(f"[dim]{perf_counter() - begun:6.1f} s[/]  {escape(text)}", soft_wrap=True)

    async with interruptible(result.problems.append):
        try:
            with anyio.fail_after(LIMIT_SECONDS):
                await run_scenario(folder, result, say)
        except* (Failed, httpx.HTTPError, TimeoutError) as group:
            result.problems += [f"{each!r}, after: {said[0]}" for each in _leaves(group)]


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for each in error.exceptions for leaf in _leaves(each)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.kv_engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
