"""``ajit demo``: the main job, as the example server in the source checkout does it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import click

from ajit.cli import exits
from ajit.cli.output import Output

__all__ = ["command"]

DEMO_MODULE = "examples.model_server.demo"
DEMO_PACKAGES = ("httpx", "numpy", "starlette", "uvicorn")
CHECKOUT = Path(__file__).parents[2]


@click.command(
    "demo",
    short_help="Serve, compile on demand, verify.",
    # Every option is the demo's, --help and --json included.
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(*, arguments: tuple[str, ...]) -> int:
    """Serve a model with kernels compiled on demand, verify every result, show what happened.

    The demo is the program examples/model_server of the source checkout; options go to it.
    """
    problem = _what_is_missing()
    if not problem:
        # In the checkout, where `examples` can be imported; and in our place, so that signals reach
        # the demo and nobody else, and its exit code is ours.
        os.chdir(CHECKOUT)
        os.execv(sys.executable, [sys.executable, "-m", DEMO_MODULE, *arguments])
    Output(as_json=False).note(f"ajit: {problem}")
    return exits.ENVIRONMENT


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
