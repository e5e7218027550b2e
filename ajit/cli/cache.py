"""``ajit cache``: look at the kernel cache, verify it, remove from it.

Entries are found by their key, or by its first digits if those are unique. A command that only
reads never creates a cache directory; without one, it says so. None waits for a file system that
does not answer.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ajit import cache as cache_api
from ajit._printable import printable
from ajit.cache.scanning import described
from ajit.cli import cache_archive, cache_export, cache_extract, exits
from ajit.cli import cache_views as views
from ajit.cli.answering import if_cache_answers, if_layers_answer
from ajit.cli.cache_finder import Cache, NoSuchEntry, NotRemoved, key_text
from ajit.cli.cache_prune import prune
from ajit.cli.cache_stack import Caches, several
from ajit.cli.cache_verified import draw_fixed, draw_verified
from ajit.cli.options import cache_dir_option
from ajit.cli.output import Output, count, format_bytes, json_option, tell_warning
from ajit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit.cache.scanning import CachedEntry

__all__ = ["command"]


@click.group("cache", short_help="Look at the kernel cache.")
def command() -> None:
    """Look at the kernel cache, verify it, remove from it.

    KEY is a key of 64 hexadecimal digits, or its first digits, at least 4, if they are unique. The
    key that logs and errors name does as well: its entry's begins with the same 16 digits.
    """


for _command in (
    prune,
    cache_export.export,
    cache_archive.import_,
    cache_archive.check,
    cache_extract.extract,
):
    command.add_command(_command)


@command.command("path", short_help="Where the cache is.")
@cache_dir_option
@json_option
def path_(*, cache_dir: str | None, as_json: bool) -> None:
    """Print the cache directory. It need not exist yet."""
    settings = Settings(cache_dir=cache_dir)
    payload = {"cache_dir": settings.cache_dir, "origin": settings.origins["cache_dir"]}
    Output(as_json=as_json).result(payload, lambda: str(settings.cache_dir))


@command.command("ls", short_help="List the entries.")
@click.argument("text", required=False, default="")
@click.option(
    "--sort",
    type=click.Choice(list(views.SORTS)),
    default="age",
    show_default=True,
    help="What comes last: the newest, the last used, the largest, the slowest, ...",
)
@click.option("--limit", type=click.IntRange(min=1), help="Show only so many, the last ones.")
@cache_dir_option
@json_option
@if_layers_answer
def ls(  # options
    *, text: str, sort: str, limit: int | None, cache_dir: str | None, as_json: bool
) -> None:
    """List the entries of the cache and of its layers with what they hold.

    With TEXT only those that have it in a kernel's name, the label, the arch, the compiler, the
    host, or what is wrong with them. When an entry was last used is known to about an hour.

    Of an entry that several of them have, the first is used: the cache's own, then each layer's.
    AJIT_CACHE_LAYERS= before the command leaves the layers out.
    """
    found = cache_api.scan(cache_dir)
    for warning in found.warnings:
        tell_warning(warning)
    fitting = (item for item in found.entries if views.matches(item, text))
    rows = sorted(fitting, key=views.SORTS[sort])
    rows = rows[-limit:] if limit else rows
    left_out = len(found.entries) - len(rows)
    payload = {
        "cache_dir": found.cache_dir,
        "layers": found.layers,
        "entries": rows,
        "left_out": left_out,
    }
    Output(as_json=as_json).result(
        payload, lambda: views.draw_list(rows, found.cache_dir, found.layers, left_out)
    )


@command.command("stats", short_help="Count entries and bytes.")
@cache_dir_option
@json_option
@if_cache_answers
def stats(*, cache_dir: str | None, as_json: bool) -> None:
    """Count entries, bytes and compile time, for each compiler and architecture.

    Also counts reading lists, which say what a compile has read, and the digests of files that each
    node keeps. Layers are not counted: name one with --cache-dir.
    """
    cache = Cache(cache_dir)
    rows = _rows(cache)
    payload = views.summarise(cache.path, rows, cache.lists(), cache.digests())
    Output(as_json=as_json).result(payload, lambda: views.draw_summary(payload))


@command.command("verify", short_help="Check every entry.")
@click.option("--fix", is_flag=True, help="Remove what is bad.")
@cache_dir_option
@json_option
@if_cache_answers
def verify(*, fix: bool, cache_dir: str | None, as_json: bool) -> int:
    """Read every entry and check its checksum, its key, and whether its compiled bytes are whole.

    An entry with a bad checksum or key does no harm: it counts as a miss and is compiled again. One
    whose bytes are cut short was published so: remove it. Reading lists and digests of files are
    checked, too; a bad one counts as not there. A directory that is a link, or that another user
    could put files into, is not used, and should be removed. Exits with 1 if anything is bad.

    With --fix bad entries, reading lists and digests are removed, while servers may use the cache;
    directories are not. Exits with 0 if all that was bad is gone, with 3 if some of it is not.

    Layers are not checked: name one with --cache-dir.
    """
    found, output = cache_api.verify(cache_dir, fix=fix), Output(as_json=as_json)
    if not fix:
        output.result(found, lambda: draw_verified(found))
        return exits.FINE if found.good else exits.PROBLEM
    for problem in found.not_removed:
        output.warn(f"not removed: {problem.name}: {problem.reason}")
    output.result(found, lambda: draw_fixed(found))
    if not found.not_removed:
        return exits.FINE
    return exits.PARTLY if found.removed else exits.PROBLEM


@command.command("inspect", short_help="Show one entry.")
@click.argument("key", type=key_text)
@click.option("--log", "show_log", is_flag=True, help="Print the compiler's log as well.")
@cache_dir_option
@json_option
@if_layers_answer
def inspect(*, key: str, show_log: bool, cache_dir: str | None, as_json: bool) -> None:
    """Show everything about one entry, of the cache or a layer, except its compiled bytes."""
    cache, entry = Caches(cache_dir).manifest(key)
    payload = views.inspection(entry, cache.layer)
    Output(as_json=as_json).result(payload, lambda: views.draw_inspection(payload, log=show_log))


@command.command("why", short_help="Show how two keys differ.")
@click.argument("a", metavar="KEY_A", type=key_text)
@click.argument("b", metavar="KEY_B", type=key_text)
@cache_dir_option
@json_option
@if_layers_answer
def why(*, a: str, b: str, cache_dir: str | None, as_json: bool) -> None:
    """Show the parts in which two keys differ: the reason why the second kernel was compiled.

    The file i0/a.cuh is a.cuh in the first include directory. For ajit compile that is the
    directory of FILE.
    """
    from ajit._core.key import explain  # noqa: PLC0415  # command-line start-up

    caches = Caches(cache_dir)
    first, second = caches.manifest(a)[1].manifest, caches.manifest(b)[1].manifest
    differences = explain(first.key_fields, second.key_fields)
    payload = {"a": first.key, "b": second.key, "differences": differences}
    Output(as_json=as_json).result(
        payload, lambda: views.draw_differences(first.key, second.key, differences)
    )


@command.command("rm", short_help="Remove entries.")
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
    rows = [row for row in _rows(cache) if row.key in wanted]
    for problem in missing:
        output.warn(problem["reason"])
    payload = {"cache_dir": cache.path, "would_remove": rows, "failed": missing}
    output.result(payload, lambda: views.draw_list(rows, cache.path, [], 0))
    if not missing:
        return exits.FINE
    return exits.PARTLY if rows else exits.PROBLEM


def _rows(cache: Cache) -> list[CachedEntry]:
    rows = (described(cache, info) for info in cache.entries())
    return [row for row in rows if row is not None]


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
