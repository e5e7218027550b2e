"""The cache that a command works on: entries found by the first digits of a key, and removed.

What logs and events print is a *base key*; the key of its entries begins with the same 16 digits.
So an entry is found by digits of either. One base has several entries where its headers have
changed: then the command is refused, and says in which files they differ.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import click

from ajit._core.reads import BASE_DIGITS
from ajit.cli.output import short_keys
from ajit.errors import AjitError, CacheError
from ajit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ajit._cache.entries.disk import DiskStore, EntryInfo, Lookup
    from ajit._cache.entries.lists import ListInfo
    from ajit._cache.entries.node_digests import DigestInfo
    from ajit._cache.files.directory import CacheDirectory
    from ajit._core.entry import Manifest

__all__ = ["BadEntry", "Cache", "NoKey", "NoSuchEntry", "NotRemoved"]

MINIMUM_PREFIX = 4
"""Digits of a key that name an entry. Pretty arbitrary: fewer are more likely a typing error."""

NotRemoved: TypeAlias = dict[str, str]
"""An entry that was not removed: ``key``, as it was given, and ``reason``."""

KEY_DIGITS = 64
HEX_DIGITS = frozenset("0123456789abcdef")
SHOWN_VALUE = 23  # "sha256:" and 16 digits


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


class Cache:
    """The cache of one command; without entries if there is no directory yet."""

    def __init__(self, cache_dir: str | None) -> None:
        settings = Settings(cache_dir=cache_dir)
        self.path: Path = settings.cache_dir
        self._secret: bytes | None = None
        # Opening would create the directory; a command that only reads must not.
        self.store = self._open(settings) if self.path.exists() else None

    def entries(self) -> list[EntryInfo]:
        """The files of all entries."""
        return [] if self.store is None else list(self.store.entries())

    def verify(self) -> list[tuple[str, Lookup]]:
        """The result of reading each entry."""
        return [] if self.store is None else list(self.store.verify())

    def lists(self) -> list[ListInfo]:
        """All reading lists, verified."""
        if self.store is None:
            return []
        from ajit._cache.entries.lists import ListStore  # noqa: PLC0415  # start-up

        return list(ListStore(self.store.directory).files())

    def digests(self) -> list[DigestInfo]:
        """The digests that each node keeps, verified."""
        if self.store is None:
            return []
        from ajit._cache.entries.node_digests import digest_files  # noqa: PLC0415  # start-up

        return list(digest_files(self.store.directory, self._secret))

    @cached_property
    def keys(self) -> list[str]:
        """The keys of all entries, listed at the first call."""
        return [info.key for info in self.entries()]

    def key(self, text: str) -> str:
        """The one key that begins with a text, or whose base key does."""
        wanted = _digits(text)
        found = [key for key in self.keys if key.startswith(wanted)]
        if not found and len(wanted) > BASE_DIGITS:
            alike = [key for key in self.keys if key.startswith(wanted[:BASE_DIGITS])]
            found = [key for key in alike if self._base(key).startswith(wanted)]
        if not found:
            raise NoSuchEntry(key=text, path=self.path)
        if len(found) > 1:
            many = f"{len(found)} entries begin with {text!r}: give more digits"
            raise NoKey("\n".join([many, *self._told_apart(found)]))
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

    def remove(self, keys: Sequence[str]) -> tuple[list[str], list[NotRemoved], int]:
        """Remove entries, and the reading lists that lead only to them.

        Returns:
            What was removed; what was not, with reasons; and how many lists were removed.
        """
        removed, failed = [], []
        led_by = self._lists_in_doubt(keys)
        for key in keys:
            assert self.store is not None  # or it had no such key
            try:
                if self.store.remove(key):
                    removed.append(key)
            except OSError as exc:
                failed.append({"key": key, "reason": str(exc)})
        return removed, failed, self._remove_lists(removed, led_by)

    def _lists_in_doubt(self, keys: Sequence[str]) -> dict[str, str | None]:
        """The lists of entries that are to go while others of their base are to stay."""
        going = set(keys)
        stay = {key[:BASE_DIGITS] for key in self.keys if key not in going}
        return {key: self._list_of(key) for key in keys if key[:BASE_DIGITS] in stay}

    def _remove_lists(self, removed: Sequence[str], led_by: dict[str, str | None]) -> int:
        """Remove lists of removed entries that lead to no entry now; return how many."""
        left = defaultdict(list)
        for info in self.entries():
            left[info.key[:BASE_DIGITS]].append(info.key)
        number = 0
        for base in dict.fromkeys(key[:BASE_DIGITS] for key in removed):
            ours = {led_by.get(key) for key in removed if key.startswith(base)}
            theirs = {self._list_of(key) for key in left[base]}
            for name in self._names_of_lists(base):
                digest = name.rpartition("/")[2][:BASE_DIGITS]
                if not _is_needed(digest, ours, theirs):
                    number += self._remove_list(name)
        return number

    def _names_of_lists(self, base: str) -> Iterator[str]:
        from ajit._cache.entries.lists import base_folders  # noqa: PLC0415  # start-up
        from ajit._cache.files.fs import list_names  # noqa: PLC0415  # start-up

        assert self.store is not None  # it had entries
        for folder in base_folders(self.store.directory.fd, base):
            for name in list_names(self.store.directory.fd, folder):
                yield f"{folder}/{name}"

    def _remove_list(self, name: str) -> bool:
        from ajit._cache.entries.lists import remove_list  # noqa: PLC0415  # start-up

        assert self.store is not None  # it has a list
        with suppress(OSError):  # it leads nowhere, and is evicted later
            remove_list(self.store.directory.fd, name)
            return True
        return False

    def _list_of(self, key: str) -> str | None:
        """The first digits of the list that led to an entry, "none", or None if it is unknown."""
        fields = self._fields(key)
        return fields["reads"].partition(" ")[0] if "reads" in fields else None

    def _base(self, key: str) -> str:
        assert self.store is not None  # it has a key
        found = self.store.manifest(key)
        return found[0].base if isinstance(found, tuple) else ""

    def _fields(self, key: str) -> dict[str, str]:
        assert self.store is not None  # it has a key
        found = self.store.manifest(key)
        return dict(found[0].key_fields) if isinstance(found, tuple) else {}

    def _told_apart(self, keys: Sequence[str]) -> list[str]:
        """A line for each entry of one base, with what it has and the others have not."""
        if len({key[:BASE_DIGITS] for key in keys}) > 1:
            return []
        fields = {key: self._fields(key) for key in keys}
        labels = dict.fromkeys(label for known in fields.values() for label in known)
        differing = [x for x in labels if len({known.get(x) for known in fields.values()}) > 1]
        files = [label for label in differing if label.startswith("file ")] or differing
        short = short_keys(keys)
        return [
            f"  {short[key]}  " + ", ".join(_shown(label, fields[key]) for label in files)
            for key in keys
        ]

    def _open(self, settings: Settings) -> DiskStore:
        from ajit._cache.entries.disk import DiskStore  # noqa: PLC0415  # start-up
        from ajit._cache.files.directory import open_configured_cache  # noqa: PLC0415  # start-up
        from ajit._cache.files.secret import load_secret  # noqa: PLC0415  # start-up

        directory: CacheDirectory = open_configured_cache(settings)
        if directory.access == "none":
            # A server goes on without its cache; a command that works on the cache cannot.
            raise CacheError(path=directory.path, reason=directory.problem)
        self._secret = load_secret(settings)
        return DiskStore(directory, self._secret)


def _is_needed(digest: str, ours: set[str | None], theirs: set[str | None]) -> bool:
    """Whether a list may lead to an entry that is left, or to none of those that were removed."""
    return bool(theirs) and (digest not in ours or digest in theirs or None in theirs)


def _shown(label: str, fields: dict[str, str]) -> str:
    value = fields.get(label, "(not read)")
    return f"{label}: {value[:SHOWN_VALUE]}"


def _digits(text: str) -> str:
    """Return the digits of a key, or its first digits, that a text stands for."""
    digits = text.lower().removesuffix("...").removesuffix("…")
    if not HEX_DIGITS.issuperset(digits) or len(digits) > KEY_DIGITS:
        raise NoKey(f"{text!r} is not a key: a key has {KEY_DIGITS} hexadecimal digits")
    if len(digits) < MINIMUM_PREFIX:
        raise NoKey(f"{text!r} is too short for a key: give at least {MINIMUM_PREFIX} digits")
    return digits
