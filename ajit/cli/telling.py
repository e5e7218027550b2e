"""What a command says on standard error. If that cannot be written, the command goes on."""

from __future__ import annotations

from contextlib import suppress

import click

from ajit._printable import printable

__all__ = ["tell", "tell_warning"]


def tell(text: str, *, nl: bool = True) -> None:
    """Print a text on standard error."""
    with suppress(OSError):
        click.echo(printable(text), err=True, nl=nl)


def tell_warning(text: str) -> None:
    """Print a warning on standard error."""
    with suppress(OSError):
        click.secho(f"warning: {printable(text)}", err=True, fg="yellow")
