"""``ajit demo``: the main job, done by the example server of the source checkout."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from ajit.cli import exits
from ajit.cli.output import json_option

__all__ = ["command"]

DEMO_MODULE = "examples.model_server.demo"
DEMO_PACKAGES = ("httpx", "numpy", "prometheus_client", "starlette", "uvicorn")
CHECKOUT = Path(__file__).parents[2]


@click.command("demo", short_help="Serve, compile on demand, verify.")
@json_option
def command(*, as_json: bool) -> NoReturn:
    """Serve a model with kernels compiled on demand, verify every result, show what happened.

    Starts the model server of the source checkout (examples/model_server) with four workers on an
    empty kernel cache. Sends every shape to every worker at once, probes their health meanwhile,
    and checks all answers against NumPy. Starts the server again on the warm cache, and compares.
    Finally compiles the same kernels for a GPU, which need not be present.

    Exits with 1 if a kernel was compiled twice, a result is wrong, a health probe failed or took
    longer than a second, the second start compiled anything, or anything was left behind.
    """
    problem = _what_is_missing()
    if problem:
        raise exits.Lacking(problem)
    # Run in the checkout, where `examples` can be imported. It replaces this process, so that
    # signals reach the demo only, and its exit code is the command's.
    os.chdir(CHECKOUT)
    arguments = ["--json"] if as_json else []
    os.execv(sys.executable, [sys.executable, "-m", DEMO_MODULE, *arguments])


def _what_is_missing() -> str:
    if not (CHECKOUT / Path(*DEMO_MODULE.split(".")).with_suffix(".py")).is_file():
        return (
            "the demo is part of the source checkout, and this is an installed package\n"
            "try: clone the repository and run `make demo` in it"
        )
    missing = [name for name in DEMO_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return f"the demo needs {', '.join(missing)}\ntry: pip install 'ajit[examples]'"
    return ""
