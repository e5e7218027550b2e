"""``ajit cache export``: entries that travel, in one file."""

from __future__ import annotations

import fnmatch
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ajit.cli import exits
from ajit.cli.answering import if_layers_answer
from ajit.cli.cache_extract import replacing
from ajit.cli.cache_stack import Caches
from ajit.cli.options import cache_dir_option
from ajit.cli.output import Output, count, format_bytes, json_option
from ajit.cli.record_keys import keys_of_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._cache.entries.archive_streams import Compression
    from ajit._cache.files.directory import CacheDirectory
    from ajit._core.manifest import Manifest
    from ajit.cli.cache_finder import Cache

    Chosen = tuple[Cache, Manifest]

__all__ = ["counted", "export", "keys_in", "keys_option", "with_zstd"]

keys_option = click.option(
    "--keys", "keys_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with one key or base key (or its first digits) a line; # begins a comment.",
)  # fmt: skip


class Wanted(msgspec.Struct, frozen=True):
    """Which entries are wanted; None is any.

    Attributes:
        arch: Their architecture, or that they have none.
        peer: Whose they are.
        name: Their label or one of their entry points, with * and ? as in a shell.
    """

    arch: str | None
    peer: str | None
    name: str | None

    def fits(self, manifest: Manifest) -> bool:
        """Whether an entry is one of them."""
        labels = (manifest.name, *manifest.entries)
        return (
            (self.arch is None or manifest.arch in (self.arch, ""))
            and (self.peer is None or _peer_of(manifest) == self.peer)
            and any(fnmatch.fnmatchcase(label, self.name or "*") for label in labels)
        )


@click.command("export", short_help="Write entries into one file.")
@click.option(
    "-o", "out", type=click.Path(dir_okay=False, path_type=Path), required=True,
    help="The archive to write.",
)  # fmt: skip
@keys_option
@click.option(
    "--record", type=click.Path(path_type=Path),
    help="Only what this record of used kernels leads to here, see `ajit record`.",
)  # fmt: skip
@click.option(
    "--arch",
    help="Only entries for this architecture, such as sm_90a, and builds, which have none.",
)
@click.option(
    "--peer", metavar="NAME",
    help="Only entries of this library, such as triton or flashinfer; ajit: of none.",
)  # fmt: skip
@click.option(
    "--name",
    help="Only entries with this label or kernel, as `ajit cache ls` shows them; * and ? as in a "
    "shell.",
)
@click.option(
    "--compress", type=click.Choice(["gzip", "zstd"]), default="gzip", show_default=True,
    help="zstd needs `pip install 'ajit[zstd]'`, here and for the import.",
)  # fmt: skip
@cache_dir_option
@json_option
@if_layers_answer
def export(
    *,
    out: Path,
    keys_file: Path | None,
    record: Path | None,
    compress: Compression,
    cache_dir: str | None,
    as_json: bool,
    **wanted: str | None,
) -> int:
    """Write entries with their reading lists into one file, for `ajit cache import` elsewhere.

    All entries of the cache and of its layers, or those that are named and fit; AJIT_CACHE_LAYERS=
    before the command leaves the layers out. With --record it is what a server with these settings
    would find at its start; nothing is compiled. The same entries give the same bytes. Exits with 1
    if nothing fits, and writes nothing; with 3 if some of what is named has no entry.
    """
    from ajit._cache.entries.archive import file_pieces, write_archive  # noqa: PLC0415  # start-up

    caches, output = Caches(cache_dir), Output(as_json=as_json)
    named, missing = _named(caches, keys_file, record)
    chosen = _chosen(named, Wanted(**wanted))
    for text in missing:
        output.warn(f"no entry: {text}")
    if not chosen:
        output.warn(f"no entry in {caches.path} fits; nothing was written")
        return exits.PROBLEM
    places = _places(caches, chosen)
    with with_zstd(), replacing(out) as file:
        size = write_archive(
            file, list(places), lambda name: file_pieces(places[name], name), compress
        )
    payload = {
        "archive": str(out),
        "entries": len(chosen),
        "reading_lists": len(places) - len(chosen),
        "bytes": size,
        "archive_bytes": out.stat().st_size,
        "missing": missing,
    }
    output.result(payload, lambda: _exported(payload))
    return exits.PARTLY if missing else exits.FINE


@contextmanager
def with_zstd() -> Iterator[None]:
    """Say what to install where an archive needs zstd and that is not here."""
    from ajit._cache.entries.archive_streams import NoZstd  # noqa: PLC0415  # start-up

    try:
        yield
    except NoZstd as exc:
        raise exits.Lacking(str(exc)) from exc


def keys_in(path: Path) -> list[str]:
    """The keys that a file has, one a line, each once."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return list(dict.fromkeys(filter(None, lines)))


def counted(payload: dict[str, Any], between: str) -> str:
    """``2 entries, 1 reading list``."""
    lists = count(payload["reading_lists"], "reading list", "reading lists")
    return between.join([count(payload["entries"], "entry", "entries"), lists])


def _named(
    caches: Caches, keys_file: Path | None, record: Path | None
) -> tuple[dict[str, Cache], list[str]]:
    """The entries that a file or a record names, or all, and where; and what has no entry."""
    if keys_file is None and record is None:
        return caches.keys(), []
    texts = keys_in(keys_file) if keys_file is not None else []
    missing: list[str] = []
    if record is not None:
        keys, missing = keys_of_record(record, str(caches.path))
        texts += keys
    found = {text: caches.all_of(text) for text in texts}
    wanted = {key: cache for places in found.values() for key, cache in places.items()}
    return wanted, [text for text, places in found.items() if not places] + missing


def _chosen(named: dict[str, Cache], wanted: Wanted) -> dict[str, Chosen]:
    """Those that verify and fit."""
    chosen = {}
    for key, cache in named.items():
        described = cache.store.manifest(key)
        if not isinstance(described, tuple):
            continue
        manifest = described.manifest
        if wanted.fits(manifest) and cache.is_good(key):
            chosen[key] = (cache, manifest)
    return chosen


def _peer_of(manifest: Manifest) -> str:
    """Whose compile it was: what its adapter put into the key; "ajit" where none did."""
    parts = dict(manifest.key_fields)
    told = parts.get("part peer") or parts.get("part adapter") or "ajit"
    return told.partition(" ")[0]


def _places(caches: Caches, chosen: dict[str, Chosen]) -> dict[str, CacheDirectory]:
    """The files of entries, and of the good reading lists of their bases; where each of them is."""
    from ajit._cache.entries.lists import ListStore  # noqa: PLC0415  # command-line start-up

    places = {
        f"entries/{key[:2]}/{key}.ajit": cache.store.directory for key, (cache, _) in chosen.items()
    }
    bases = {manifest.base for _, manifest in chosen.values()}
    for cache in caches:
        directory = cache.store.directory
        lists = ListStore(directory)
        for base in bases:
            for info in lists.files(base):
                if not info.problem:
                    places.setdefault(f"reads/{base[:2]}/{base}/{info.digest}", directory)
    return places


def _exported(payload: dict[str, Any]) -> str:
    return (
        f"{payload['archive']}: {counted(payload, ', ')}, {format_bytes(payload['bytes'])} in "
        f"{format_bytes(payload['archive_bytes'])}"
    )
