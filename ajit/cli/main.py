"""The ``ajit`` command: its commands, and how each way of ending becomes an exit code."""

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
from ajit.cli import exits
from ajit.errors import AjitError, AjitWarning, CompileError, CompilerCrashed

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

_COMMANDS = {
    "demo": "Serve, compile on demand, verify, and show what happened.",
    "compile": "Compile a kernel into the cache, or find it there.",
    "cache": "Look at the kernel cache, verify it, remove from it.",
    "locks": "Say who compiles what at this moment, and how many wait for it.",
    "doctor": "Say what was found where: compilers, driver, cache, locks.",
    "config": "Print every setting, its value and where it came from.",
}
"""Command to its line in ``ajit --help``, which is printed without importing any of them."""

EPILOG = (
    "Results go to standard output, everything else to standard error. Exit codes: 0 fine, "
    "1 found a problem, 2 usage, 3 partly done, 4 environment."
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
        # A locale that cannot write µ or a table's lines must not cost the result.
        sys.stdout.reconfigure(errors="replace")
    # As build systems end a command: it cleans up like after Control-C.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            result = cli.main(args, prog_name="ajit", standalone_mode=False)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader has gone (`ajit cache ls | head`). Python would complain once more when it
            # flushes standard output at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return exits.PROBLEM
        except BaseException as error:  # noqa: BLE001  # every way of ending passes here
            return _end(error)
    return result if isinstance(result, int) else exits.FINE


def _end(error: BaseException) -> int:
    """Say why the command ended and return its exit code, or raise what is no user's business."""
    error = _single(error)
    if isinstance(error, click.ClickException):
        error.show()
        return exits.USAGE
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        click.echo("ajit: interrupted", err=True)
        return exits.INTERRUPTED
    if isinstance(error, AjitError):
        click.echo(f"ajit: {_message(error)}", err=True)
        return exits.exit_code_of(error)
    raise error


def _single(error: BaseException) -> BaseException:
    """Take the one exception out of the groups that task groups wrap it in."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _message(error: AjitError) -> str:
    """What failed, then the compiler's whole log: here it is not shortened."""
    text = str(error)
    if isinstance(error, (CompileError, CompilerCrashed)) and error.log.strip():
        text = text.partition("\n")[0] + "\n" + error.log.rstrip()
    return "\n".join([text, *getattr(error, "__notes__", ())])


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, AjitWarning):
        click.secho(f"warning: {message}", err=True, fg="yellow")
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        (file or sys.stderr).write(text)
