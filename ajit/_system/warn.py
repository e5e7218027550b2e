"""Warnings about what cannot be raised: in callbacks, finalizers and background threads."""

from __future__ import annotations

import warnings
from contextlib import suppress

from ajit._printable import printable
from ajit.errors import AjitWarning

__all__ = ["warn_only"]


def warn_only(message: str, *, stacklevel: int = 2) -> None:
    """Warn, and never raise, even if warnings are errors. Any thread.

    Args:
        message: What failed, and what still works.
        stacklevel: Of `warnings.warn`, counted from the caller.
    """
    with suppress(AjitWarning):
        warnings.warn(printable(message), AjitWarning, stacklevel=stacklevel + 1)
