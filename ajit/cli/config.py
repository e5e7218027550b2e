"""``ajit config``: every setting, its value and where it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ajit._system.setting_values import HIDDEN
from ajit.cli import exits
from ajit.cli.output import Output, format_bytes, format_seconds, json_option, table
from ajit.settings import describe, is_secret, setting_names, usable_settings

if TYPE_CHECKING:
    from ajit.cli.drawing import Table
    from ajit.settings import Settings

__all__ = ["command", "setting_rows"]


@click.command("config", short_help="Print every setting.")
@json_option
def command(*, as_json: bool) -> int:
    """Print every setting, its value and where it came from.

    A setting comes from the program's argument, else from the variable AJIT_<NAME>, else from a
    configuration file, else from its default. This command takes no such arguments.

    Files are ajit.toml, or pyproject.toml with a table [tool.ajit], in the working directory or the
    nearest one above it, and ~/.config/ajit/ajit.toml; the first counts before the second. Where
    AJIT_CONFIG_FILE names a file, only that is read, and none where it is empty. A file that
    another user owns or may write to is not used.

    What cannot be used is told with its origin; then the default is shown, and it exits with 1.
    """
    settings, problems = usable_settings()
    rows, output = setting_rows(settings), Output(as_json=as_json)
    payload = {"settings": rows, "problems": [str(problem) for problem in problems]}
    output.result(payload, lambda: _draw(rows))
    for problem in problems:
        output.warn(str(problem))
    return exits.PROBLEM if problems else exits.FINE


def setting_rows(settings: Settings) -> list[dict[str, object]]:
    """Return each setting with its value, where that came from, and what it is."""
    return [_row(settings, name) for name in setting_names()]


def _row(settings: Settings, name: str) -> dict[str, object]:
    value = getattr(settings, name)
    return {
        "name": name,
        "value": HIDDEN if value and is_secret(name) else value,
        "origin": settings.origins[name],
        "variable": f"AJIT_{name.upper()}",
        "about": describe(name),
    }


def _draw(rows: list[dict[str, object]]) -> Table:
    drawn = table(
        "setting", "value", "origin", "what it is",
        whole=("setting",), optional=("what it is",), least={"what it is": 40},
    )  # fmt: skip
    for row in rows:
        shown = _for_reader(str(row["name"]), row["value"])
        drawn.add_row(str(row["name"]), shown, str(row["origin"]), str(row["about"]))
    return drawn


def _for_reader(name: str, value: object) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return format_bytes(value)
    if name.endswith("_seconds") and isinstance(value, (int, float)):
        return format_seconds(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) or "(empty)"
