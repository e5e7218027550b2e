"""``ajit cache verify`` and ``rm``: the commands that check entries and remove them by key."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ajit._printable import printable
from ajit.cache import checking
from ajit.cli import cache_views as views
from ajit.cli import exits
from ajit.cli.answering import if_cache_answers
from ajit.cli.cache_finder import Cache, NoSuchEntry, NotRemoved, key_text
from ajit.cli.cache_look import rows_of
from ajit.cli.cache_stack import several
from ajit.cli.cache_verified import draw_fixed, draw_verified
from ajit.cli.options import cache_dir_option
from ajit.cli.output import Output, count, format_bytes, json_option
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["rm", "verify"]


@click.command("verify", short_help="Check every entry.")
@click.option("--fix", is_flag=True, help="Remove what is bad.")
@cache_dir_option
@json_option
@if_cache_answers
def verify(*, fix: bool, cache_dir: str | None, as_json: bool) -> int:
    """Read every entry and check its checksum, its key, and whether its compiled bytes are whole.

    An entry with a bad checksum or key does no harm: it counts as a miss and is compiled again. One
    whose bytes are cut short was published so: remove it. Reading lists and digests of files are
    checked, too; a bad one counts as not there. A directory that is a link, or that another user
    could put files into, is not used, and should be removed. Exits with 1 if anything is bad,
    or cannot be read.

    With --fix bad entries, reading lists and digests are removed, while servers may use the cache;
    directories, and what cannot be read just now, are not. Exits with 0 if all that was bad is
    gone and all could be read, else with 3, or with 1 if nothing was removed.

    Layers are not checked: name one with --cache-dir.
    """
    found, output = checking.verify(cache_dir, fix=fix), Output(as_json=as_json)
    for unread in found.unread:
        output.warn(f"could not be read: {unread.name}: {unread.reason}")
    if not fix:
        output.result(found, lambda: draw_verified(found))
        return exits.FINE if found.good else exits.PROBLEM
    for problem in found.not_removed:
        output.warn(f"not removed: {problem.name}: {problem.reason}")
    output.result(found, lambda: draw_fixed(found))
    if not (found.not_removed or found.unread):
        return exits.FINE
    return exits.PARTLY if found.removed else exits.PROBLEM


@click.command("rm", short_help="Remove entries.")
@click.argument("keys", metavar="KEY...", nargs=-1, type=key_text)
@click.option("--all", "everything", is_flag=True, help="Remove every entry.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask. --all asks where it is run by hand.")
@cache_dir_option
@json_option
@if_cache_answers
def rm(  # options
    *,
    keys: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    cache_dir: str | None,
    as_json: bool,
) -> int:
    """Remove entries by key, or all of them, and the reading lists that lead only to them.

    With --all the history of compiles (ajit log) goes as well.

    Safe while servers use the cache: a process that is reading an entry can finish, and the next
    process that needs the kernel compiles it again. Exits with 2, and removes nothing, if a KEY is
    not valid; with 1 if there is no entry for any KEY; with 3 if there is none for some of them.
    """
    if bool(keys) == everything:
        raise click.UsageError("name the keys to remove, or give --all")
    output = Output(as_json=as_json)
    cache = Cache(cache_dir)
    found, missing = (cache.keys, []) if everything else _found(cache, keys)
    if dry_run:
        return _preview(output, cache, found, missing)
    _must_be_writable(cache)
    if everything and not yes:
        _ask(cache)
    removed, stuck, lists = cache.remove(found)
    if everything:
        cache.forget_history()
    failed = missing + stuck
    for problem in failed:
        output.warn(problem["reason"])
    payload = {
        "cache_dir": cache.path,
        "removed": removed,
        "removed_lists": lists,
        "failed": failed,
    }
    output.result(payload, lambda: views.draw_removed(removed, lists))
    if not failed:
        return exits.FINE
    return exits.PARTLY if removed else exits.PROBLEM


def _must_be_writable(cache: Cache) -> None:
    """Say it once, and not of each entry.

    Raises:
        CacheError: Nothing can be removed from it.
    """
    directory = cache.store.directory
    if directory.access == "read-only":
        reason = f"it cannot be written, so nothing was removed ({directory.problem})"
        raise CacheError(path=directory.path, reason=reason)


def _ask(cache: Cache) -> None:
    """Let a person see what goes before it does; a script is not asked.

    Raises:
        click.Abort: It is to stay.
    """
    if sys.stdin.isatty() and sys.stderr.isatty():
        infos = cache.entries()
        size = format_bytes(sum(info.size_bytes for info in infos))
        what = f"{count(len(infos), 'entry', 'entries')} of {size} in {cache.path}"
        click.confirm(printable(f"Remove {what}?"), abort=True, err=True)


def _preview(
    output: Output, cache: Cache, found: Sequence[str], missing: Sequence[NotRemoved]
) -> int:
    """Show what would be removed."""
    wanted = set(found)
    rows = [row for row in rows_of(cache) if row.key in wanted]
    for problem in missing:
        output.warn(problem["reason"])
    payload = {"cache_dir": cache.path, "would_remove": rows, "failed": missing}
    output.result(payload, lambda: views.draw_list(rows, cache.path, [], 0))
    if not missing:
        return exits.FINE
    return exits.PARTLY if rows else exits.PROBLEM


def _found(cache: Cache, texts: tuple[str, ...]) -> tuple[list[str], list[NotRemoved]]:
    """The keys that begin with these texts, and the texts that no entry's key begins with."""
    found: list[str] = []
    missing: list[NotRemoved] = []
    for text in texts:
        keys = cache.all_of(text)
        if len(keys) > 1:
            raise several(text, dict.fromkeys(keys, cache))
        if not keys:
            missing.append({"key": text, "reason": str(NoSuchEntry(key=text, path=cache.path))})
        found += keys
    return found, missing
