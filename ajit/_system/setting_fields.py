"""Parts of `Settings`.

A field has a default, a description, a way to read it, and a test of which values can be used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ajit._system.quantities import DURATION_FORM, SIZE_FORM, parse_bytes, parse_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Origins",
    "absolute_directory",
    "byte_count",
    "joined_paths",
    "number",
    "one_of",
    "setting",
    "switch",
    "usable_text",
]

MOST_SECONDS = 1e9
"""Thirty years: in nanoseconds it still is a number of 64 bits, and a thread can wait for it."""
MOST_BYTES = 1 << 60
MOST_COUNT = 1 << 30
"""Above all that there is. Pretty arbitrary, but for 64 bits."""


class Origins(Mapping[str, str]):
    """The origin of each setting, with the value from that origin. Immutable.

    A changed copy of settings gets the origins of the original; the values tell which of them are
    still true.

    Args:
        origins: Setting to origin.
        values: Setting to value.
    """

    __slots__ = ("_origins", "_values")

    def __init__(self, origins: Mapping[str, str], values: Mapping[str, Any]) -> None:
        self._origins = dict(origins)
        self._values = dict(values)

    def carried_over(self, values: Mapping[str, Any], origins: Mapping[str, str]) -> dict[str, str]:
        """Return the origins of other values, keeping those of values that are the same."""
        return {
            name: self._origins[name]
            if name in self._values and self._values[name] == values[name]
            else origin
            for name, origin in origins.items()
        }

    def __getitem__(self, name: str) -> str:
        return self._origins[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._origins)

    def __len__(self) -> int:
        return len(self._origins)

    def __repr__(self) -> str:
        given = {name: origin for name, origin in self._origins.items() if origin != "default"}
        return f"<Origins {given}>"


def absolute_directory(path: Any) -> Path:
    """Return an absolute path, so that a server that changes its directory keeps its cache.

    Raises:
        ValueError: It cannot be made absolute.
    """
    text = os.fspath(path)
    if not isinstance(text, str) or not text or not usable_text(text):
        raise ValueError(path)
    try:
        return Path(text).expanduser().absolute()
    except (RuntimeError, OSError) as exc:  # no such home; the working directory was removed
        raise ValueError(path) from exc


def joined_paths(paths: Sequence[Any]) -> str:
    """Return several paths as one text, as ``PATH`` has them.

    Raises:
        ValueError: One of them has the separator in it.
        TypeError: One of them is no path.
    """
    texts = [os.fspath(path) for path in paths]
    if any(os.pathsep in text for text in texts):
        raise ValueError(paths)
    return os.pathsep.join(texts)


def usable_text(text: str) -> bool:
    """Whether a text can be passed to the system and written to a log: UTF-8, without NUL."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


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
    many: bool = False,
) -> Any:
    """Make a field.

    Args:
        default: The value without argument and variable; arguments must have its type.
        doc: What the setting is for, in one line.
        expected: Which values are allowed, for errors.
        parse: Makes a value from a variable's text; raises ValueError or TypeError.
        holds: Whether a value is allowed.
        secret: Whether the value must not be shown.
        many: Whether an argument may be several paths.
    """
    about = {
        "doc": doc, "expected": expected, "parse": parse, "holds": holds, "secret": secret,
        "many": many,
    }  # fmt: skip
    return field(default=default, repr=not secret, metadata=about)


def number(
    default: float,
    doc: str,
    *,
    least: float | None = None,
    above: float = -math.inf,
    most: float | None = None,
    expected: str = "",
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """Make a field for a finite number with bounds: an int if its default is one, else seconds.

    Seconds may be written with a unit in a variable.
    """
    kind = type(default)
    most = (MOST_SECONDS if kind is float else MOST_COUNT) if most is None else most

    def holds(value: float) -> bool:
        return above < value <= most and (least is None or value >= least)

    if not expected:
        lower = f"above {above:g}" if least is None else f"{least:g} or above"
        finite = "finite, " if kind is float else ""
        unit = f", in seconds or with a unit, such as {DURATION_FORM}" if kind is float else ""
        expected = f"{lower}, {finite}at most {most:.0f}{unit}"
    read = _seconds if kind is float else kind
    return setting(default, doc, expected, parse=parse or read, holds=holds)


def byte_count(
    default: int, doc: str, *, least: int, most: int = MOST_BYTES, most_text: str = "1024 PiB"
) -> Any:
    """Make a field for a size, which a variable may have with a unit."""
    bounds = f"{least} or above, at most {most_text}"
    expected = f"{bounds}, in bytes or with a unit, such as {SIZE_FORM}"
    return number(default, doc, least=least, most=most, expected=expected, parse=_whole_bytes)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return parse_seconds(text)


def _whole_bytes(text: str) -> int:
    if text.strip().replace(".", "").isdecimal() and "." in text:  # a part of a byte
        raise ValueError(text)
    return parse_bytes(text)


def one_of(default: str, doc: str, *others: str) -> Any:
    """Make a field for one of some words; the first is the default."""
    words = (default, *others)
    return setting(default, doc, " or ".join(words), holds=lambda text: text in words)


def switch(doc: str) -> Any:
    """Make a field that is on or off, and off by default."""
    return setting(default=False, doc=doc, expected="0 or 1", parse=_boolean)


def _boolean(text: str) -> bool:
    truth = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in truth:
        raise ValueError(text)
    return truth[text.lower()]
