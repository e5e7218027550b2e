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
from ajit.cache.opened import OpenedCache
from ajit.cli.output import SHORT_KEY
from ajit.errors import AjitError
from ajit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ajit._cache.entries.disk import Described

__all__ = ["BadEntry", "Cache", "NoKey", "NoSuchEntry", "NotRemoved", "key_text"]

MINIMUM_PREFIX = 4
"""Digits of a key that name an entry. Pretty arbitrary: fewer are more likely a typing error."""

NotRemoved: TypeAlias = dict[str, str]
"""An entry that was not removed: ``key``, as it was given, and ``reason``."""

KEY_DIGITS = 64
_LISTED = "(ajit cache ls lists them)"
HEX_DIGITS = frozenset("0123456789abcdef")


class NoKey(click.UsageError):
    """The text is not a key, and not the beginning of exactly one key. Nothing was done."""


class NoSuchEntry(AjitError):
    """No entry has this key, or a key that begins with it. Nothing was changed.

    Attributes:
        key: What was asked for.
    """

    def __init__(self, *, key: str, path: Path, layers: int = 0) -> None:
        self.key = key
        where = f"{path} and its {layers} layers" if layers > 1 else f"{path} and its layer"
        super().__init__(f"no entry {key!r} in {where if layers else path} (see: ajit cache ls)")


class BadEntry(AjitError):
    """The named entry does not verify. It counts as a miss; nothing was changed.

    Attributes:
        key: Hex key.
        reason: What is wrong with it.
    """

    def __init__(self, *, key: str, reason: str) -> None:
        self.key, self.reason = key, reason
        super().__init__(f"entry {key} cannot be used: {reason}")


class Cache(OpenedCache):
    """One cache, or one layer, of a command.

    Args:
        path: Where it is; of a cache None for the one that settings name.
        make: Whether it is made if there is none. A command that only reads must not.
        layer: Whether it is a layer: nothing is made in it.

    Raises:
        CacheError: It cannot be used, or there is none.
    """

    def __init__(self, path: str | None, *, make: bool = False, layer: bool = False) -> None:
        super().__init__(Settings(cache_dir=path), path or "" if layer else "", make=make)

    @cached_property
    def keys(self) -> list[str]:
        """The keys of all entries, listed at the first call."""
        return [info.key for info in self.entries()]

    def all_of(self, text: str) -> list[str]:
        """The keys of all entries that begin with a text, or whose base key does."""
        wanted = _digits(text)
        found = [key for key in self.keys if key.startswith(wanted)]
        if not found and len(wanted) > BASE_DIGITS:
            alike = [key for key in self.keys if key.startswith(wanted[:BASE_DIGITS])]
            found = [key for key in alike if self._base(key).startswith(wanted)]
        return found

    def is_good(self, key: str) -> bool:
        """Whether an entry verifies, with all of its files if it is a bundle."""
        from ajit._cache.entries.disk import Found  # noqa: PLC0415  # command-line start-up

        return isinstance(self.read(key), Found)

    def manifest(self, key: str) -> Described:
        """What an entry says of itself, verified."""
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
            try:
                if self.store.remove(key):
                    removed.append(key)
            except OSError as exc:
                failed.append(
                    {"key": key, "reason": f"entry {key[:SHORT_KEY]}: {exc.strerror or exc}"}
                )
        return removed, failed, self._remove_lists(removed, led_by)

    def forget_history(self) -> None:
        """Remove what is noted of compiles."""
        from ajit._cache.entries.history import remove_history  # noqa: PLC0415  # start-up

        remove_history(self.store.directory)

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
        if self.unlisted:
            return 0  # an entry that is not seen may be there
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

        for folder in base_folders(self.store.directory, base):
            for name in list_names(self.store.directory, folder):
                yield f"{folder}/{name}"

    def _remove_list(self, name: str) -> bool:
        from ajit._cache.entries.lists import remove_list  # noqa: PLC0415  # start-up

        with suppress(OSError):  # it leads nowhere, and is evicted later
            remove_list(self.store.directory, name)
            return True
        return False

    def _list_of(self, key: str) -> str | None:
        """The first digits of the list that led to an entry, "none", or None if it is unknown."""
        fields = self.fields(key)
        return fields["reads"].partition(" ")[0] if "reads" in fields else None

    def _base(self, key: str) -> str:
        found = self.store.manifest(key)
        return found[0].base if isinstance(found, tuple) else ""

    def fields(self, key: str) -> dict[str, str]:
        """What the key of an entry was made of; nothing if it is not good."""
        found = self.store.manifest(key)
        return dict(found[0].key_fields) if isinstance(found, tuple) else {}

    def note(self, name: str, error: OSError) -> None:
        """Tell what could not be listed, once."""
        from ajit.cli.output import tell_warning  # noqa: PLC0415  # start-up

        if name not in self.unlisted:
            tell_warning(f"could not be read: {name}: {error.strerror or error}")
        super().note(name, error)


def _is_needed(digest: str, ours: set[str | None], theirs: set[str | None]) -> bool:
    """Whether a list may lead to an entry that is left, or to none of those that were removed."""
    return bool(theirs) and (digest not in ours or digest in theirs or None in theirs)


def key_text(text: str) -> str:
    """Return an argument that is to be a key or its first digits, as it is.

    Raises:
        NoKey: It is none. A usage error is told before the cache is opened.
    """
    _digits(text)
    return text


def _digits(text: str) -> str:
    """Return the digits of a key, or its first digits, that a text stands for."""
    digits = text.lower().removesuffix("...").removesuffix("…")
    if not HEX_DIGITS.issuperset(digits) or len(digits) > KEY_DIGITS:
        first = f"its first ones, at least {MINIMUM_PREFIX}"
        form = f"give its {KEY_DIGITS} hexadecimal digits, or {first}"
        raise NoKey(f"{text!r} is not a key: {form} {_LISTED}")
    if len(digits) < MINIMUM_PREFIX:
        form = f"give at least {MINIMUM_PREFIX} digits"
        raise NoKey(f"{text!r} is too short for a key: {form} {_LISTED}")
    return digits
