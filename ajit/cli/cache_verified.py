"""What ``ajit cache verify`` shows: what was checked, and what is bad."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

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
        # The files of a bundle have digests of their own, which were looked at.
        names = held.lowered.values()
        reason = "" if held.kind == "bundle" else fault_of(held.kind, held.data, names)
        reason = f"its compiled bytes are cut short: {reason}" if reason else ""
    else:
        reason = lookup.reason or "removed meanwhile"
    other = isinstance(lookup, Rejected) and lookup.other_version
    return {
        "key": key,
        "ok": other or not reason,
        "reason": reason,
        "other_version": other,
        "seal": lookup.seal if isinstance(lookup, Found) else None,
    }


def verified(
    path: Path,
    checked: Sequence[dict[str, Any]],
    lists: Sequence[ListInfo],
    digests: Sequence[DigestInfo],
    unsafe: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """What was checked and what is bad: entries, lists, digests of files, directories."""
    return {
        "cache_dir": path,
        "checked": len(checked),
        "bad": [item for item in checked if not item["ok"]],
        "other_versions": sum(item["other_version"] for item in checked),
        "seals": _seals(checked),
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
        "unsafe": [{"name": name, "reason": reason} for name, reason in unsafe],
    }


def _seals(checked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Which keys have sealed the good entries, and how many each."""
    counts = Counter(item["seal"] for item in checked if item["seal"] is not None)
    return [
        {**msgspec.structs.asdict(seal), "entries": number}
        for seal, number in sorted(counts.items(), key=lambda pair: pair[0].key_id)
    ]


def is_bad(payload: dict[str, Any]) -> bool:
    """Whether `verified` has found anything that is bad."""
    parts = (payload, payload["reading_lists"], payload["digests"])
    return any(part["bad"] for part in parts) or bool(payload["unsafe"])


def draw_verified(payload: dict[str, Any]) -> RenderableType:
    """Draw what is bad, or say that all is good, as far as it was checked."""
    lists, digests = payload["reading_lists"], payload["digests"]
    numbers = [count(payload["checked"], "entry", "entries")]
    if lists["checked"]:
        numbers.append(count(lists["checked"], "reading list", "reading lists"))
    if digests["checked"]:
        numbers.append(count(digests["checked"], "file of digests", "files of digests"))
    total = f"{', '.join(numbers)} checked"
    if others := payload["other_versions"]:
        total += f" ({others} of other versions of ajit, which alone can verify them)"
    seals = [
        f"{count(item['entries'], 'entry', 'entries')} sealed by {_named(item)}"
        for item in payload["seals"]
    ]
    if not is_bad(payload):
        unknown = sum(item["entries"] for item in payload["seals"] if item["state"] == "unknown")
        found = (
            f"all whole; {count(unknown, 'seal', 'seals')} not checked" if unknown else "all good"
        )
        return "\n".join([f"{total}, {found}", *seals])
    short = short_keys(item["key"] for item in payload["bad"])
    rows = [(short[item["key"]], item["reason"]) for item in payload["bad"]]
    for item in lists["bad"]:
        name = f"reads/{item['base'][:SHORT_KEY]}/{item['digest'][:SHORT_KEY]}"
        rows.append((name, item["reason"]))
    rows += [(f"digests/{item['node']}", item["reason"]) for item in digests["bad"]]
    made_again = len(rows)
    rows += [(item["name"], item["reason"]) for item in payload["unsafe"]]
    drawn = table("key", "problem")
    for row_ in rows:
        drawn.add_row(*row_)
    bad = f"{total}, {made_again} bad: they count as misses and are made again"
    if unsafe := payload["unsafe"]:
        several = count(len(unsafe), "directory is", "directories are")
        bad += f"; {several} not used until removed"
    drawn.caption = "\n".join([bad, *seals])
    return drawn


def _named(seal: dict[str, Any]) -> str:
    from ajit._core.seal import SealInfo  # noqa: PLC0415  # command-line start-up

    return str(SealInfo(**{name: seal[name] for name in SealInfo.__struct_fields__}))
