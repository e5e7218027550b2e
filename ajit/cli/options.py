"""Options that several commands have, and the notation for sizes and durations."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click

from ajit._system.quantities import parse_bytes, parse_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["byte_size", "cache_dir_option", "duration"]

T = TypeVar("T")


def cache_dir_option(function: Callable[..., object]) -> Callable[..., object]:
    """Let a command take ``--cache-dir``."""
    return click.option(
        "--cache-dir",
        type=click.Path(file_okay=True),
        help="The cache to look at; default: AJIT_CACHE_DIR, else ~/.cache/ajit.",
    )(function)


def byte_size(text: str) -> int:
    """Return the bytes that ``500M``, ``4GiB`` or ``1000000`` mean.

    Raises:
        click.BadParameter: It means none.
    """
    return _parsed(parse_bytes, text)


def duration(text: str) -> float:
    """Return the seconds that ``90s``, ``12h`` or ``30d`` mean.

    Raises:
        click.BadParameter: It means none.
    """
    return _parsed(parse_seconds, text)


def _parsed(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None
