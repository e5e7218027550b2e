"""``python -m benchmarks [NAME ...]``: measure the budgets and print them as one table.

``python -m benchmarks kv-chaos [OPTION ...]`` is a program of its own, see `benchmarks.kv_chaos`.

Nothing here decides whether a build is good: the machine is shared and its timings vary. What
counts are the ratios within one run.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import console, environment, print_rows

NAMES = (
    "hot", "from_disk", "reads", "cold_race", "lease", "chain", "scale", "loop_lag", "completion",
    "memory", "imports", "launcher", "kv",
)  # fmt: skip
MORE = ("integrations", "instrumented", "kv_pieces", "kv_ping", "kv_peers")
"""Only when they are named: they need packages of their own, or are parts of another one."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the benchmarks that are named, or all."""
    given = list(sys.argv[1:] if args is None else args)
    if given[:1] == ["kv-chaos"]:
        from benchmarks import kv_chaos

        return kv_chaos.main(given[1:])
    names = _parser().parse_args(given).names
    console.print(f"{environment()}; device figures are from the CPU driver, not from a GPU")
    rows = []
    for name in names or NAMES:
        console.print(f"[dim]measuring {name} ...[/dim]")
        rows += importlib.import_module(f"benchmarks.{name}").rows()
    print_rows("Budgets", rows)
    return 0


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<11} {_subject(name)}" for name in NAMES + MORE)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the budgets and print them as one table.",
        epilog=f"benchmarks, in the order in which they run:\n{listed}\n\n"
        "A program of its own: kv-chaos [--seconds 600] [--seed N] [--engines 3]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", type=_name, metavar="NAME", help="default: all")
    return parser


def _name(text: str) -> str:
    known = NAMES + MORE
    if text not in known:
        raise argparse.ArgumentTypeError(f"no such benchmark: {text}; there are {', '.join(known)}")
    return text


def _subject(name: str) -> str:
    """The first line of a benchmark's docstring, read and not imported: imports are measured."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].replace("``", "")


if __name__ == "__main__":
    sys.exit(main())
