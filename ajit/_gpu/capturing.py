"""Whether the current task is in a block that captures: it must not stop to compile there."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ajit.errors import CaptureMiss, UsageError

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["capture_block", "capturing", "refuse_in_capture", "refuse_to_submit"]


class _Block:
    """A block that captures; closed once it has ended, in whatever task that was."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open = True


capture_block: ContextVar[_Block | None] = ContextVar("ajit_capture", default=None)
"""The block that the current task, or the one that started it, is in or was in."""


@contextmanager
def capturing() -> Generator[None]:
    """Mark a block as one that captures, for this task and those that it starts."""
    block = _Block()
    capture_block.set(block)
    try:
        yield
    finally:
        block.open = False
        capture_block.set(None)  # of another task, where the block ends in another one


def refuse_in_capture(what: str) -> None:
    """Raise if the current task is in a block that captures.

    Args:
        what: Is to be loaded, for the message.

    Raises:
        CaptureMiss: It is. Nothing was started.
    """
    if _in_capture():
        raise CaptureMiss(what)


def refuse_to_submit(operation: str) -> None:
    """Raise if the current task is in a block that captures: work would run at once, unrecorded.

    Args:
        operation: For the message.

    Raises:
        UsageError: It is. Nothing was submitted.
    """
    if _in_capture():
        raise UsageError(
            f"{operation}: this is a block of device.capture(), and this call would run at once "
            f"and not be recorded; add it: graph.add_launch(...), add_copy, add_fill"
        )


def _in_capture() -> bool:
    block = capture_block.get()
    return block is not None and block.open
