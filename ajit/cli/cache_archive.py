"""``ajit cache import`` and ``check``: what travelled, and whether all of it is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ajit.cli import exits
from ajit.cli.answering import if_cache_answers, if_layers_answer
from ajit.cli.cache_export import counted, keys_in, keys_option, with_zstd
from ajit.cli.cache_finder import Cache
from ajit.cli.cache_stack import Caches
from ajit.cli.options import byte_size, cache_dir_option
from ajit.cli.output import Output, json_option
from ajit.errors import AjitError, CacheError
from ajit.settings import Settings

if TYPE_CHECKING:
    from ajit._cache.entries.archive import Verified

__all__ = ["check", "import_"]

MAX_BYTES = "16GiB"
"""What the files of an archive may have in all unless an option says else. Pretty arbitrary."""

MOST_SHOWN = 20


class BadArchive(AjitError):
    """An archive was refused. Nothing of it was put into the cache.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, *, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"archive {path}: {reason}; nothing was imported")


@click.command("import", short_help="Put the entries of a file into the cache.")
@click.argument("archive", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--max-bytes", type=byte_size, metavar="SIZE", default=MAX_BYTES, show_default=True,
    help="What its files may have in all, such as 500M or 4GiB; 0: no limit.",
)  # fmt: skip
@cache_dir_option
@json_option
@if_cache_answers
def import_(*, archive: Path, max_bytes: int, cache_dir: str | None, as_json: bool) -> int:
    """Put the entries of an archive into the cache, which is made if there is none.

    All of it is verified before anything is put there: digests, names, keys, and the seals that the
    settings ask for. Good entries that are there stay. Without a secret or signatures, who made the
    archive is trusted with the code in it. Exits with 1 if the archive is refused; then nothing was
    made.
    """
    from ajit._cache.entries.archive import (  # noqa: PLC0415  # start-up
        NO_LIMIT,
        ArchiveInvalid,
        read_archive,
    )
    from ajit._cache.files.trust import load_trust  # noqa: PLC0415  # command-line start-up

    settings = Settings(cache_dir=cache_dir)
    trust, limit_bytes = load_trust(settings), max_bytes or NO_LIMIT
    counts = {"entries": 0, "reading_lists": 0, "there": 0}
    try:
        with with_zstd(), archive.open("rb") as file:
            for _ in read_archive(file, trust, limit_bytes):
                pass
            cache = _writable(cache_dir)
            file.seek(0)
            # Verified once more, as it is read: it may have been changed meanwhile.
            for item in read_archive(file, trust, limit_bytes):
                counts[_put(cache, item)] += 1
    except ArchiveInvalid as exc:
        raise BadArchive(path=archive, reason=str(exc)) from exc
    except OSError as exc:
        path = exc.filename or str(settings.cache_dir)
        raise CacheError(path=path, reason=exc.strerror or str(exc)) from exc
    payload = {"archive": str(archive), "cache_dir": cache.path, **counts}
    Output(as_json=as_json).result(payload, lambda: _imported(payload))
    return exits.FINE


def _writable(cache_dir: str | None) -> Cache:
    """The cache, which is made if there is none."""
    cache = Cache(cache_dir, make=True)
    directory = cache.store.directory
    if directory.access != "writable":
        raise CacheError(path=directory.path, reason=directory.problem)
    return cache


@click.command("check", short_help="Say what a cache lacks.")
@keys_option
@click.option(
    "--archive", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Check for the entries of this archive.",
)  # fmt: skip
@cache_dir_option
@json_option
@if_layers_answer
def check(
    *, keys_file: Path | None, archive: Path | None, cache_dir: str | None, as_json: bool
) -> int:
    """Say which kernels are not in the cache or its layers; a gate for images.

    Each entry that is named must be there and verify, with the seal that the settings ask for. Of a
    base key, one good entry must be there. Exits with 1 if anything is lacking.
    """
    if (keys_file is None) == (archive is None):
        raise click.UsageError("give --keys FILE or --archive FILE")
    output = Output(as_json=as_json)
    caches = Caches(cache_dir)
    wanted = keys_in(keys_file) if keys_file is not None else _keys_of(archive)
    lacking = [text for text in wanted if not any(_has(cache, text) for cache in caches)]
    payload = {
        "caches": [str(cache.path) for cache in caches],
        "checked": len(wanted),
        "lacking": lacking,
    }
    output.result(payload, lambda: _checked(payload))
    return exits.PROBLEM if lacking else exits.FINE


def _put(cache: Cache, item: Verified) -> str:
    """Publish a verified file; return what it counts as."""
    from ajit._cache.files.fs import publish_pieces  # noqa: PLC0415  # command-line start-up

    listed = item.file.name.startswith("reads/")
    if not listed and cache.is_good(item.key):
        return "there"
    # A list that is there has these bytes, or is torn; an entry that is there is not good.
    publish_pieces(cache.store.directory, item.file.name, item.pieces, replace=True)
    return "reading_lists" if listed else "entries"


def _keys_of(archive: Path | None) -> list[str]:
    from ajit._cache.entries.archive import ArchiveInvalid, read_index  # noqa: PLC0415  # start-up

    assert archive is not None  # it was asked for
    try:
        with with_zstd(), archive.open("rb") as file:
            return [key for name, key in read_index(file) if name.startswith("entries/")]
    except ArchiveInvalid as exc:
        raise BadArchive(path=archive, reason=str(exc)) from exc


def _has(cache: Cache, text: str) -> bool:
    """Whether there is a good entry of a key or base key."""
    return any(cache.is_good(key) for key in cache.all_of(text))


def _imported(payload: dict[str, Any]) -> str:
    where, there = payload["cache_dir"], payload["there"]
    return f"{counted(payload, ' and ')} put into {where}; {there} were there"


def _checked(payload: dict[str, Any]) -> str:
    lacking = payload["lacking"]
    if not lacking:
        return f"all {payload['checked']} are there"
    shown = [f"  {text}" for text in lacking[:MOST_SHOWN]]
    more = [f"  and {len(lacking) - MOST_SHOWN} more"] if len(lacking) > MOST_SHOWN else []
    return "\n".join([f"{len(lacking)} of {payload['checked']} are lacking:", *shown, *more])
