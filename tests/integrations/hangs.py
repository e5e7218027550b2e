"""A function for a build that does not end by itself."""

from __future__ import annotations

import time


def hang(**_: object) -> None:
    """Be busy for longer than any test."""
    until = time.monotonic() + 600
    while time.monotonic() < until:
        pass
