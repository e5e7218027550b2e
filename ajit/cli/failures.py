"""How a failed command reports: as text on standard error, with ``--json`` also as an object.

With ``--json`` there is exactly one object on standard output, also after a failure. Then it has
``error`` (the name of the class), ``message`` and ``exit_code``, ``notes`` if there are any, and
every field of the error: ``name``, ``key``, the whole ``log``, ... (see `ajit.errors`). The object
of a command that succeeded has no field ``error``.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import click

from ajit._system.scarce import limit_of
from ajit.cli import exits
from ajit.cli.telling import tell as say
from ajit.errors import AjitError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["tell", "wants_json"]


def wants_json(args: Sequence[str]) -> bool:
    """Whether a command line asks for JSON. Found without click, which may reject the line."""
    options = args[: args.index("--")] if "--" in args else args
    return "--json" in options


def tell(error: BaseException, *, as_json: bool, terminated: bool = False) -> int | None:
    """Report why a command ended, and return its exit code.

    Args:
        error: What it raised.
        as_json: Whether an object is printed as well.
        terminated: Whether an interrupt was SIGTERM, and not Control-C.

    Returns:
        The exit code; or None if the error is a defect of ajit, and then nothing was printed.
    """
    error = limit_of(error) or error
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code  # `--help` has printed everything
    if isinstance(error, click.ClickException):
        shown = io.StringIO()
        error.show(shown)
        say(shown.getvalue(), nl=False)
        payload, code = {"message": error.format_message()}, exits.USAGE
    elif isinstance(error, (click.Abort, KeyboardInterrupt)):
        told = "terminated" if terminated else "interrupted"
        say(f"ajit: {told}")
        error = KeyboardInterrupt()  # click raises Abort for both
        payload = {"message": told}
        code = exits.TERMINATED if terminated else exits.INTERRUPTED
    elif isinstance(error, AjitError):
        say(f"ajit: {_in_words(error)}")
        payload, code = _fields(error), exits.exit_code_of(error)
    else:
        return None
    if as_json:
        always = {"error": type(error).__name__, "message": payload["message"], "exit_code": code}
        # Twice: first so that it is read first, and last so that no field of an error replaces it.
        _print_object(always | payload | always)
    return code


def _in_words(error: AjitError) -> str:
    """What failed, then the compiler's whole log: here it is not shortened."""
    log = [_log(error).rstrip()] if _log(error) else []
    return "\n".join([_message(error), *log, *_notes(error)])


def _fields(error: AjitError) -> dict[str, Any]:
    fields = {name: value for name, value in vars(error).items() if not name.startswith("_")}
    notes = {"notes": _notes(error)} if _notes(error) else {}
    return fields | notes | {"message": _message(error)}


def _message(error: AjitError) -> str:
    """What failed, without the excerpt of the log that follows where there is a log."""
    return str(error).partition("\n")[0] if _log(error) else str(error)


def _log(error: AjitError) -> str:
    log = getattr(error, "log", "")
    return log if isinstance(log, str) and log.strip() else ""


def _notes(error: AjitError) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def _print_object(payload: dict[str, Any]) -> None:
    from ajit.cli.output import print_json  # noqa: PLC0415  # msgspec, which `--help` does not need

    print_json(payload)
