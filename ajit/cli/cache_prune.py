"""``ajit cache prune``: remove what is above the cache's limits, or show what would be removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ajit.cache import pruning
from ajit.cli import exits
from ajit.cli.answering import if_cache_answers
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

if TYPE_CHECKING:
    from ajit.cli.drawing import Drawn

__all__ = ["prune"]


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
@click.option(
    "--unusable",
    is_flag=True,
    help="Also remove entries that no compiler of this machine can use.",
)
@click.option(
    "--no-verify",
    "verify",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Read no file: leave what does not verify.",
)
@cache_dir_option
@json_option
@if_cache_answers
def prune(
    *,
    dry_run: bool,
    max_bytes: int | None,
    max_age: float | None,
    verify: bool,
    unusable: bool,
    cache_dir: str | None,
    as_json: bool,
) -> int:
    """Remove the least recently used entries until the cache is within its limits.

    Reading lists count and go like entries. Also removes entries and lists that do not verify, and
    the files that crashed processes and machines long gone left behind. Safe while servers use the
    cache: an entry is kept if it was published or used in the last minute, or if its lease is held.
    What cannot be read just now is kept. Exits with 3 if something could not be read or removed.

    With --unusable entries go as well whose compiler is not the one that is found here, to the
    version. Do not give it where other machines share the cache: they may have that compiler. What
    builds have made is kept: its compiler is not known.
    """
    pruned = pruning.prune(
        cache_dir,
        max_bytes=max_bytes,
        max_age_seconds=max_age,
        dry_run=dry_run,
        verify=verify,
        unusable=unusable,
    )
    output = Output(as_json=as_json)
    for skipped in pruned.skipped:
        output.note(f"not removed: {skipped.file}: {skipped.reason}")
    for unread in pruned.unread:
        output.warn(f"could not be read: {unread.name}: {unread.reason}")
    output.result(pruned, lambda: _draw(pruned))
    return exits.PARTLY if pruned.skipped or pruned.unread else exits.FINE


def _draw(pruned: pruning.Pruned) -> Drawn:
    verb = "would remove" if pruned.dry_run else "removed"
    entries = count(pruned.kept_entries, "entry", "entries")
    kept = f"kept: {entries} of {format_bytes(pruned.kept_bytes)}"
    if pruned.limit_bytes and pruned.kept_bytes > pruned.limit_bytes:
        limit = format_bytes(pruned.limit_bytes)
        kept += f", above the limit of {limit}: what was used in the last minute or is leased stays"
    if not pruned.removed:
        return f"nothing to remove, {kept}"
    drawn = table("file", "size", "unused for", "reason", numbers=("size", "unused for"))
    for item in pruned.removed:
        folder, _, name = item.file.rpartition("/")
        drawn.add_row(
            f"{folder.partition('/')[0]}/{name[:SHORT_KEY]}",
            format_bytes(item.size_bytes),
            format_age(item.idle_seconds),
            item.reason,
        )
    total = format_bytes(pruned.removed_bytes)
    drawn.caption = f"{verb}: {count(len(pruned.removed), 'file', 'files')} of {total}, {kept}"
    return drawn
