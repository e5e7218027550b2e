"""Reading lists: what a compile read and what it looked for in vain, and the key made from it.

No one can say before a compile what its compiler will read: a preprocessor decides that while it
works, and every compiler has its own rules. So a compile's reads are recorded, and a key has two
levels:

- The *base key* (`ajit._core.key`) is known before a compile, without a file being read.
- The *reading list* names every file that the compile read, and every place where it looked and
  found nothing. It holds no content, is immutable, and its own digest is its name.
- The *key* of an entry is made of the base key, a reading list, and the content of what is listed::

      key = first 16 digits of base + last 48 of SHA-256(base, digest of list, state of each read)

A look-up takes the lists of a base, finds the state of each read today, and gets the one key under
which such an entry would lie. A changed file gives another key. Where a file appeared that a
compile looked for in vain, the list does not hold.

The first 16 digits are those of the base, so that a lock, a log line and an entry that belong
together are called alike wherever 16 digits are shown.

A read names no directory of the machine but a *place*: the number of an include directory, the
toolchain, or, for a file that lies elsewhere, ``/``, with its whole path as the name.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec

from ajit._core.job import ReadKind
from ajit._core.key import Key, is_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "ABSENT",
    "BASE_DIGITS",
    "FILE",
    "FOLDER",
    "NOTHING_READ",
    "PRESENT",
    "READS",
    "SAME",
    "TOOLCHAIN_FILES",
    "Read",
    "ReadingList",
    "ReadingListInvalid",
    "belongs_to_toolchain",
    "decode_list",
    "digits_of_list",
    "entry_key",
    "key_of",
    "toolchain_files",
    "unshared_key",
]

ABSENT = "absent"
"""State of a file that is not there."""

PRESENT = "present"
"""State of a file whose content was not read: its existence was all that was asked for."""

FOLDER = "folder"
"""State of a directory where a file was looked for, or of an include directory itself."""

SAME = "same"
"""State of a place that left a trace in the result, and is what it was."""

MAX_READS = 50_000
"""A list of more is refused. CUTLASS and CCCL together reach some thousands."""

_LIST_FORMAT = 1

BASE_DIGITS = 16
"""Digits that a base key and the keys of its entries share."""

READS = "reads"
"""Label of the part of a key that says which reading list it has."""

FILE = "file "
"""How the label of a file in a key begins; place and name follow."""

TOOLCHAIN_FILES = "toolchain's files"
"""Label of the part of a key that stands for all files of the toolchain that were read."""


class ReadingListInvalid(ValueError):
    """The bytes are not a reading list of that name. Internal: the list counts as not there."""


class Read(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file of a reading list.

    Attributes:
        place: ``i0``, ``i1``, ...: an include directory of the spec; ``t0``, ...: a directory of
            headers that the toolchain is given; ``tool``: the root of the toolchain's program;
            ``path``: a program that was started by its name; ``/``: none of these, and the name is
            a path.
        name: The path in that place, as the compiler asked for it.
        kind: ``file`` (it was read), ``absent`` (it was looked for and not there), ``present`` (it
            was there, and not read), ``same`` (the place itself left a trace in the result; the
            name is a digest of its path).
    """

    place: str
    name: str
    kind: ReadKind

    def __str__(self) -> str:
        return self.name if self.place == "/" else f"{self.place}/{self.name}"

    def in_place(self, place: str) -> Read:
        """Return the read of a file of the same name in another place."""
        return Read(place, self.name, self.kind)


class ReadingList(msgspec.Struct, frozen=True):
    """What a compile read.

    Attributes:
        reads: In the order in which they were first asked for; none is listed twice.
    """

    reads: tuple[Read, ...]

    def encode(self) -> bytes:
        """Return the list as the bytes of a file."""
        return msgspec.msgpack.encode((_LIST_FORMAT, self.reads))

    @property
    def digest(self) -> str:
        """SHA-256 of the encoded list in hex."""
        return hashlib.sha256(self.encode()).hexdigest()


NOTHING_READ = ReadingList(())
"""The list of a compile that read nothing but its source. It is never stored: every base has it."""

# The limit is the decoder's: before it has made an object for each of a million.
_Reads: TypeAlias = Annotated[tuple[Read, ...], msgspec.Meta(max_length=MAX_READS)]
_decoder = msgspec.msgpack.Decoder(tuple[int, _Reads])


def decode_list(data: bytes, digest: str) -> ReadingList:
    """Return the list that a file holds.

    Args:
        data: The whole file.
        digest: Its name.

    Raises:
        ReadingListInvalid: The bytes are not those that the digest was made of.
    """
    if hashlib.sha256(data).hexdigest() != digest:
        raise ReadingListInvalid("its name is not the digest of its content")
    try:
        version, reads = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ReadingListInvalid(f"it does not decode: {exc}") from None
    if version != _LIST_FORMAT:
        raise ReadingListInvalid(f"format {version}")
    return ReadingList(reads)


def entry_key(base: str, digest: str, states: Sequence[str]) -> str:
    """Return the hex key of an entry.

    Args:
        base: The hex base key.
        digest: The digest of the reading list.
        states: For each of its reads, what it is today: a SHA-256 in hex, `ABSENT`, `PRESENT`,
            `FOLDER` or `SAME`.
    """
    # All parts have a fixed alphabet without a space, so that joined with spaces they cannot be
    # taken for others.
    text = " ".join((base, digest, *states))
    return _joined(base, hashlib.sha256(text.encode()).hexdigest())


def key_of(base: Key, made: ReadingList, states: Sequence[str]) -> Key:
    """Return the same key, with what it was made of."""
    digest = made.digest
    fields = _fields(digest, made.reads, states) if made.reads else ((READS, "none"),)
    return Key(entry_key(base.hex, digest, states), (*base.fields, *fields))


def unshared_key(base: Key, unique: str) -> Key:
    """Return a key that no look-up ever makes, for an artifact that must not be published.

    Args:
        base: The base key.
        unique: A text that is new each time.
    """
    digest = hashlib.sha256(f"unshared {base.hex} {unique}".encode()).hexdigest()
    return Key(_joined(base.hex, digest), (*base.fields, (READS, "unknown")))


def _joined(base: str, digest: str) -> str:
    if not is_key(base):
        raise ValueError(f"not a key: {base[:80]!r}")
    return base[:BASE_DIGITS] + digest[BASE_DIGITS:]


def _fields(digest: str, reads: Sequence[Read], states: Sequence[str]) -> Iterable[tuple[str, str]]:
    """What `explain` can tell of a list: the user's files one by one, the others together."""
    counts = Counter(read.kind for read in reads)
    counted = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
    yield READS, f"{digest[:BASE_DIGITS]} ({counted})"
    for read, state in zip(reads, states, strict=True):
        if read.kind == "file" and not belongs_to_toolchain(read):
            yield f"{FILE}{read}", state
    if together := toolchain_files(reads, states):
        yield TOOLCHAIN_FILES, together


def digits_of_list(value: str) -> str:
    """Return the first digits of a reading list, from the value of `READS` in a key.

    "" is the list of a compile that read nothing.
    """
    digits = value.partition(" ")[0]
    return "" if digits in ("none", "unknown") else digits


def toolchain_files(reads: Sequence[Read], states: Sequence[str]) -> str | None:
    """Return the value of `TOOLCHAIN_FILES` in a key; None if none of them was read."""
    parts: list[str] = []
    for read, state in zip(reads, states, strict=True):
        if read.kind == "file" and belongs_to_toolchain(read):
            parts += (str(read), state)
    if not parts:
        return None
    whole = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"sha256:{whole} ({len(parts) // 2} files)"


def belongs_to_toolchain(read: Read) -> bool:
    """Whether a file came with the compiler, and not from the user."""
    return read.place == "tool" or read.place.startswith("t")
