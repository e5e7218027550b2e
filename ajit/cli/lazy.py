"""A group that imports a command when it is run, so that ``--help`` stays quick."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """A group whose commands are told by name.

    Attributes:
        places: By name of the command, ``module:attribute`` where it is.
        lines: By name, its line in ``--help``, which is printed without importing it.
    """

    places: Mapping[str, str]
    lines: Mapping[str, str]

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002, D102  # click's
        return list(self.lines)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002, D102  # click's
        if cmd_name not in self.places:
            return None
        module, _, attribute = self.places[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002, D102  # click's
        with formatter.section("Commands"):
            formatter.write_dl(list(self.lines.items()))
