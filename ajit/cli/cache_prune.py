"""``ajit cache prune``: remove what is above the cache's limits, or show what would be removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ajit.cli import exits
from ajit.cli.answering import if_cache_answers
from ajit.cli.cache_presence import must_be_cache
from ajit.cli.options import byte_size, cache_dir_option, duration
from ajit.cli.output import (
    SHORT_KEY,
    Output,
    count,
    format_age,
    format_bytes,
    json_option,
    table,
)
from ajit.errors import CacheError
from ajit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from ajit._cache.entries.collector import Collected, Collector
    from ajit._cache.entries.eviction import Eviction

__all__ = ["prune"]


class PruneBusy(CacheError):
    """Another process is removing from this cache. Nothing was done."""


@click.command("prune", short_help="Remove least recently used entries.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option(
    "--max-bytes",
    type=byte_size,
    metavar="SIZE",
    help="Size limit for all entries, such as 500M or 4GiB; 0: no limit. Default: "
    "AJIT_CACHE_LIMIT_BYTES, else 4 GiB.",
)
@click.option(
    "--max-age",
    type=duration,
    metavar="TIME",
    help="Also remove entries unused for longer, such as 12h or 30d; 0: never. Default: "
    "AJIT_CACHE_MAX_AGE_SECONDS, else 0.",
)
@cache_dir_option
@json_option
@if_cache_answers
def prune(
    *,
    dry_run: bool,
    max_bytes: int | None,
    max_age: float | None,
    cache_dir: str | None,
    as_json: bool,
) -> int:
    """Remove the least recently used entries until the cache is within its limits.

    Reading lists count and go like entries. Also removes the files that crashed processes and
    machines long gone left behind. Safe while servers use the cache: an
    entry is kept if it was published or used in the last minute, or if its lease is held. Exits
    with 3 if something could not be removed.
    """
    settings = Settings(
        cache_dir=cache_dir,
        cache_limit_bytes=max_bytes,
        cache_max_age_seconds=max_age,
    )
    must_be_cache(settings.cache_dir)
    plan, done = _prune(_collector(settings), settings, dry_run=dry_run)
    payload = _payload(settings, plan, done)
    output = Output(as_json=as_json)
    for skipped in payload["skipped"]:
        output.note(f"not removed: {skipped['file']}: {skipped['reason']}")
    output.result(payload, lambda: _draw(payload))
    return exits.PARTLY if payload["skipped"] else exits.FINE


def _prune(
    collector: Collector, settings: Settings, *, dry_run: bool
) -> tuple[Eviction, Collected | None]:
    """Return the plan, and what was done of it."""
    plan = collector.plan()
    if dry_run:
        return plan, None
    done = collector.perform(plan)
    if done is None:
        reason = "another process is removing entries right now; try again later"
        raise PruneBusy(path=str(settings.cache_dir), reason=reason)
    return plan, done


def _collector(settings: Settings) -> Collector:
    from ajit._cache.entries.collector import Collector, Limits  # noqa: PLC0415  # start-up
    from ajit._cache.files.directory import open_configured_cache  # noqa: PLC0415  # start-up
    from ajit._cache.files.trust import load_trust  # noqa: PLC0415  # start-up

    directory = open_configured_cache(settings)
    if directory.access == "none":
        raise CacheError(path=directory.path, reason=directory.problem)
    limits = Limits(
        max_bytes=settings.cache_limit_bytes,
        max_age_seconds=settings.cache_max_age_seconds,
        failure_seconds=settings.failure_seconds,
    )
    return Collector(directory, limits, load_trust(settings))


def _payload(settings: Settings, plan: Eviction, done: Collected | None) -> dict[str, Any]:
    skipped = () if done is None else done.skipped
    stay = {item.name for item in skipped}
    files = [
        {
            "file": doomed.file.name,
            "size_bytes": doomed.file.size_bytes,
            "idle_seconds": doomed.idle_seconds,
            "reason": doomed.reason,
        }
        for doomed in (*plan.entries, *plan.debris)
        if doomed.file.name not in stay
    ]
    return {
        "cache_dir": settings.cache_dir,
        "dry_run": done is None,
        "limit_bytes": settings.cache_limit_bytes,
        "max_age_seconds": settings.cache_max_age_seconds,
        "removed": files,
        "removed_bytes": sum(item["size_bytes"] for item in files),
        "skipped": [{"file": item.name, "reason": item.reason} for item in skipped],
        "kept_entries": plan.kept_entries,
        "kept_bytes": plan.kept_bytes,
    }


def _draw(payload: dict[str, Any]) -> RenderableType:
    files: Sequence[dict[str, Any]] = payload["removed"]
    verb = "would remove" if payload["dry_run"] else "removed"
    entries = count(payload["kept_entries"], "entry", "entries")
    kept = f"kept: {entries} of {format_bytes(payload['kept_bytes'])}"
    if not files:
        return f"nothing to remove, {kept}"
    drawn = table("file", "size", "unused for", "reason", numbers=("size", "unused for"))
    for item in files:
        folder, _, name = item["file"].rpartition("/")
        drawn.add_row(
            f"{folder.partition('/')[0]}/{name[:SHORT_KEY]}",
            format_bytes(item["size_bytes"]),
            format_age(item["idle_seconds"]),
            item["reason"],
        )
    total = format_bytes(payload["removed_bytes"])
    drawn.caption = f"{verb}: {count(len(files), 'file', 'files')} of {total}, {kept}"
    return drawn
