"""What a check of ``ajit doctor`` found."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Check", "Status"]

Status = Literal["ok", "absent", "problem"]
"""``absent``: not there, and that may be fine. ``problem``: ajit cannot do its work like this."""


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        status: What came of it.
        found: What was found: a version, a path, a number.
        advice: What it is needed for, or what to do about it.
    """

    name: str
    status: Status
    found: str
    advice: str = ""
