"""The ``ajit`` command: its commands, and the exit code for every result and error."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import warnings
from typing import TYPE_CHECKING, TextIO

import click

from ajit import __version__
from ajit._printable import printable
from ajit.cli import exits, failures
from ajit.errors import AjitWarning

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

_COMMANDS = {
    "demo": "Serve, compile on demand, verify, and show what happened.",
    "compile": "Compile a kernel into the cache, or find it there.",
    "cc": "Run a compiler through the cache.",
    "cache": "Look at the kernel cache, verify it, remove from it.",
    "record": "Look at a record of used kernels, merge records.",
    "kv": "Serve a KV cache to the engines of this machine.",
    "top": "Show what the runtimes of this machine do now.",
    "trace": "Run a program and write a timeline for Perfetto.",
    "log": "Show which compiles there were, and how they ended.",
    "dash": "Show in a browser what goes on.",
    "locks": "Show running compiles and their waiters.",
    "keygen": "Make a key that vouches for what is in a cache.",
    "doctor": "Check compilers, devices, cache and locks.",
    "config": "Print every setting, its value and where it came from.",
}
"""The line of each command in ``ajit --help``, which is printed without importing the commands."""

EPILOG = (
    "Results go to standard output, everything else to standard error. Exit codes: 0 fine, "
    "1 found a problem, 2 usage, 3 partly done, 4 environment. With --json there is always one "
    "object on standard output; if a command fails, it has error, message and exit_code."
)


class _LazyGroup(click.Group):
    """A group that imports a command when it is run, so that ``--help`` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"ajit.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=_LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="ajit", message="%(prog)s %(version)s")
def cli() -> None:
    """Compile GPU kernels once, on demand, for async servers."""


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; prints, and never raises.

    A defect of ajit itself still ends in its traceback, which is what a bug report needs.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The result must be printed even if the locale cannot encode µ or a table's lines.
        sys.stdout.reconfigure(errors="replace")
    # Build systems end a command with SIGTERM: it cleans up as after Control-C.
    signal.signal(signal.SIGTERM, _interrupt)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            code = _perform(sys.argv[1:] if args is None else args)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader has gone (`ajit cache ls | head`). Python would complain once more when it
            # flushes standard output at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return exits.PROBLEM
    return code


def _interrupt(*_: object) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell starts background jobs so: that is about Control-C, and not about SIGTERM.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def _perform(args: Sequence[str]) -> int:
    """Run the command and return its exit code; report an error."""
    try:
        result = cli.main(list(args), prog_name="ajit", standalone_mode=False)
    except BrokenPipeError:
        raise
    except BaseException as raised:  # every way of ending passes here
        code = failures.tell(_single(raised), as_json=failures.wants_json(args))
        if code is None:
            raise
        return code
    return result if isinstance(result, int) else exits.FINE


def _single(error: BaseException) -> BaseException:
    """Take the one exception out of the groups that task groups wrap it in."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, AjitWarning):
        click.secho(f"warning: {printable(str(message))}", err=True, fg="yellow")
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        (file or sys.stderr).write(text)
