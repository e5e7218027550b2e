"""Representations of one short line, for objects whose fields may hold kilobytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["cut", "short_repr"]

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


def _share(lengths: list[int], room: int) -> int:
    """The most that each may have, so that all have room: what the short ones do not need."""
    for count, length in enumerate(sorted(lengths)):
        share = room // (len(lengths) - count)
        if length > share:
            return share
        room -= length
    return max(lengths, default=0)
