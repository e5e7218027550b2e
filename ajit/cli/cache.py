"""``ajit cache``: look at the kernel cache, verify it, remove from it.

Entries are found by their key, or by its first digits if those are unique. A command that only
reads never creates a cache directory: without one, there are no entries.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import click

from ajit.cli import cache_views as views
from ajit.cli import exits
from ajit.cli.cache_prune import prune
from ajit.cli.options import cache_dir_option
from ajit.cli.output import Output, json_option
from ajit.errors import AjitError, CacheError
from ajit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ajit._cache.entries.disk import DiskStore, EntryInfo, Lookup
    from ajit._core.entry import Manifest

__all__ = ["command"]

MINIMUM_PREFIX = 4
"""Digits of a key that name an entry. Pretty arbitrary: fewer are more likely a typing error."""


NotRemoved: TypeAlias = dict[str, str]
"""An entry that was not removed: ``key``, as it was given, and ``reason``."""

KEY_DIGITS = 64
HEX_DIGITS = frozenset("0123456789abcdef")


class NoKey(click.UsageError):
    """The text is not a key, and not the beginning of exactly one key. Nothing was done."""


class NoSuchEntry(AjitError):
    """No entry has this key, or a key that begins with it. Nothing was changed.

    Attributes:
        key: What was asked for.
    """

    def __init__(self, *, key: str, path: Path) -> None:
        self.key = key
        super().__init__(f"no entry {key!r} in {path} (see: ajit cache ls)")


class BadEntry(AjitError):
    """The named entry does not verify. It counts as a miss; nothing was changed.

    Attributes:
        key: Hex key.
        reason: What is wrong with it.
    """

    def __init__(self, *, key: str, reason: str) -> None:
        self.key, self.reason = key, reason
        super().__init__(f"entry {key} cannot be used: {reason}")


@click.group("cache", short_help="Look at the kernel cache.")
def command() -> None:
    """Look at the kernel cache, verify it, remove from it.

    KEY is a key of 64 hexadecimal digits, or its first digits, at least 4, if they are unique.
    """


command.add_command(prune)


@command.command("path", short_help="Where the cache is.")
@cache_dir_option
@json_option
def path_(*, cache_dir: str | None, as_json: bool) -> None:
    """Print the cache directory. It need not exist yet."""
    settings = Settings(cache_dir=cache_dir)
    payload = {"cache_dir": settings.cache_dir, "origin": settings.origins["cache_dir"]}
    Output(as_json=as_json).result(payload, lambda: str(settings.cache_dir))


@command.command("ls", short_help="List the entries.")
@cache_dir_option
@json_option
def ls(*, cache_dir: str | None, as_json: bool) -> None:
    """List the entries of the cache with what they hold, the newest last."""
    cache = _Cache(cache_dir)
    rows = sorted((views.row(cache.store, info) for info in cache.entries()), key=views.by_age)
    payload = {"cache_dir": cache.path, "entries": rows}
    Output(as_json=as_json).result(payload, lambda: views.draw_list(rows, cache.path))


@command.command("stats", short_help="Count entries and bytes.")
@cache_dir_option
@json_option
def stats(*, cache_dir: str | None, as_json: bool) -> None:
    """Count entries, bytes and compile time, for each compiler and architecture."""
    cache = _Cache(cache_dir)
    payload = views.summarise(cache.path, [views.row(cache.store, i) for i in cache.entries()])
    Output(as_json=as_json).result(payload, lambda: views.draw_summary(payload))


@command.command("verify", short_help="Check every entry.")
@cache_dir_option
@json_option
def verify(*, cache_dir: str | None, as_json: bool) -> int:
    """Read every entry and check its checksum, its key, and whether its compiled bytes are whole.

    An entry with a bad checksum or key does no harm: it counts as a miss and is compiled again. One
    whose bytes are cut short was published so: remove it. Exits with 1 if there is a bad one.
    """
    cache = _Cache(cache_dir)
    checked = [views.check(key, lookup) for key, lookup in cache.verify()]
    bad = [check for check in checked if not check["ok"]]
    payload = {"cache_dir": cache.path, "checked": len(checked), "bad": bad}
    Output(as_json=as_json).result(payload, lambda: views.draw_verified(len(checked), bad))
    return exits.PROBLEM if bad else exits.FINE


@command.command("inspect", short_help="Show one entry.")
@click.argument("key")
@click.option("--log", "show_log", is_flag=True, help="Print the compiler's log as well.")
@cache_dir_option
@json_option
def inspect(*, key: str, show_log: bool, cache_dir: str | None, as_json: bool) -> None:
    """Show everything about one entry except its compiled bytes."""
    cache = _Cache(cache_dir)
    payload = views.inspection(*cache.manifest(key))
    Output(as_json=as_json).result(payload, lambda: views.draw_inspection(payload, log=show_log))


@command.command("why", short_help="Show how two keys differ.")
@click.argument("a", metavar="KEY_A")
@click.argument("b", metavar="KEY_B")
@cache_dir_option
@json_option
def why(*, a: str, b: str, cache_dir: str | None, as_json: bool) -> None:
    """Show the parts in which two keys differ: the reason why the second kernel was compiled."""
    from ajit._core.key import explain  # noqa: PLC0415  # command-line start-up

    cache = _Cache(cache_dir)
    first, second = cache.manifest(a)[0], cache.manifest(b)[0]
    differences = explain(first.key_fields, second.key_fields)
    payload = {"a": first.key, "b": second.key, "differences": differences}
    Output(as_json=as_json).result(
        payload, lambda: views.draw_differences(first.key, second.key, differences)
    )


@command.command("rm", short_help="Remove entries.")
@click.argument("keys", metavar="KEY...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove every entry.")
@cache_dir_option
@json_option
def rm(*, keys: tuple[str, ...], everything: bool, cache_dir: str | None, as_json: bool) -> int:
    """Remove entries by key, or all of them.

    Safe while servers use the cache: a process that is reading an entry can finish, and the next
    process that needs the kernel compiles it again. Exits with 2, and removes nothing, if a KEY is
    not valid; with 1 if there is no entry for any KEY; with 3 if there is none for some of them.
    """
    if bool(keys) == everything:
        raise click.UsageError("name the keys to remove, or give --all")
    output = Output(as_json=as_json)
    cache = _Cache(cache_dir)
    found, missing = (cache.keys, []) if everything else cache.find(keys)
    removed, stuck = cache.remove(found)
    failed = missing + stuck
    for problem in failed:
        output.warn(problem["reason"])
    payload = {"cache_dir": cache.path, "removed": removed, "failed": failed}
    output.result(payload, lambda: views.draw_removed(removed))
    if not failed:
        return exits.FINE
    return exits.PARTLY if removed else exits.PROBLEM


class _Cache:
    """The cache that a command works on; without entries if there is no directory yet."""

    def __init__(self, cache_dir: str | None) -> None:
        settings = Settings(cache_dir=cache_dir)
        self.path: Path = settings.cache_dir
        # Opening would create the directory; a command that only reads must not.
        self.store = _open(settings) if self.path.exists() else None

    def entries(self) -> list[EntryInfo]:
        return [] if self.store is None else list(self.store.entries())

    def verify(self) -> list[tuple[str, Lookup]]:
        return [] if self.store is None else list(self.store.verify())

    @cached_property
    def keys(self) -> list[str]:
        """The keys of all entries, listed at the first call."""
        return [info.key for info in self.entries()]

    def key(self, text: str) -> str:
        """The one key that begins with a text."""
        wanted = _digits(text)
        found = [key for key in self.keys if key.startswith(wanted)]
        if not found:
            raise NoSuchEntry(key=text, path=self.path)
        if len(found) > 1:
            raise NoKey(f"{len(found)} entries begin with {text!r}: give more digits")
        return found[0]

    def find(self, texts: Sequence[str]) -> tuple[list[str], list[NotRemoved]]:
        """The keys that begin with these texts, and the texts that no entry's key begins with."""
        found, missing = [], []
        for text in texts:
            try:
                found.append(self.key(text))
            except NoSuchEntry as exc:
                missing.append({"key": text, "reason": str(exc)})
        return found, missing

    def manifest(self, text: str) -> tuple[Manifest, int]:
        """The verified manifest of an entry and the size of its compiled bytes."""
        key = self.key(text)
        assert self.store is not None  # or it had no such key
        found = self.store.manifest(key)
        if isinstance(found, tuple):
            return found
        raise BadEntry(key=key, reason=found.reason or "it has gone")

    def remove(self, keys: Sequence[str]) -> tuple[list[str], list[NotRemoved]]:
        """Remove entries; return what was removed, and what was not, with reasons."""
        removed, failed = [], []
        for key in keys:
            assert self.store is not None  # or it had no such key
            try:
                if self.store.remove(key):
                    removed.append(key)
            except OSError as exc:
                failed.append({"key": key, "reason": str(exc)})
        return removed, failed


def _digits(text: str) -> str:
    """Return the digits of a key, or its first digits, that a text stands for."""
    digits = text.lower().removesuffix("...").removesuffix("…")
    if not HEX_DIGITS.issuperset(digits) or len(digits) > KEY_DIGITS:
        raise NoKey(f"{text!r} is not a key: a key has {KEY_DIGITS} hexadecimal digits")
    if len(digits) < MINIMUM_PREFIX:
        raise NoKey(f"{text!r} is too short for a key: give at least {MINIMUM_PREFIX} digits")
    return digits


def _open(settings: Settings) -> DiskStore:
    from ajit._cache.entries.disk import DiskStore  # noqa: PLC0415  # start-up
    from ajit._cache.files.directory import open_configured_cache  # noqa: PLC0415  # start-up
    from ajit._cache.files.secret import load_secret  # noqa: PLC0415  # start-up

    directory = open_configured_cache(settings)
    if directory.access == "none":
        # A server goes on without its cache; a command that works on the cache cannot.
        raise CacheError(path=directory.path, reason=directory.problem)
    return DiskStore(directory, load_secret(settings))
