"""Failures that no task awaited: the device refused work, and its ticket was dropped.

A ticket does not have to be awaited, for a later one of the same stream tells that the device is
done. But then its failure would vanish. So a failed submission carries an object that warns when it
is collected, unless the failure was raised somewhere. Submissions that succeed pay nothing.
"""

from __future__ import annotations

import sys

from ajit._system.warn import warn_only

__all__ = ["UnheardFailure"]


class UnheardFailure:
    """Warns when it is collected before `hear` was called.

    Attributes:
        message: What failed.
    """

    __slots__ = ("message",)

    def __init__(self, message: str) -> None:
        self.message = message

    def hear(self) -> None:
        """The failure is raised: there is nothing to warn of."""
        self.message = ""

    def __del__(self) -> None:
        if self.message and not sys.is_finalizing():
            warn_only(f"{self.message} (its ticket was never awaited)")
