"""Run both starts, and print what was measured. Exit code 1 if anything is not as it should be."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import anyio
from rich.console import Console
from rich.markup import escape

from examples.interruption import interruptible
from examples.zero_jit.peers import PEERS, missing
from examples.zero_jit.report import as_json, print_tables
from examples.zero_jit.scenario import Result, run_scenario
from examples.zero_jit.start import ServerFailed


def main() -> int:
    """Run it, and return the exit code."""
    arguments = _arguments()
    result = Result()
    wanted = [] if arguments.own else list(PEERS)
    result.left_out = {name: lacking for name in wanted if (lacking := missing(PEERS[name]))}
    peers = [name for name in wanted if name not in result.left_out]
    with tempfile.TemporaryDirectory(prefix="ajit-zero-jit-") as folder:
        anyio.run(_run, Path(folder), peers, result)
    if arguments.json:
        print(as_json(result))
    else:
        print_tables(result)
    return 1 if result.problems() else 0


async def _run(folder: Path, peers: list[str], result: Result) -> None:
    console, begun = Console(stderr=True, highlight=False), perf_counter()

    def say(text: str) -> None:
        console.print(f"[dim]{perf_counter() - begun:6.1f} s[/]  {escape(text)}")

    def broken_off(why: str) -> None:
        result.broke_off = why

    async with interruptible(broken_off):
        try:
            await run_scenario(folder, peers, result, say)
        except ServerFailed as exc:
            result.broke_off = str(exc)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.zero_jit", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument(
        "--own", action="store_true", help="own kernels only, whatever is installed"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
