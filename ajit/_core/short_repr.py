"""Representations of one short line, for objects whose fields may hold kilobytes."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["cut", "long_text", "short_repr"]

WIDTH = 100
"""Characters of a line of a text that is as long as it is."""
LINE = 199
"""Characters of a representation: logs and tracebacks stay readable."""
FIELD = 60
"""The same of one field, if the line is too long. Then what the short ones leave is shared by the
others: a reason is what a reader looks for."""


def cut(text: str, length: int) -> str:
    """Return a text, cut to a length."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def short_repr(value: object, without: Collection[str] = ()) -> str:
    """Return ``Name(field=value, ...)`` in one line, with what is long cut. For dataclasses."""
    fields: dict[str, object] = getattr(value, "__dataclass_fields__", {})
    shown = {name: repr(getattr(value, name)) for name in fields if name not in without}
    names = len(type(value).__name__) + 2 + sum(len(name) + 3 for name in shown)
    limit = max(FIELD, _share([len(text) for text in shown.values()], LINE - names))
    parts = [f"{name}={cut(text, limit)}" for name, text in shown.items()]
    return cut(f"{type(value).__name__}({', '.join(parts)})", LINE)


def long_text(value: object, title: str, without: Collection[str] = ()) -> str:
    """Return ``title: name value, ...`` in lines: all that is not nothing. For dataclasses."""
    names: dict[str, object] = getattr(value, "__dataclass_fields__", {})
    values = [
        (name.replace("_", " "), getattr(value, name)) for name in names if name not in without
    ]
    shown = [f"{name} {_rounded(each)}" for name, each in values if each not in (0, "", None)]
    return textwrap.fill(f"{title}: {', '.join(shown)}", WIDTH, subsequent_indent="  ")


def _rounded(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value


def _share(lengths: list[int], room: int) -> int:
    """The most that each may have, so that all have room: what the short ones do not need."""
    for count, length in enumerate(sorted(lengths)):
        share = room // (len(lengths) - count)
        if length > share:
            return share
        room -= length
    return max(lengths, default=0)
