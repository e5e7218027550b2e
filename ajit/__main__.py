"""``python -m ajit``, and the ``ajit`` command.

``pip install ajit`` brings click and rich for it. The library itself runs without them, in images
that leave them out; there this says what to install, instead of a traceback.
"""

from __future__ import annotations

import gc
import importlib
import sys

__all__ = ["main"]

EXIT_ENVIRONMENT = 4
"""The same as `ajit.cli.exits.ENVIRONMENT`, which cannot be imported here: it may be missing."""

GC_THRESHOLD = 200_000
"""Objects after which the garbage collector looks. Pretty arbitrary: what a command makes."""

CLI_PACKAGES = frozenset({"click", "rich"})


def main() -> int:
    """Run the command line and return its exit code."""
    if sys.argv[1:2] == ["cc"] and sys.argv[2:3] == ["--"] and len(sys.argv) > 3:
        # A build calls it hundreds of times: without click, and without what it imports.
        return int(importlib.import_module("ajit._launcher.main").launch(sys.argv[3:]))
    try:
        for package in sorted(CLI_PACKAGES):
            importlib.import_module(package)
    except ModuleNotFoundError as exc:
        if exc.name not in CLI_PACKAGES:
            raise
        sys.stderr.write(
            f"ajit: the command line needs {exc.name}, which is not installed\n"
            "try: pip install click rich\n"
        )
        return EXIT_ENVIRONMENT
    # Imports make many objects and no garbage: looking for some takes a tenth of a start.
    gc.set_threshold(GC_THRESHOLD)
    run = importlib.import_module("ajit.cli.main").run
    return int(run())


if __name__ == "__main__":
    sys.exit(main())
