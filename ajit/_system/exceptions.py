"""Copies of exceptions: one error is raised in several tasks, each with its own traceback."""

from __future__ import annotations

import copy
from typing import TypeVar

__all__ = ["copy_of"]

E = TypeVar("E", bound=Exception)


def copy_of(error: E) -> E:
    """Return a copy of an exception, without traceback; the same object if it cannot be copied."""
    try:
        copied = copy.copy(error)
    except Exception:  # noqa: BLE001  # foreign exceptions may have any constructor
        return error
    if type(copied) is not type(error) or copied is error:
        return error
    copied.__cause__ = error.__cause__
    copied.__suppress_context__ = error.__suppress_context__
    if notes := getattr(error, "__notes__", None):
        copied.__notes__ = list(notes)
    return copied
