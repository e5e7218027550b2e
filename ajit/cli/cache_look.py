"""``ajit cache``: the commands that only look: path, ls, stats, inspect, why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ajit.cache.scanning import described, scan
from ajit.cli import cache_views as views
from ajit.cli.answering import if_cache_answers, if_layers_answer
from ajit.cli.cache_finder import Cache, key_text
from ajit.cli.cache_stack import Caches
from ajit.cli.elsewhere import tell_other_caches
from ajit.cli.options import looked_at_option
from ajit.cli.output import Output, json_option, tell_warning
from ajit.settings import Settings

if TYPE_CHECKING:
    from ajit._cache.entries.disk import Described
    from ajit._core.cubin import KernelUsage
    from ajit.cache.scanning import CachedEntry

__all__ = ["inspect", "ls", "path_", "rows_of", "stats", "why"]


@click.command("path", short_help="Where the cache is.")
@looked_at_option
@json_option
def path_(*, cache_dir: str | None, as_json: bool) -> None:
    """Print the cache directory. It need not exist yet."""
    settings = Settings(cache_dir=cache_dir)
    payload = {"cache_dir": settings.cache_dir, "origin": settings.origins["cache_dir"]}
    Output(as_json=as_json).result(payload, lambda: str(settings.cache_dir))


@click.command("ls", short_help="List the entries.")
@click.argument("text", required=False, default="")
@click.option(
    "--sort",
    type=click.Choice(list(views.SORTS)),
    default="age",
    show_default=True,
    help="What comes last: the newest, the last used, the largest, the slowest, ...",
)
@click.option("--limit", type=click.IntRange(min=1), help="Show only so many, the last ones.")
@looked_at_option
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
    found = scan(cache_dir)
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
    if not rows:
        tell_other_caches(Settings(cache_dir=cache_dir))


@click.command("stats", short_help="Count entries and bytes.")
@looked_at_option
@json_option
@if_cache_answers
def stats(*, cache_dir: str | None, as_json: bool) -> None:
    """Count entries, bytes and compile time, for each compiler and architecture.

    Also counts reading lists, which say what a compile has read, and the digests of files that each
    node keeps. Layers are not counted: name one with --cache-dir.
    """
    cache = Cache(cache_dir)
    rows = rows_of(cache)
    payload = views.summarise(cache.path, rows, cache.lists(), cache.digests())
    Output(as_json=as_json).result(payload, lambda: views.draw_summary(payload))


@click.command("inspect", short_help="Show one entry.")
@click.argument("key", type=key_text)
@click.option("--log", "show_log", is_flag=True, help="Print the compiler's log as well.")
@looked_at_option
@json_option
@if_layers_answer
def inspect(*, key: str, show_log: bool, cache_dir: str | None, as_json: bool) -> None:
    """Show everything about one entry, of the cache or a layer, except its compiled bytes.

    Of a cubin also what each kernel needs: registers, shared memory, stack (with spilled
    registers), constant memory, code, and the threads that __launch_bounds__ allows.
    """
    cache, entry = Caches(cache_dir).manifest(key)
    payload = views.inspection(entry, cache.layer, _kernels(cache, entry))
    Output(as_json=as_json).result(payload, lambda: views.draw_inspection(payload, log=show_log))


def _kernels(cache: Cache, entry: Described) -> list[KernelUsage]:
    """What the kernels of a cubin need; nothing of other entries."""
    from ajit._cache.entries.disk import Found  # noqa: PLC0415  # command-line start-up
    from ajit._core.cubin import kernel_usage  # noqa: PLC0415  # command-line start-up

    if entry.manifest.kind != "cubin":
        return []
    found = cache.store.read(entry.manifest.key)
    return kernel_usage(found.artifact.data) if isinstance(found, Found) else []


@click.command("why", short_help="Show how two keys differ.")
@click.argument("a", metavar="KEY_A", type=key_text)
@click.argument("b", metavar="KEY_B", type=key_text)
@looked_at_option
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


def rows_of(cache: Cache) -> list[CachedEntry]:
    """Describe every entry of one cache."""
    rows = (described(cache, info) for info in cache.entries())
    return [row for row in rows if row is not None]
