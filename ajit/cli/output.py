"""Output: a command's result goes to standard output, everything else to standard error.

With ``--json`` the result is one JSON object, in the same fields that the table shows, and in plain
units: seconds and bytes. rich is imported when something is drawn on a terminal.

Entries, records and logs hold text from outside. Everything that is printed passes
`ajit._printable` here, whatever was cleaned before: a terminal only ever gets this program's own
escape sequences.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from ajit._printable import SHAPELESS, printable
from ajit._units import format_bytes
from ajit.cli.drawing import facts, plain, table
from ajit.cli.telling import tell, tell_warning

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from ajit.cli.drawing import Drawn

__all__ = [
    "SCHEMA",
    "SHORT_KEY",
    "Output",
    "cleaned",
    "count",
    "facts",
    "format_age",
    "format_bytes",
    "format_seconds",
    "format_time",
    "json_option",
    "print_json",
    "short_keys",
    "table",
    "tell",
    "tell_warning",
]

SCHEMA = 1
"""Version of all JSON documents, their field ``schema``: raised when a field changes its meaning,
its type or its name, or goes; a new field raises nothing. docs/cli.md has the fields of each."""

SHORT_KEY = 12
"""Digits of a key in a table. Pretty arbitrary: enough to be unique, short enough for a line. The
entries of one base share 16 digits, see `short_keys`."""

MORE_DIGITS = 4
"""Digits beyond those that two keys share."""

PIPE_WIDTH = 1000
"""Columns where standard output is no terminal, so that nothing is cut off in a pipe or a log.
Lines are only as long as what is in them."""

_Command = TypeVar("_Command", bound="Callable[..., Any]")

json_option: Callable[[_Command], _Command] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead of a table."
)


class Output:
    """The two channels of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, payload: object, draw: Callable[[], Drawn]) -> None:
        """Print the result: the payload as JSON, or the table that `draw` makes of it."""
        if self.as_json:
            print_json(payload)
            return
        drawn = draw()
        text = plain(drawn)
        sys.stdout.write((_by_rich(drawn) if text is None else text) + "\n")

    def note(self, text: str) -> None:
        """Print a note on standard error."""
        tell(text)

    def warn(self, text: str) -> None:
        """Print a warning on standard error; the result is valid nevertheless."""
        tell_warning(text)


def print_json(payload: object) -> None:
    """Print one JSON object on standard output: the same values, each unprintable one escaped."""
    document = {"schema": SCHEMA, **msgspec.to_builtins(payload, enc_hook=_plain)}
    try:
        data = msgspec.json.encode(document)
    except UnicodeEncodeError:  # the name of a file that is no UTF-8
        data = msgspec.json.encode(_encodable(document))
    text = msgspec.json.format(data, indent=2).decode()
    # Such a character can only be inside of a string.
    sys.stdout.write(SHAPELESS.sub(_json_escape, text) + "\n")


def count(number: int, one: str, many: str) -> str:
    """``1 entry``, ``2 entries``."""
    return f"{number} {one if number == 1 else many}"


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Cut each key to its first digits, as many as tell it from the others."""
    ordered = sorted(set(keys))
    digits = dict.fromkeys(ordered, SHORT_KEY)
    for a, b in pairwise(ordered):
        shared = next((i for i in range(len(a)) if a[: i + 1] != b[: i + 1]), len(a))
        if shared >= SHORT_KEY:
            digits[a] = max(digits[a], shared + MORE_DIGITS)
            digits[b] = max(digits[b], shared + MORE_DIGITS)
    return {key: key[:number] for key, number in digits.items()}


def format_seconds(seconds: float) -> str:
    """``1.38 s``, ``12.4 ms``, ``3 min 20 s``, ``2 days``: a duration for a reader."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs" if seconds else "0 s"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"


def format_age(seconds: float) -> str:
    """``55 min``: how long ago something was, in one unit."""
    for unit, unit_seconds in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * unit_seconds:
            return f"{seconds // unit_seconds:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def format_time(seconds: float) -> str:
    """``2026-11-29 20:18:03``: a Unix time for a reader; of a time that is none, the number."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"at {seconds:g}"


def _by_rich(drawn: RenderableType) -> str:
    from rich.console import Console  # noqa: PLC0415  # see the module's docstring

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(width=width, highlight=False, emoji=False, markup=False)
    with console.capture() as shown:
        console.print(cleaned(drawn))
    # rich pads every line to the full width; a pipe or a log needs no such blanks.
    return "\n".join(line.rstrip() for line in shown.get().strip("\n").splitlines())


def cleaned(drawn: RenderableType) -> RenderableType:
    """Wrap what is drawn, so that each of its pieces is cleaned after the layout."""
    from rich.segment import Segments  # noqa: PLC0415  # see the module's docstring

    class Cleaned:
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            pieces = console.render(drawn, options)
            yield Segments(
                piece if piece.control else piece._replace(text=printable(piece.text))
                for piece in pieces
            )

    return Cleaned()


def _json_escape(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1] if found[0] != "\x7f" else "\\u007f"


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value


def _plain(value: object) -> object:
    # A path, or the value that a setting cannot have.
    return str(value)
