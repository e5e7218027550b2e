"""What ``ajit cache verify`` shows: what was checked, and what is bad."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ajit.cli.output import SHORT_KEY, count, short_keys, table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from ajit._cache.entries.disk import Lookup
    from ajit._cache.entries.lists import ListInfo
    from ajit._cache.entries.node_digests import DigestInfo

__all__ = ["check", "draw_verified", "is_bad", "verified"]


def check(key: str, lookup: Lookup) -> dict[str, Any]:
    """Describe the result of reading an entry, and whether what it holds is whole."""
    from ajit._cache.entries.disk import Found, Rejected  # noqa: PLC0415  # command-line start-up
    from ajit._core.elf import fault_of  # noqa: PLC0415  # command-line start-up

    if isinstance(lookup, Found):
        held = lookup.artifact
        reason = fault_of(held.kind, held.data, held.lowered.values())
        reason = f"its compiled bytes are cut short: {reason}" if reason else ""
    else:
        reason = lookup.reason or "removed meanwhile"
    other = isinstance(lookup, Rejected) and lookup.other_version
    return {"key": key, "ok": other or not reason, "reason": reason, "other_version": other}


def verified(
    path: Path,
    checked: Sequence[dict[str, Any]],
    lists: Sequence[ListInfo],
    digests: Sequence[DigestInfo],
) -> dict[str, Any]:
    """What was checked and what is bad: entries, reading lists, and digests of files."""
    return {
        "cache_dir": path,
        "checked": len(checked),
        "bad": [item for item in checked if not item["ok"]],
        "other_versions": sum(item["other_version"] for item in checked),
        "reading_lists": {
            "checked": len(lists),
            "bad": [
                {"base": item.base, "digest": item.digest, "reason": item.problem}
                for item in lists
                if item.problem
            ],
        },
        "digests": {
            "checked": len(digests),
            "bad": [
                {"node": item.node, "reason": item.problem} for item in digests if item.problem
            ],
        },
    }


def is_bad(payload: dict[str, Any]) -> bool:
    """Whether `verified` has found anything that is bad."""
    return any(part["bad"] for part in (payload, payload["reading_lists"], payload["digests"]))


def draw_verified(payload: dict[str, Any]) -> RenderableType:
    """Draw what is bad, or say that all is good."""
    lists, digests = payload["reading_lists"], payload["digests"]
    numbers = [count(payload["checked"], "entry", "entries")]
    if lists["checked"]:
        numbers.append(count(lists["checked"], "reading list", "reading lists"))
    if digests["checked"]:
        numbers.append(count(digests["checked"], "file of digests", "files of digests"))
    total = f"{', '.join(numbers)} checked"
    if others := payload["other_versions"]:
        total += f" ({others} of other versions of ajit, which alone can verify them)"
    if not is_bad(payload):
        return f"{total}, all good"
    short = short_keys(item["key"] for item in payload["bad"])
    rows = [(short[item["key"]], item["reason"]) for item in payload["bad"]]
    for item in lists["bad"]:
        name = f"reads/{item['base'][:SHORT_KEY]}/{item['digest'][:SHORT_KEY]}"
        rows.append((name, item["reason"]))
    rows += [(f"digests/{item['node']}", item["reason"]) for item in digests["bad"]]
    drawn = table("key", "problem")
    for row_ in rows:
        drawn.add_row(*row_)
    drawn.caption = f"{total}, {len(rows)} bad: they count as misses and are made again"
    return drawn
