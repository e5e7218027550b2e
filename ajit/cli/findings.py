"""What a check of ``ajit doctor`` found."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Check", "Status"]

Status = Literal["ok", "absent", "warning", "problem"]
"""``absent``: not installed, which may be fine. ``warning``: it works, and something should be
looked at. ``problem``: ajit cannot work like this."""


class Check(msgspec.Struct, frozen=True):
    """The result of one check.

    Attributes:
        name: What was checked.
        status: Whether it can be used.
        found: What was found: a version, a path, a number.
        advice: What it is needed for, or what to do about it.
    """

    name: str
    status: Status
    found: str
    advice: str = ""
