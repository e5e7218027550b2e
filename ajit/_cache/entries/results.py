"""What looking for an entry and publishing one comes to, and how an entry's file is called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ajit._cache.files import fs
from ajit._core.entry import Artifact, EntryInvalid, EntryOfOtherVersion, Manifest
from ajit._core.seal import SealInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._cache.files.directory import CacheDirectory

__all__ = [
    "SUFFIX",
    "TOP",
    "Described",
    "Found",
    "Lookup",
    "Lost",
    "Missing",
    "PublishFailed",
    "PublishResult",
    "Published",
    "Rejected",
    "entry_name",
    "is_entry_key",
    "look_up",
    "reason_of",
]

TOP = "entries"
SUFFIX = ".ajit"

is_entry_key = re.compile(r"[0-9a-f]{64}").fullmatch
"""Matches a text that may become a file name. As `ajit._core.key.is_key`, but ten times faster."""


# Structs and not dataclasses: a fresh process reads hundreds of entries, and a frozen dataclass
# takes a microsecond to make, a tenth of what a small entry takes to read.


class Found(msgspec.Struct, frozen=True):
    """The entry is there and verified.

    Attributes:
        artifact: What it holds.
        size_bytes: Size of its file.
        seal: Its seal, if it was asked for and has one.
    """

    artifact: Artifact
    size_bytes: int
    seal: SealInfo | None = None


class Described(NamedTuple):
    """What an entry says of itself, verified.

    Attributes:
        manifest: Its manifest.
        size_bytes: Size of the compiled bytes.
        seal: Its seal, or None.
    """

    manifest: Manifest
    size_bytes: int
    seal: SealInfo | None


class Missing(msgspec.Struct, frozen=True):
    """There is no entry.

    Attributes:
        reason: "", or why an entry that may exist cannot be read.
    """

    reason: str = ""


class Rejected(msgspec.Struct, frozen=True):
    """There is an entry, but it did not verify: it counts as a miss and is replaced.

    Attributes:
        reason: Why not.
        other_version: Whether another version of ajit wrote it. No look-up meets such an entry.
    """

    reason: str
    other_version: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """The entry is on disk, and was read back.

    Attributes:
        method: The call that gave the file its name.
        size_bytes: Size of its file.
    """

    method: fs.PublishMethod
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Lost:
    """A good entry of that key was there already, and was not touched.

    The caller keeps its bytes.
    """


@dataclass(frozen=True, slots=True)
class PublishFailed:
    """Nothing was published and nothing is left behind; the caller keeps its bytes."""

    reason: str


Lookup = Found | Missing | Rejected
PublishResult = Published | Lost | PublishFailed


def entry_name(key: str) -> str:
    """Return the relative name of the entry of a key.

    Raises:
        ValueError: The text is not a key.
    """
    if is_entry_key(key) is None:
        raise ValueError(f"not a key: {key[:80]!r} (64 hexadecimal digits)")
    return f"{TOP}/{key[:2]}/{key}{SUFFIX}"


def look_up(directory: CacheDirectory, read: Callable[[], Found]) -> Lookup:
    """Read an entry or a bundle, and return what that comes to. Raises for no failure of the disk.

    Args:
        directory: The cache that it is in.
        read: Reads and verifies it.
    """
    try:
        return read()
    except FileNotFoundError:
        return Missing()
    except fs.UnusableFile as exc:
        return Rejected(reason_of(exc))
    except (OSError, MemoryError) as exc:
        # An I/O error, a directory that must not be used: the kernel is compiled instead.
        return Missing("" if directory.access == "none" else reason_of(exc))
    except EntryInvalid as exc:
        return Rejected(str(exc), isinstance(exc, EntryOfOtherVersion))


def reason_of(exc: Exception) -> str:
    """Return an error of the disk in words."""
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.strerror} ({exc.filename})" if exc.filename else exc.strerror
    return str(exc) or "out of memory"
