"""Sizes and durations as people write them: ``500M``, ``4GiB``, ``12h``."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DURATION_FORM", "SIZE_FORM", "parse_bytes", "parse_seconds"]

SIZE_FORM = "500M, 4GiB or 1000000"
DURATION_FORM = "90s, 30m or 12h"

KiB = 1024
# Every prefix is a power of 1024, as in the tables.
_BYTE_UNITS = {"": 1, "b": 1} | {
    unit + tail: KiB**power
    for power, unit in enumerate("kmgt", start=1)
    for tail in ("", "b", "ib")
}
_TIME_UNITS = {"": 1, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400} | {
    "w": 7 * 86400
}
_WRITTEN = re.compile(r"\s*([0-9]{1,400}(?:\.[0-9]{1,400})?)\s*([A-Za-z]*)\s*")


def parse_bytes(text: str) -> int:
    """Return the bytes that ``500M``, ``4GiB`` or ``1000000`` mean.

    Raises:
        ValueError: It means none; the message says how to write it.
    """
    return int(_quantity(text, _BYTE_UNITS, "size", SIZE_FORM))


def parse_seconds(text: str) -> float:
    """Return the seconds that ``90s``, ``30m`` or ``12h`` mean.

    Raises:
        ValueError: It means none; the message says how to write it.
    """
    return float(_quantity(text, _TIME_UNITS, "duration", DURATION_FORM))


def _quantity(text: str, units: Mapping[str, float], what: str, form: str) -> float:
    written = _WRITTEN.fullmatch(text)
    factor = units.get(written[2].lower()) if written else None
    if written is None or factor is None:
        raise ValueError(f"{text[:40]!r} is not a {what}: write it like {form}")
    if "." not in written[1] and math.isfinite(float(written[1]) * factor):
        return int(written[1]) * factor
    number = float(written[1]) * factor
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]!r} is too large")
    return number
