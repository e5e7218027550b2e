"""``python -m benchmarks [NAME ...]``: measure the budgets and print them as one table.

Nothing here decides whether a build is good: the machine is shared and its timings vary. What
counts are the ratios within one run.
"""

from __future__ import annotations

import importlib
import sys

from benchmarks.harness import console, environment, print_rows

NAMES = (
    "hot", "from_disk", "cold_race", "lease", "chain", "scale", "loop_lag", "completion", "memory",
    "imports",
)  # fmt: skip


def main(names: list[str]) -> int:
    """Run the benchmarks that are named, or all."""
    unknown = set(names) - set(NAMES)
    if unknown:
        console.print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(NAMES)}")
        return 2
    console.print(f"{environment()}; device figures are from the CPU driver, not from a GPU")
    rows = []
    for name in names or NAMES:
        console.print(f"[dim]measuring {name} ...[/dim]")
        rows += importlib.import_module(f"benchmarks.{name}").rows()
    print_rows("Budgets", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
