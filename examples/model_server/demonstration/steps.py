"""Progress on standard error: a line for each step that is done, and a bar while one runs."""

from __future__ import annotations

from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Steps"]


class Steps:
    """Says what the demo does, with the seconds since it began."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._began = perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the demo began."""
        return perf_counter() - self._began

    def say(self, text: str) -> None:
        """One line: something is done, or begins."""
        self._console.print(f"[dim]{self.elapsed:5.1f} s[/]  {escape(text)}")

    @contextmanager
    def bar(self, text: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar while the body runs; what it yields moves the bar by one.

        On anything but a terminal there is no bar: the lines of `say` are enough there.
        """
        columns = (TextColumn("         {task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns,
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        ) as progress:
            task = progress.add_task(text, total=total)
            yield lambda: progress.advance(task)
