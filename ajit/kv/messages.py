"""What clients and service say to each other: one struct for each message, bounded.

A message is MessagePack, a map whose ``t`` says what it is. Fields that are not known, numbers out
of range and texts that are too long are refused: what does not fit is no message, and closes its
connection. Digests, slots and checksums are packed into bytes, so that a lookup of 512 chunks is
one string of 8 KiB, and is decoded at once.

A request has an id that no other of its connection in flight has, and is answered once, by a
message with the same id. ``seconds`` is how long its answer is waited for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeAlias, cast

import msgspec
from msgspec import Meta

from ajit.kv.keys import DIGEST_BYTES, MOST_CHUNK_BYTES

__all__ = [
    "MOST_CHUNKS",
    "VERSION",
    "Abort",
    "Answer",
    "Bye",
    "Cancel",
    "Commit",
    "Discard",
    "Done",
    "Failed",
    "Find",
    "Found",
    "Hello",
    "Open",
    "Ping",
    "Pong",
    "ProtocolError",
    "Refused",
    "Release",
    "Request",
    "Reserve",
    "Reserved",
    "Retired",
    "Slabs",
    "Stat",
    "Stats",
    "Welcome",
    "decode_answer",
    "decode_request",
    "encode",
    "pack_checksums",
    "pack_digests",
    "pack_slots",
    "unpack_checksums",
    "unpack_digests",
    "unpack_slots",
]

VERSION = 1
"""Of this protocol. Both sides must have the same."""

MOST_CHUNKS = 4096
"""In one request: a million tokens in chunks of 256."""
MOST_NAMESPACES = 4096
"""Of one connection."""
MOST_SECONDS = 3600.0
MOST_TEXT = 2000

_MOST_NUMBER = 2**62

Id = Annotated[int, Meta(ge=0, le=_MOST_NUMBER)]
Number = Annotated[int, Meta(ge=0, le=_MOST_NUMBER)]
Seconds = Annotated[float, Meta(ge=0, le=MOST_SECONDS)]
SpaceNumber = Annotated[int, Meta(ge=0, lt=MOST_NAMESPACES)]
Digest = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
MaybeDigest = Annotated[bytes, Meta(max_length=DIGEST_BYTES)]
Digests = Annotated[bytes, Meta(max_length=MOST_CHUNKS * DIGEST_BYTES)]
Runs = Annotated[bytes, Meta(max_length=MOST_CHUNKS * 6)]
Checksums = Annotated[bytes, Meta(max_length=MOST_CHUNKS * 8)]
Text = Annotated[str, Meta(max_length=MOST_TEXT)]


class ProtocolError(ValueError):
    """What came is no message of this protocol. The connection is closed."""


class _Message(msgspec.Struct, tag_field="t", forbid_unknown_fields=True):
    """Base of all messages."""


# --- requests ---


class Hello(_Message, tag="hello"):
    """The first message of a client.

    Attributes:
        version: `VERSION` of the client.
        retired: Tokens of former connections of this client whose copies have all ended.
        watches: Whether it only asks how the service is; then it is not counted.
    """

    version: Number
    retired: Annotated[list[Digest], Meta(max_length=64)] = []  # msgspec copies it
    watches: bool = False


class Bye(_Message, tag="bye"):
    """The last one of a client that holds nothing any more. It has no answer."""


class Open(_Message, tag="open"):
    """Give a namespace a number, for this connection: `Done`, or `Refused`."""

    id: Id
    space: SpaceNumber
    digest: Digest
    chunk_bytes: Annotated[int, Meta(ge=1, le=MOST_CHUNK_BYTES)]
    tenant: MaybeDigest = b""


class Find(_Message, tag="find"):
    """Lease the longest part of a prompt that is here: `Found`.

    Attributes:
        wait: How long to wait for a chunk that is being stored right now.
        sums: Whether the checksums are wanted.
    """

    id: Id
    space: SpaceNumber
    digests: Digests
    seconds: Seconds
    wait: Seconds = 0.0
    sums: bool = False


class Release(_Message, tag="release"):
    """End a lease: `Done`."""

    id: Id
    lease: Number


class Reserve(_Message, tag="reserve"):
    """Reserve memory for chunks that follow a parent: `Reserved` or `Refused`."""

    id: Id
    space: SpaceNumber
    parent: MaybeDigest
    digests: Digests
    seconds: Seconds


class Commit(_Message, tag="commit"):
    """Let lookups find the next chunks of a reservation: `Done`, with 1 if they do."""

    id: Id
    reservation: Number
    checksums: Checksums


class Abort(_Message, tag="abort"):
    """Give a reservation up: `Done`."""

    id: Id
    reservation: Number


class Discard(_Message, tag="discard"):
    """Remove a chunk that did not verify: `Done`, with the number of chunks."""

    id: Id
    space: SpaceNumber
    digest: Digest


class Cancel(_Message, tag="cancel"):
    """Answer another request now: `Done`; the other one is answered with `Failed`, or was."""

    id: Id
    request: Id


class Retired(_Message, tag="retired"):
    """The copies of a former connection have ended: `Done`."""

    id: Id
    token: Digest


class Ping(_Message, tag="ping"):
    """Answered by the loop, beside all else: `Pong`."""

    id: Id


class Stat(_Message, tag="stat"):
    """What the service has counted: `Stats`."""

    id: Id


Request: TypeAlias = (
    Hello
    | Bye
    | Open
    | Find
    | Release
    | Reserve
    | Commit
    | Abort
    | Discard
    | Cancel
    | Retired
    | Ping
    | Stat
)

# --- answers ---


class Welcome(_Message, tag="welcome"):
    """The answer to `Hello`. With it comes the descriptor of the health page.

    Attributes:
        boot: Of the service: another one after each start.
        token: Of this connection, for `Retired`.
        slab_bytes: Size of each slab.
    """

    version: Number
    boot: Digest
    token: Digest
    slab_bytes: Number


class Slabs(_Message, tag="slabs"):
    """More slabs; their descriptors come with it. Sent before the first answer that names one."""

    first: Number
    count: Annotated[int, Meta(ge=1, le=64)]


class Done(_Message, tag="done"):
    """It was done."""

    id: Id
    count: Number = 0


class Found(_Message, tag="found"):
    """What a lookup has found; lease 0 if it is nothing."""

    id: Id
    lease: Number
    slots: Runs
    checksums: Checksums = b""
    pending: bool = False


class Reserved(_Message, tag="reserved"):
    """Slots to be written, after the first digests, which are here already."""

    id: Id
    reservation: Number
    first: Number
    slots: Runs


class Refused(_Message, tag="refused"):
    """It was not done, and that is no error. See `ajit.kv.chunk.Refusal`."""

    id: Id
    reason: Text
    retry_after: Seconds = 0.0


class Failed(_Message, tag="failed"):
    """It was not done.

    Attributes:
        code: ``deadline``, ``cancelled``, ``unknown`` (no such namespace), ``version`` or
            ``internal``.
        message: For readers.
    """

    id: Id
    code: Text
    message: Text


class Pong(_Message, tag="pong"):
    """The loop lives."""

    id: Id
    boot: Digest
    lag_seconds: float


class Stats(_Message, tag="stats"):
    """What the service has counted: see `ajit.kv.statistics`."""

    id: Id
    values: dict[str, int | float | str]


Answer: TypeAlias = Welcome | Slabs | Done | Found | Reserved | Refused | Failed | Pong | Stats

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(Request)
_answers = msgspec.msgpack.Decoder(Answer)


def encode(message: _Message) -> bytes:
    """Return a message as it goes into a frame."""
    return _encoder.encode(message)


def decode_request(payload: bytes) -> Request:
    """Return what a client says.

    Raises:
        ProtocolError: It is no request.
    """
    request = cast("Request", _decoded(_requests, payload))
    digests = getattr(request, "digests", b"")
    if len(digests) % DIGEST_BYTES or len(getattr(request, "checksums", b"")) % 8:
        raise ProtocolError("digests or checksums are cut short")
    if len(getattr(request, "parent", b"")) not in (0, DIGEST_BYTES):
        raise ProtocolError("the parent is no digest")
    return request


def decode_answer(payload: bytes) -> Answer:
    """Return what a service says.

    Raises:
        ProtocolError: It is no answer.
    """
    answer = cast("Answer", _decoded(_answers, payload))
    if len(getattr(answer, "slots", b"")) % 6 or len(getattr(answer, "checksums", b"")) % 8:
        raise ProtocolError("slots or checksums are cut short")
    return answer


def _decoded(decoder: msgspec.msgpack.Decoder[Any], payload: bytes) -> object:
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ProtocolError(f"no message: {exc}") from exc


# --- what is packed ---


def pack_digests(digests: Iterable[bytes]) -> bytes:
    """Join digests."""
    return b"".join(digests)


def unpack_digests(packed: bytes) -> list[bytes]:
    """The digests in a string."""
    return [packed[i : i + DIGEST_BYTES] for i in range(0, len(packed), DIGEST_BYTES)]


_RUN = struct.Struct("<IH")
_MOST_RUN = 2**16 - 1


def pack_slots(slots: Sequence[int]) -> bytes:
    """Write slots as runs, each a first slot and a length: neighbours were reserved together."""
    packed = bytearray()
    i = 0
    while i < len(slots):
        first, length = slots[i], 1
        while i + length < len(slots) and slots[i + length] == first + length < 2**32:
            length += 1
        length = min(length, _MOST_RUN)
        packed += _RUN.pack(first, length)
        i += length
    return bytes(packed)


def unpack_slots(packed: bytes) -> list[int]:
    """The slots of runs.

    Raises:
        ProtocolError: They are more than a request can ask for.
    """
    slots: list[int] = []
    for first, length in _RUN.iter_unpack(packed):
        slots.extend(range(first, first + length))
        if len(slots) > MOST_CHUNKS:
            raise ProtocolError("too many slots")
    return slots


def pack_checksums(checksums: Sequence[int]) -> bytes:
    """Join checksums, unsigned 64-bit.

    Raises:
        OverflowError: One is none.
    """
    return b"".join(checksum.to_bytes(8, "little") for checksum in checksums)


def unpack_checksums(packed: bytes) -> list[int]:
    """The checksums in a string."""
    return [value for (value,) in struct.iter_unpack("<Q", packed)]
