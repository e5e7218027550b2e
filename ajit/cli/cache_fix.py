"""What ``ajit cache verify --fix`` does: bad files are removed, and all that was good stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from ajit.cli.cache_verified import check, draw_verified
from ajit.cli.output import count

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ajit.cli.cache_finder import Cache

__all__ = ["draw_fixed", "fix"]

Stuck: TypeAlias = dict[str, str]
"""A file that is still there: its ``name``, and the ``reason``."""


def fix(cache: Cache, found: dict[str, Any]) -> tuple[list[str], list[Stuck]]:
    """Remove the bad files that a check has found.

    An entry that another process has replaced meanwhile is read once more, and stays if it is good.

    Args:
        cache: The cache.
        found: From `cache_verified.verified`.

    Returns:
        The names of the files that were removed, and those that are still there.
    """
    from ajit._cache.entries.lists import TOP as READS  # noqa: PLC0415  # command-line start-up
    from ajit._cache.entries.node_digests import TOP as DIGESTS  # noqa: PLC0415  # start-up
    from ajit._cache.entries.results import entry_name  # noqa: PLC0415  # command-line start-up

    lists, digests = found["reading_lists"]["bad"], found["digests"]["bad"]
    keys = [item["key"] for item in found["bad"]]
    names = [entry_name(key) for key in keys if not check(key, cache.read(key))["ok"]]
    names += [f"{READS}/{item['base'][:2]}/{item['base']}/{item['digest']}" for item in lists]
    names += [f"{DIGESTS}/{item['node']}" for item in digests]
    fixed, stuck = [], []
    for name in names:
        if reason := _remove(cache, name):
            stuck.append({"name": name, "reason": reason})
        else:
            fixed.append(name)
    stuck += [{"name": item["name"], "reason": item["reason"]} for item in found["unsafe"]]
    return fixed, stuck


def _remove(cache: Cache, name: str) -> str:
    """Remove a file, and return "" or why it is still there."""
    from ajit._cache.files import fs  # noqa: PLC0415  # command-line start-up

    try:
        fs.remove_file(cache.store.directory, name)
    except OSError as exc:
        return exc.strerror or str(exc)
    return ""


def draw_fixed(payload: dict[str, Any]) -> RenderableType:
    """Draw what was bad, and how much of it is gone."""
    drawn = draw_verified(payload)
    gone = count(len(payload["fixed"]), "file", "files")
    caption = f"removed {gone}"
    if isinstance(drawn, str):
        return drawn
    from rich.console import Group  # noqa: PLC0415  # command-line start-up

    return Group(drawn, caption)
