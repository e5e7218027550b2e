"""What a command draws for people: tables and texts, for a terminal and for a pipe.

On a terminal rich lays them out. In a pipe or a file there is nothing to lay out: columns are as
wide as what is in them, two blanks apart, and nothing is cut off. That is done here, so that a
command whose output is read by `grep` does not load rich, which takes as long as all the rest.

On a narrow terminal whole columns are left out, those that are missed least, before a text is
broken into letters or a number loses its unit. The caption names them.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from ajit._printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

__all__ = ["Drawn", "Stack", "Styled", "Table", "facts", "plain", "table"]

GAP = "  "

LEAST = 14
"""Columns of a terminal that a text which may be broken needs at least. Pretty arbitrary."""


class Styled(NamedTuple):
    """A text in a style of rich, where there are styles.

    Attributes:
        text: What is shown.
        style: The style; "" for none.
        one_line: Whether a terminal cuts it at the end of a line; a pipe cuts nothing.
    """

    text: str
    style: str = ""
    one_line: bool = False

    def __rich__(self) -> RichText:
        """Return rich's text of it."""
        from rich.text import Text  # noqa: PLC0415  # see the module's docstring

        overflow: Literal["ellipsis"] | None = "ellipsis" if self.one_line else None
        return Text(self.text, self.style, no_wrap=self.one_line or None, overflow=overflow)


class Table:
    """Rows below headings; or labels with values, without.

    Args:
        columns: The headings.
        numbers: Columns that are right-aligned.
        whole: Columns whose text is never broken, however narrow the terminal.
        optional: Columns that a narrow terminal leaves out, the first one first.
        least: Columns of the terminal that one needs, where that is not `LEAST`.
        headed: Whether the headings are shown.

    Attributes:
        caption: A text below it, or None.
        rows: The rows.
    """

    def __init__(
        self,
        columns: Iterable[str],
        numbers: Iterable[str] = (),
        whole: Iterable[str] = (),
        optional: Iterable[str] = (),
        *,
        least: Mapping[str, int] | None = None,
        headed: bool,
    ) -> None:
        self._columns, self._headed = tuple(columns), headed
        self._numbers, self._whole = frozenset(numbers), frozenset(whole)
        self._optional, self._least = tuple(optional), least or {}
        self.rows: list[tuple[str | Styled, ...]] = []
        self.caption: str | None = None

    def add_row(self, *cells: str | Styled) -> None:
        """Add a row, with a cell for each column."""
        self.rows.append(cells)

    def lines(self) -> Iterator[str]:
        """Yield the lines of a pipe."""
        rows = [self._columns] * self._headed + [tuple(map(_text, row)) for row in self.rows]
        cells = [[printable(text).expandtabs().split("\n") for text in row] for row in rows]
        widths = [
            max((_width(line) for row in cells for line in row[index]), default=0)
            for index in range(len(self._columns))
        ]
        for row in cells:
            for number in range(max(map(len, row))):
                parts = [cell[number] if number < len(cell) else "" for cell in row]
                padded = map(self._padded, self._columns, parts, widths)
                yield GAP.join(padded).rstrip()
        if self.caption:
            yield from printable(self.caption).split("\n")

    def _padded(self, column: str, text: str, width: int) -> str:
        blanks = " " * (width - _width(text))
        return blanks + text if column in self._numbers else text + blanks

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield rich's table of it, without the columns for which there is no room."""
        left_out = self._left_out(options.max_width)
        shown = [index for index, name in enumerate(self._columns) if name not in left_out]
        caption = [self.caption] if self.caption else []
        if left_out:
            caption.append(f"no room for: {', '.join(left_out)}")
        yield self._drawn(shown, "\n".join(caption) or None)

    def _left_out(self, width: int) -> tuple[str, ...]:
        """The columns that do not fit, of those that are optional."""
        needed = {name: self._needed(index) for index, name in enumerate(self._columns)}
        number = 0
        while number < len(self._optional) and sum(needed.values()) - len(GAP) > width:
            del needed[self._optional[number]]
            number += 1
        return self._optional[:number]

    def _needed(self, index: int) -> int:
        """The width below which a column cannot be read, with the gap beside it."""
        name = self._columns[index]
        cells = [name] * self._headed + [_text(row[index]) for row in self.rows]
        widest = max((_width(line) for cell in cells for line in cell.split("\n")), default=0)
        least = max(self._least.get(name, LEAST), len(name))
        broken = name not in self._numbers | self._whole
        return (min(widest, least) if broken else widest) + len(GAP)

    def _drawn(self, shown: list[int], caption: str | None) -> RichTable:
        from rich import box  # noqa: PLC0415  # see the module's docstring
        from rich.table import Table as RichTable  # noqa: PLC0415  # the same
        from rich.text import Text  # noqa: PLC0415  # the same

        drawn = RichTable(
            box=box.SIMPLE_HEAD if self._headed else None,
            show_header=self._headed,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
            header_style="bold",
            caption_justify="left",
            caption=Text(caption) if caption else None,
        )
        for column in (self._columns[index] for index in shown):
            drawn.add_column(
                column,
                style=None if self._headed or column else "dim",
                justify="right" if column in self._numbers else "left",
                no_wrap=column in self._numbers | self._whole,
                overflow="fold",
            )
        for row in self.rows:
            cells = [row[index] for index in shown]
            drawn.add_row(
                *(cell.__rich__() if isinstance(cell, Styled) else Text(cell) for cell in cells)
            )
        return drawn


class Stack:
    """Several of them, one below the other."""

    def __init__(self, *parts: str | Styled | Table) -> None:
        self.parts = parts

    def __rich__(self) -> RenderableType:
        """Return rich's group of them."""
        from rich.console import Group  # noqa: PLC0415  # see the module's docstring

        return Group(*self.parts)


Drawn: TypeAlias = "str | Table | Stack | RenderableType"


def table(
    *columns: str,
    numbers: Iterable[str] = (),
    whole: Iterable[str] = (),
    optional: Iterable[str] = (),
    least: Mapping[str, int] | None = None,
) -> Table:
    """Make an empty table in ajit's style.

    Args:
        *columns: Their headings.
        numbers: Columns that are right-aligned.
        whole: Columns whose text is never broken, however narrow the terminal.
        optional: Columns that a narrow terminal leaves out, the first one first.
        least: Columns of the terminal that one needs, where that is not `LEAST`.
    """
    return Table(columns, numbers, whole, optional, least=least, headed=True)


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Make a list of labels and values."""
    drawn = Table(("", " "), whole=("",), headed=False)
    for label, value in pairs:
        drawn.add_row(label, value)
    return drawn


def plain(drawn: Drawn) -> str | None:
    """Return the text of a pipe; None on a terminal, and for what only rich can draw."""
    if sys.stdout.isatty() or not isinstance(drawn, (str, Table, Stack)):
        return None
    parts = drawn.parts if isinstance(drawn, Stack) else (drawn,)
    lines: list[str] = []
    for part in parts:
        lines += part.lines() if isinstance(part, Table) else printable(_text(part)).split("\n")
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def _text(cell: str | Styled) -> str:
    return cell.text if isinstance(cell, Styled) else cell


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    return sum(_columns_of(character) for character in text)


def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
