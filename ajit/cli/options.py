"""Options that several commands have, and the notation for sizes and durations."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["byte_size", "cache_dir_option", "duration"]

KiB = 1024
# Every prefix is a power of 1024, as in the tables.
_BYTE_UNITS = {"": 1, "b": 1} | {
    unit + tail: KiB**power
    for power, unit in enumerate("kmgt", start=1)
    for tail in ("", "b", "ib")
}
_TIME_UNITS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_WRITTEN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


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
    return int(_quantity(text, _BYTE_UNITS, "size", "500M, 4GiB or 1000000"))


def duration(text: str) -> float:
    """Return the seconds that ``90s``, ``12h`` or ``30d`` mean.

    Raises:
        click.BadParameter: It means none.
    """
    return _quantity(text, _TIME_UNITS, "duration", "90s, 12h or 30d")


def _quantity(text: str, units: Mapping[str, float], what: str, example: str) -> float:
    written = _WRITTEN.fullmatch(text)
    factor = units.get(written[2].lower()) if written else None
    if written is None or factor is None:
        raise click.BadParameter(f"{text!r} is not a {what}: write it like {example}")
    number = float(written[1]) * factor
    if not math.isfinite(number):
        raise click.BadParameter(f"{text[:40]!r} is too large")
    return number
