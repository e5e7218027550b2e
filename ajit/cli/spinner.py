"""One line on a terminal that says what a command is at, and for how long.

Only where standard error is a terminal: in a file or a pipe it would be noise.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ajit._printable import printable_line

if TYPE_CHECKING:
    from rich.status import Status

__all__ = ["Spinner"]


class Spinner:
    """The line. Belongs to one thread; the animation is in one of its own.

    Args:
        wanted: Whether it may be shown at all.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted and sys.stderr.isatty()
        self._status: Status | None = None

    def show(self, text: str) -> None:
        """Show a text, in the place of the former one."""
        if not self._wanted:
            return
        from rich.text import Text  # noqa: PLC0415  # command-line start-up

        line = Text(printable_line(text), no_wrap=True, overflow="ellipsis")
        if self._status is not None:
            self._status.update(line)
            return
        from rich.console import Console  # noqa: PLC0415  # command-line start-up

        self._status = Console(stderr=True, highlight=False, emoji=False).status(line)
        self._status.start()

    def hide(self) -> None:
        """Remove the line, so that something else can be printed."""
        status, self._status = self._status, None
        if status is not None:
            status.stop()
