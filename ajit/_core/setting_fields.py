"""Fields of `Settings`: a default, what it is for, how it is read, and which values can be used."""

from __future__ import annotations

import math
from dataclasses import field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["number", "one_of", "setting", "switch"]


def _anything(_value: object) -> bool:
    return True


def setting(
    default: Any,
    doc: str,
    expected: str,
    *,
    parse: Callable[[str], Any] = str,
    holds: Callable[[Any], bool] = _anything,
    secret: bool = False,
) -> Any:
    """A field.

    Args:
        default: Its value without argument and variable; its type is that of arguments.
        doc: What it is for, in one line.
        expected: What an error says that it should be.
        parse: Makes a value from a variable's text; raises ValueError or TypeError.
        holds: Whether a value can be used.
        secret: Whether it must not be shown.
    """
    about = {
        "doc": doc, "expected": expected, "parse": parse, "holds": holds, "secret": secret
    }  # fmt: skip
    return field(default=default, repr=not secret, metadata=about)


def number(
    default: float,
    doc: str,
    *,
    least: float | None = None,
    above: float = -math.inf,
    most: float = math.inf,
    expected: str = "",
) -> Any:
    """A field that is a number with bounds: an int if its default is one. Infinity is none."""

    def holds(value: float) -> bool:
        in_bounds = above < value <= most and (least is None or value >= least)
        return in_bounds and value < math.inf

    if not expected:
        expected = f"above {above:g}" if least is None else f"{least:g} or above"
        if most < math.inf:
            expected = f"{least:g} to {most:g}"
        elif isinstance(default, float):
            expected += ", and finite"
    return setting(default, doc, expected, parse=type(default), holds=holds)


def one_of(default: str, doc: str, *others: str) -> Any:
    """A field that is one of some words, the first of them the default."""
    words = (default, *others)
    return setting(default, doc, " or ".join(words), holds=lambda text: text in words)


def switch(doc: str) -> Any:
    """A field that is on or off, and off by default."""
    return setting(default=False, doc=doc, expected="0 or 1", parse=_boolean)


def _boolean(text: str) -> bool:
    truth = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in truth:
        raise ValueError(text)
    return truth[text.lower()]
