r"""Seals: who vouches for what lies in a cache.

Who can write to a cache can put anything there. A *seal* says that what it covers was made by a
holder of a key: a secret that writers and readers share (HMAC-SHA256), or the private half of a
pair whose public half is all that readers need (Ed25519). Layout::

    offset  size   what
    0       8      magic, b"AJITSEAL"
    8       1      method: 1 for HMAC-SHA256, 2 for Ed25519
    9       8      id of the key
    17      32, 64 tag of the 17 bytes above, a label, NUL, and a SHA-256 of what is sealed

The label tells what is sealed, so that the seal of one thing is not valid for another. Each thing
has in its digest what it is meant for: an entry its key, a failure record its base key, a file of
digests its node, a holder record its lock. The id only says which key to try; it vouches for
nothing.

A seal says who made a thing, and not when. An older thing with a good seal, put back in the place
of a newer one, is good as well.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "NO_TRUST",
    "CannotSeal",
    "HmacKey",
    "Method",
    "NotAuthentic",
    "Required",
    "SealInfo",
    "SealLabel",
    "SealingKey",
    "Trust",
    "is_seal",
    "key_id",
    "seal_at",
]

Method = Literal["hmac", "ed25519"]
Required = Literal["none", "hmac", "signed"]
SealLabel = Literal["entry", "failure", "digests", "holder", "rank", "record"]

_MAGIC = b"AJITSEAL"
_HEAD = struct.Struct("<8sB8s")
_NUMBERS: dict[Method, int] = {"hmac": 1, "ed25519": 2}
_METHODS: dict[int, Method] = {number: method for method, number in _NUMBERS.items()}
_TAG_BYTES: dict[Method, int] = {"hmac": 32, "ed25519": 64}
_ASKED_FOR: dict[Required, Method] = {"hmac": "hmac", "signed": "ed25519"}
_IN_WORDS: dict[Method, str] = {"hmac": "HMAC", "ed25519": "signature"}

_ID_BYTES = 8


class NotAuthentic(ValueError):
    """The seal is not one that is asked for. Internal: a user sees a miss."""


class CannotSeal(ValueError):
    """This process has no key to seal with. Internal: what it makes is used and not kept."""


class SealingKey(Protocol):
    """A key, or the public half of one.

    Attributes:
        method: What its tags are made with.
        id: Its id, `_ID_BYTES` long.
        name: What people call it, or "".
    """

    @property
    def method(self) -> Method:
        """What its tags are made with."""

    @property
    def id(self) -> bytes:
        """What tells it from others."""

    @property
    def name(self) -> str:
        """What people call it, or ""."""

    def tag(self, message: bytes) -> bytes:
        """Return the tag of a message. Only the key that a `Trust` seals with is asked."""

    def matches(self, message: bytes, tag: bytes) -> bool:
        """Whether this key made that tag of the message."""


class SealInfo(msgspec.Struct, frozen=True):
    """A seal, for people.

    Attributes:
        method: ``hmac`` or ``ed25519``.
        key_id: Id of the key, in hex.
        name: What the key is called here, or "".
        state: ``good`` or ``bad``; ``unknown`` if the key is not known here.
    """

    method: Method
    key_id: str
    name: str = ""
    state: Literal["good", "bad", "unknown"] = "unknown"

    def __str__(self) -> str:
        called = f"{self.name}, {self.key_id}" if self.name else self.key_id
        says = {"good": "", "bad": ": does not match", "unknown": ": no such key here"}
        return f"{self.method} ({called}){says[self.state]}"


class HmacKey:
    """A secret that all who seal and all who read share.

    Args:
        secret: The secret.
        name: What people call it, or "".
    """

    method: Method = "hmac"

    def __init__(self, secret: bytes, name: str = "") -> None:
        self._secret = secret
        self.id = hmac.digest(secret, b"ajit key id\0", "sha256")[:_ID_BYTES]
        self.name = name

    def tag(self, message: bytes) -> bytes:
        """Return the tag of a message."""
        return hmac.digest(self._secret, message, "sha256")

    def matches(self, message: bytes, tag: bytes) -> bool:
        """Whether this key made that tag of the message."""
        # In constant time, so that the time tells an attacker nothing about the right tag.
        return hmac.compare_digest(self.tag(message), tag)

    def __repr__(self) -> str:
        return f"<HmacKey {self.name} {self.id.hex()}>"


class Trust:
    """What a process asks of what it reads, and what it seals with.

    Args:
        required: Which kind of seal is asked for; ``none`` takes everything.
        keys: The keys whose seals are good. The first is the one to seal with, if ``seals``.
        seals: Whether this process seals what it makes.

    Attributes:
        required: The kind of seal that is asked for.
        trusted: The keys whose seals are good for that.
        own: The key to seal with, or None.
        key_ids: The ids of those that are trusted; that of ``own`` first, if it is one of them.
    """

    def __init__(
        self, required: Required = "none", keys: Iterable[SealingKey] = (), *, seals: bool = True
    ) -> None:
        ordered = tuple(keys)
        self.required: Required = required
        self._asked_for = _ASKED_FOR.get(required)
        # The first of two keys with one id counts.
        self._keys = {(key.method, key.id): key for key in reversed(ordered)}
        self.own = ordered[0] if ordered and seals else None
        self.trusted = tuple(key for key in ordered if key.method == self._asked_for)
        self.key_ids: tuple[bytes, ...] = tuple(dict.fromkeys(key.id for key in self.trusted))

    @property
    def can_keep(self) -> bool:
        """Whether what this process makes is good for itself and all that trust what it trusts."""
        if self._asked_for is None:
            return True
        return self.own is not None and self.own.method == self._asked_for

    def seal(self, label: SealLabel, digest: bytes) -> bytes:
        """Return a seal of what has this SHA-256; b"" where none is asked for and there is no key.

        Raises:
            CannotSeal: This process asks for seals that it cannot make.
        """
        if not self.can_keep:
            raise CannotSeal("trust is signed, and this process has no signing key")
        if self.own is None:
            return b""
        head = _HEAD.pack(_MAGIC, _NUMBERS[self.own.method], self.own.id)
        return head + self.own.tag(_message(head, label, digest))

    def check(self, label: SealLabel, digest: bytes, seal: bytes) -> SealInfo | None:
        """Return what a seal says; None if there is none and none is asked for.

        Raises:
            NotAuthentic: It is not good, and a good one is asked for.
        """
        info, problem = self._look(label, digest, seal)
        if problem and self._asked_for is not None:
            raise NotAuthentic(problem)
        return info

    def _look(self, label: SealLabel, digest: bytes, seal: bytes) -> tuple[SealInfo | None, str]:
        """Return what a seal says, and why it is not good, or ""."""
        wanted = _IN_WORDS.get(self._asked_for or "hmac")
        parsed = _parsed(seal)
        if parsed is None:
            return None, f"it is not authenticated, and {_a(wanted)} is required"
        method, identity = parsed
        key = self._keys.get(parsed)
        named = SealInfo(method, identity.hex(), "" if key is None else key.name)
        if self._asked_for not in (None, method):
            return named, f"it has {_a(_IN_WORDS[method])}, and {_a(wanted)} is required"
        if key is None:
            return named, f"its {_IN_WORDS[method]} is of key {named.key_id}, not trusted here"
        good = key.matches(_message(seal[: _HEAD.size], label, digest), seal[_HEAD.size :])
        info = SealInfo(method, named.key_id, key.name, "good" if good else "bad")
        problem = f"its {_IN_WORDS[method]} does not match: it was tampered with"
        return info, "" if good else problem

    def __repr__(self) -> str:
        return f"<Trust {self.required}: {list(self._keys.values())}, own {self.own}>"


NO_TRUST = Trust()
"""Takes everything, and seals nothing."""


def key_id(public: bytes) -> bytes:
    """Return the id of a pair of keys by its public half."""
    return hashlib.sha256(b"ajit key id\0" + public).digest()[:_ID_BYTES]


def is_seal(data: bytes | memoryview) -> bool:
    """Whether bytes have the form of a seal."""
    return _parsed(bytes(data)) is not None


def seal_at(data: bytes, offset: int) -> bytes:
    """Return the seal that begins at an offset, whatever follows it; b"" if none does."""
    head = data[offset : offset + _HEAD.size]
    method = _METHODS.get(head[len(_MAGIC)]) if len(head) == _HEAD.size else None
    return b"" if method is None else data[offset : offset + _HEAD.size + _TAG_BYTES[method]]


def _parsed(seal: bytes) -> tuple[Method, bytes] | None:
    if len(seal) < _HEAD.size:
        return None
    magic, number, identity = _HEAD.unpack_from(seal)
    method = _METHODS.get(number)
    if magic != _MAGIC or method is None or len(seal) != _HEAD.size + _TAG_BYTES[method]:
        return None
    return method, identity


def _message(head: bytes, label: SealLabel, digest: bytes) -> bytes:
    return head + label.encode() + b"\0" + digest


def _a(noun: str | None) -> str:
    return f"an {noun}" if noun == "HMAC" else f"a {noun}"
