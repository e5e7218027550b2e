"""Options that several commands have, and the notation for sizes and durations."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ajit._system.config_files import VARIABLE
from ajit._system.quantities import parse_bytes, parse_seconds
from ajit.cli.telling import tell_warning
from ajit.errors import SettingsError
from ajit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["byte_size", "cache_dir_option", "duration", "looked_at_option"]

T = TypeVar("T")


def cache_dir_option(function: Callable[..., object]) -> Callable[..., object]:
    """Let a command take ``--cache-dir``."""
    return _cache_dir()(function)


def looked_at_option(function: Callable[..., object]) -> Callable[..., object]:
    """The same for a command that only looks: it goes on where a setting cannot be used."""
    return _cache_dir(callback=_without_what_is_wrong)(function)


def _cache_dir(**more: Any) -> Callable[[Callable[..., object]], Callable[..., object]]:
    return click.option(
        "--cache-dir",
        type=click.Path(file_okay=True),
        **more,
        help="The cache to look at; default: AJIT_CACHE_DIR, else ~/.cache/ajit.",
    )


def _without_what_is_wrong(_: click.Context, __: click.Parameter, path: str | None) -> str | None:
    """Leave out settings that cannot be used, where the cache is named; nothing else is changed.

    A wrong variable is left out alone, a configuration file as a whole.
    """
    while path is not None:
        try:
            Settings(cache_dir=path)
        except SettingsError as exc:
            if exc.origin == "argument":
                raise
            of_variable = exc.origin in os.environ and exc.origin != VARIABLE
            os.environ[exc.origin if of_variable else VARIABLE] = ""
            without = exc.origin if of_variable else "configuration files"
            tell_warning(f"{exc}; it goes on without {without}")
        else:
            break
    return path


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
