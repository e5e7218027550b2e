"""Whether the current task is in a block that captures: it must not stop to compile there."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ajit.errors import CaptureMiss

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["capturing", "refuse_in_capture"]

_open: ContextVar[bool] = ContextVar("ajit_capture_open", default=False)
"""Whether the current task, or the one that started it, is in a block that captures."""


@contextmanager
def capturing() -> Generator[None]:
    """Mark a block as one that captures."""
    token = _open.set(True)
    try:
        yield
    finally:
        _open.reset(token)


def refuse_in_capture(what: str) -> None:
    """Raise if the current task is in a block that captures.

    Args:
        what: Is to be loaded, for the message.

    Raises:
        CaptureMiss: It is. Nothing was started.
    """
    if _open.get():
        raise CaptureMiss(what)
