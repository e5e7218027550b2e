r"""Text from outside, made fit for terminals and logs.

What a compiler prints, what another process wrote into a cache and what a file is called may hold
anything: an escape sequence that moves the cursor or sets the title, a mark that shows a line
backwards, a character without width, a line break that begins a forged line of a log. Such a text
is cleaned where it comes in, and once more where it is shown. What is taken out stays visible, as
Python writes it: ``\x1b``, ``\u202e``.

Taken out is all that has no shape: the categories Cc, Cf, Cs, Zl and Zp of Unicode, which have the
controls C0 and C1, DEL, bidirectional marks and isolates, and most of what has no width; and the
fillers and variation selectors that are listed elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["SHAPELESS", "difference_texts", "kernels_hint", "printable", "printable_line"]

MOST_DIFFERENCES = 12
"""Told of two keys; the others are counted. Pretty arbitrary: what fits into a line of a log."""

MOST_CHARACTERS = 80
"""Shown of each value, or name: more than a digest has."""

MOST_KERNELS = 8
"""Listed of a source; the others are counted. Pretty arbitrary."""

_SHAPELESS = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2"
    "\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000110bd\U000110cd"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)

SHAPELESS = re.compile(f"[{_SHAPELESS}]")
"""One character without a shape, other than a line break and a tab."""

_NOT_IN_A_LINE = re.compile(f"[\t\n{_SHAPELESS}]")


def printable(text: str) -> str:
    """Return a text of any number of lines, with its line breaks and tabs."""
    if text.isascii() and text.isprintable():
        return text
    return SHAPELESS.sub(_named, text.replace("\r\n", "\n"))


def printable_line(text: str) -> str:
    """Return a text as one line: no line breaks and no tabs."""
    return text if text.isascii() and text.isprintable() else _NOT_IN_A_LINE.sub(_named, text)


def difference_texts(
    differences: Sequence[tuple[str, str | None, str | None]],
) -> list[str]:
    """Return a text for each part in which a cached kernel differs from a wanted one.

    Args:
        differences: Part, the cached kernel's value, the wanted one's; None where it has none.
    """
    texts = [
        f"{part}: {_value(there)} there, {_value(here)} here"
        for part, there, here in differences[:MOST_DIFFERENCES]
    ]
    more = len(differences) - len(texts)
    return [*texts, f"{more} more"] if more else texts


def kernels_hint(kernels: Iterable[str], nearest: str) -> str:
    """Return which kernel was probably meant, and which there are; "" if none is known.

    Args:
        kernels: Names of kernels that the source declares.
        nearest: Which of them is most like what was asked for; "" if none is.
    """
    names = sorted(set(kernels))
    if not names:
        return ""
    meant = f"; did you mean {_cut(repr(nearest))}?" if nearest else ""
    more = f" and {len(names) - MOST_KERNELS} more" if len(names) > MOST_KERNELS else ""
    return f"{meant}; its kernels: {', '.join(map(_cut, names[:MOST_KERNELS]))}{more}"


def _value(value: str | None) -> str:
    return "nothing" if value is None else _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."


def _named(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
