"""``ajit trace``: run a program, and write a timeline of what ajit does in all of its processes."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import click

from ajit.cli.exits import Lacking
from ajit.cli.output import tell

__all__ = ["command"]


@click.command(
    "trace",
    short_help="Run a program and write a timeline for Perfetto.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option(
    "-o",
    "--output",
    "path",
    type=click.Path(dir_okay=False),
    help="The file; default: ajit-trace-<time>.json. What is there stays, and is added to.",
)
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def command(*, path: str | None, program: tuple[str, ...]) -> None:
    """Run PROGRAM with AJIT_TRACE set: a timeline of compiles, waits, loads and device work.

    All processes that it starts add to the same file; without an open runtime there is none. Open
    it at https://ui.perfetto.dev, where it is shown and sent nowhere. The program takes the place
    of this command: its output, signals and exit code are its own.

        ajit trace -o start.json -- python server.py --port 8000
    """
    name = path or time.strftime("ajit-trace-%Y%m%d-%H%M%S.json")
    file = Path(name).expanduser().absolute()
    if not file.parent.is_dir():
        raise click.BadParameter(f"there is no folder {file.parent}", param_hint="--output")
    found = shutil.which(program[0])
    if found is None:
        raise Lacking(f"there is no program {program[0]!r} that could be run")
    tell(f"ajit: what runtimes do goes to {file}, for https://ui.perfetto.dev")
    try:
        os.execve(found, program, {**os.environ, "AJIT_TRACE": str(file)})
    except OSError as exc:
        raise Lacking(f"{program[0]} cannot be run: {exc.strerror}") from exc
