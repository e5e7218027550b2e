"""Representations of one short line, for objects whose fields may hold kilobytes."""

from __future__ import annotations

__all__ = ["cut", "short_repr"]

LINE = 199
"""Characters of a representation: logs and tracebacks stay readable."""
FIELD = 60


def cut(text: str, length: int) -> str:
    """Return a text, cut to a length."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def short_repr(value: object) -> str:
    """Return ``Name(field=value, ...)`` in one line, with what is long cut. For dataclasses."""
    fields: dict[str, object] = getattr(value, "__dataclass_fields__", {})
    shown = [f"{name}={cut(repr(getattr(value, name)), FIELD)}" for name in fields]
    return cut(f"{type(value).__name__}({', '.join(shown)})", LINE)
