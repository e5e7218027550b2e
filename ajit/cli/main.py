"""The ``ajit`` command: its commands, and the exit code for every result and error."""

from __future__ import annotations

import signal
import sys
import warnings
from typing import TYPE_CHECKING, TextIO

import click

from ajit import __version__
from ajit.cli import exits, failures
from ajit.cli.lazy import LazyGroup
from ajit.cli.streams import OutputFailed, OutputGone, drop_output, watch_output
from ajit.cli.telling import tell, tell_warning
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
    "object on standard output; if a command fails, it has error, message and exit_code. Signals: "
    "130 Control-C, 143 SIGTERM, 141 the output has no reader."
)


class _Commands(LazyGroup):
    lines = _COMMANDS
    places = {name: f"ajit.cli.{name}:command" for name in _COMMANDS}  # noqa: RUF012  # never changed


@click.group(
    cls=_Commands,
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
    watch_output()
    # Build systems end a command with SIGTERM: it cleans up as after Control-C.
    signal.signal(signal.SIGTERM, _terminate)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            code = _perform(sys.argv[1:] if args is None else args)
            sys.stdout.flush()
        except OutputFailed as exc:
            drop_output()
            if isinstance(exc, OutputGone):
                return exits.UNREAD
            tell(f"ajit: standard output: {exc.reason}")
            return exits.PROBLEM
    return exits.TERMINATED if code == exits.INTERRUPTED and _terminated else code


_terminated: list[int] = []
"""The number of the signal that asked for the end, if it was not Control-C."""


def _terminate(number: int, _frame: object) -> None:
    _terminated.append(number)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell starts background jobs so: that is about Control-C, and not about SIGTERM.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def _perform(args: Sequence[str]) -> int:
    """Run the command and return its exit code; report an error."""
    try:
        result = cli.main(list(args), prog_name="ajit", standalone_mode=False)
    except OutputFailed:
        raise
    except BaseException as raised:  # every way of ending passes here
        error, as_json = _single(raised), failures.wants_json(args)
        if isinstance(error, OutputFailed):
            raise error from None
        code = failures.tell(error, as_json=as_json, terminated=bool(_terminated))
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
        tell_warning(str(message))
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        (file or sys.stderr).write(text)
