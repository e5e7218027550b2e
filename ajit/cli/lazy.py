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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one is meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            from difflib import get_close_matches  # noqa: PLC0415  # 3 ms, for who mistypes

            near = get_close_matches(args[0], self.lines, 1)
            if not near:
                raise
            text = f"{exc.format_message()} Did you mean {near[0]!r}?"
            raise click.UsageError(text, ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002, D102  # click's
        with formatter.section("Commands"):
            formatter.write_dl(list(self.lines.items()))
