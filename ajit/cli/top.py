"""``ajit top``: what the runtimes of this machine do now, by their boards."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from ajit.cli.options import looked_at_option
from ajit.cli.output import Output, json_option, tell_warning
from ajit.cli.top_screen import show_until_ended
from ajit.cli.top_view import SORTS, Rates, draw
from ajit.settings import Settings

if TYPE_CHECKING:
    from ajit.cli.drawing import Drawn
    from ajit.instrumentation import RuntimeView

__all__ = ["command"]

LEAST_INTERVAL = 0.2
MOST_INTERVAL = 3600.0


@click.command("top", short_help="Show what the runtimes of this machine do now.")
@click.option("--all", "everything", is_flag=True, help="The runtimes of all caches.")
@click.option("--once", is_flag=True, help="Show it once, and end.")
@click.option(
    "--interval",
    type=click.FloatRange(LEAST_INTERVAL, MOST_INTERVAL),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often it is shown anew.",
)
@click.option(
    "--sort",
    type=click.Choice(list(SORTS)),
    default="age",
    show_default=True,
    help="What comes first: the oldest, or the one with the most. The dead come last.",
)
@looked_at_option
@json_option
def command(  # options
    *,
    everything: bool,
    once: bool,
    interval: float,
    sort: str,
    cache_dir: str | None,
    as_json: bool,
) -> None:
    """Show the open runtimes of this machine and user that use the cache.

    It asks none of them: each keeps a board, a small file in memory, which says so as well if its
    event loop is blocked (late) or its process is stopped; one that was killed is shown as dead for
    a minute. The cache itself is not touched, and need not be there yet.

    MEM, DISK, COMP and FAIL count requests by how they ended, QUEUE is compiles that run + that
    wait, DEVICE the device memory in use, and the age of the oldest ticket.

    On a terminal it is shown anew each second, until q is pressed; else, or with --once or --json,
    it is shown once.
    """
    settings = Settings(cache_dir=cache_dir)
    if settings.board == "off":
        tell_warning(f"no boards are looked at: {settings.origins['board']} is off")
    where = None if everything else str(settings.cache_dir)
    rates = Rates()

    def look() -> list[RuntimeView]:
        from ajit.instrumentation import runtimes  # noqa: PLC0415  # command-line start-up

        views = runtimes(where, board=settings.board)
        views.sort(key=lambda view: (view.state == "dead", SORTS[sort](view)))
        rates.take(views, time.monotonic())
        return views

    def drawn(views: list[RuntimeView], hint: str = "") -> Drawn:
        nothing = "" if views or everything else _nothing_here(settings)
        return draw(views, rates, where, hint=hint, nothing=nothing)

    def screen() -> Drawn:
        return drawn(look(), "q ends")

    if not (once or as_json) and sys.stdout.isatty():
        show_until_ended(screen, interval)
        return
    views = look()
    payload: dict[str, Any] = {
        "cache_dir": where,
        "runtimes": [dataclasses.asdict(view) for view in views],
    }
    Output(as_json=as_json).result(payload, lambda: drawn(views))


def _nothing_here(settings: Settings) -> str:
    """What else is to be known where no runtime uses the cache."""
    from ajit.cli.answering import is_missing  # noqa: PLC0415  # command-line start-up
    from ajit.cli.elsewhere import other_caches  # noqa: PLC0415  # the same

    lines = ["there is no such directory"] if is_missing(settings.cache_dir) else []
    if told := other_caches(settings):
        lines.append(f"{told} (see: ajit top --all)")
    return "\n".join(lines)
