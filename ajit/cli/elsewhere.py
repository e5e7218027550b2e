"""Runtimes that use other caches than the one a command looks at: who forgot a variable is told."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ajit.cli.output import count, tell

if TYPE_CHECKING:
    from ajit.instrumentation import RuntimeView
    from ajit.settings import Settings

__all__ = ["in_words", "other_caches", "runtimes_elsewhere", "tell_other_caches"]

MOST_CACHES = 3


def other_caches(settings: Settings) -> str:
    """Say which other caches runtimes of this machine use; "" if none, or if some use this one."""
    with suppress(OSError):
        return in_words(runtimes_elsewhere(settings))
    return ""


def tell_other_caches(settings: Settings) -> None:
    """Note them on standard error, after a command that has found nothing."""
    told = other_caches(settings)
    if told:
        tell(f"{told} (--cache-dir or AJIT_CACHE_DIR names one)")


def runtimes_elsewhere(settings: Settings) -> list[RuntimeView]:
    """The runtimes that live and use other caches; none if any uses this one."""
    from ajit.instrumentation import runtimes  # noqa: PLC0415  # command-line start-up

    if runtimes(settings.cache_dir, board=settings.board):
        return []
    return [view for view in runtimes(board=settings.board) if view.state != "dead"]


def in_words(views: list[RuntimeView]) -> str:
    """``3 runtimes use other caches: /srv/cache``; "" of none."""
    if not views:
        return ""
    caches = list(dict.fromkeys(view.cache_dir for view in views))
    shown = ", ".join(caches[:MOST_CACHES])
    more = f" and {len(caches) - MOST_CACHES} more" if len(caches) > MOST_CACHES else ""
    use = "runtime uses another cache", "runtimes use other caches"
    return f"{count(len(views), *use)}: {shown}{more}"
