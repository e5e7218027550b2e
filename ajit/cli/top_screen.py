"""The terminal as ``ajit top`` has it: its second screen, keys one at a time, and back at any end.

The end may be a key, a signal, or that the terminal is gone. A signal ends with what it would have
done, after the terminal is as it was before.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

__all__ = ["show_until_ended"]

QUITS = "qQ\x03\x1b"
"""q, Control-C where it comes as a character, and Escape."""

_ENDING = (signal.SIGTERM, signal.SIGHUP)


class _Ended(BaseException):
    """It is to end, because of a signal, or 0. Not an `Exception`: nothing on the way takes it."""

    def __init__(self, number: int) -> None:
        self.number = number


def show_until_ended(draw: Callable[[], RenderableType], interval_seconds: float) -> None:
    """Show what is drawn, anew after each interval or key, until it is to end.

    Ends with q, Escape, Control-C, and when the terminal is gone. SIGTERM and SIGHUP do what they
    would have done, once the terminal is as it was.
    """
    ended = 0
    try:
        with _signals(), _keys(), _second_screen() as show:
            while True:
                show(draw())
                if _key(interval_seconds) in QUITS:
                    break
    except _Ended as exc:
        ended = exc.number
    except OSError:  # the terminal is gone
        return
    if ended in _ENDING:
        signal.raise_signal(ended)


@contextlib.contextmanager
def _second_screen() -> Iterator[Callable[[RenderableType], None]]:
    from rich.console import Console  # noqa: PLC0415  # command-line start-up

    from ajit.cli.output import cleaned  # noqa: PLC0415  # likewise

    console = Console(highlight=False, emoji=False, markup=False)
    with console.screen(hide_cursor=True) as screen:
        yield lambda drawn: screen.update(cleaned(drawn))


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Have keys one at a time and unseen, where there is a keyboard."""
    if not sys.stdin.isatty():
        yield
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield
    finally:
        with contextlib.suppress(termios.error):  # it is gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_ENDING)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN or number == signal.SIGINT:
                signal.signal(number, _end)
        # A stopped top would leave its screen behind.
        before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _frame: object) -> NoReturn:
    raise _Ended(number)


def _key(seconds: float) -> str:
    """Return the next key; a space if none was pressed for so long; q if the keyboard is gone."""
    if not sys.stdin.isatty():
        time.sleep(seconds)
        return " "
    fd = sys.stdin.fileno()
    ready, _, _ = select.select([fd], [], [], seconds)
    if not ready:
        return " "
    return os.read(fd, 1).decode(errors="replace") or "q"
