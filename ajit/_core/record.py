"""The record: what a server used, as lines that can be run again at its next start.

A record is text. Each line has the first 16 digits of its SHA-256, a blank, and one JSON object::

    9c56cc51b374c3ba {"line":"text","digest":"ab12...","text":"__global__ void ..."}
    3f2c9a87ad10b5f4 {"line":"use","kind":"spec","id":"77aa...","count":1,...}
    0d1e8c3a55b0f2c1 {"line":"again","id":"77aa...","count":40}

- A *use* says that a kernel was used: of which kind, through which peer ("" is ajit itself), for
  which arch, how often, how long after the start first, and how to build it again. What
  a build looks like is its kind's own business: who does not know the kind passes the line on.
- A *text* is a long text that builds name by its SHA-256, so that a source which is specialised in
  a hundred ways is there once.
- *Again* adds to the count of a use.

The id of a use is a digest of kind, peer, arch and build. So the same kernel has the same id in
every process, and to merge records is to add up their counts. Lines may come in any order. One that
is torn, as by a process that was killed while it wrote, does not fit its digest: it is passed over,
and so is one that a later version writes and this one does not know.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import msgspec

from ajit._printable import printable_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

__all__ = [
    "MAX_LINE_BYTES",
    "MOST_SEALS",
    "Again",
    "Record",
    "Text",
    "Use",
    "decode_line",
    "encode_line",
    "read_lines",
    "text_digest",
    "use_head",
    "use_id",
]

MAX_LINE_BYTES = 512 * 1024 * 1024
"""A longer line is not read: a source of 64 MiB in which each character is escaped."""

MOST_COUNT = 2**53
"""As far as every reader of JSON can count."""

MOST_SEALS = 64
"""Of one use: as many as a process may know keys."""

_DIGITS = 16
_ID_DIGITS = 32

Short = Annotated[str, msgspec.Meta(max_length=4096)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_COUNT)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class Use(msgspec.Struct, frozen=True, kw_only=True, tag_field="line", tag="use"):
    """A kernel that was used.

    Attributes:
        kind: What the build is: ``spec``, or what an adapter calls its own.
        id: Digest of kind, peer, arch and build.
        peer: Whose kernel it is: ``triton``, ``flashinfer``, ...; "" is ajit's own.
        name: A label, for people.
        arch: What it was compiled for.
        count: How often it was asked for.
        first_use_seconds: From the start of its runtime to the first request for it; the least one
            of all processes.
        wait_seconds: How long that request waited; the longest one of all processes.
        last_used: Unix time, to about a minute.
        build: How to build it again, as its kind has it.
        seals: Who vouches for it, of kinds that ask for that (`ajit._core.record_seal`).
    """

    kind: Short
    id: Short
    peer: Short = ""
    name: Short = ""
    arch: Short = ""
    count: Count = 1
    first_use_seconds: Seconds = 0.0
    wait_seconds: Seconds = 0.0
    last_used: Seconds = 0.0
    build: msgspec.Raw
    seals: Annotated[tuple[Short, ...], msgspec.Meta(max_length=MOST_SEALS)] = ()


class Text(msgspec.Struct, frozen=True, tag_field="line", tag="text"):
    """A long text, by its digest."""

    digest: Short
    text: str


class Again(msgspec.Struct, frozen=True, kw_only=True, tag_field="line", tag="again"):
    """A use went on."""

    id: Short
    count: Count
    last_used: Seconds = 0.0


Line = Use | Text | Again

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def text_digest(text: str) -> str:
    """Return the digest by which a build names a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def use_id(kind: str, peer: str, arch: str, build: bytes) -> str:
    """Return the id of a use."""
    return hashlib.sha256(use_head(kind, peer, arch) + build).hexdigest()[:_ID_DIGITS]


def use_head(kind: str, peer: str, arch: str) -> bytes:
    """Return what stands before a build in what is digested of a use."""
    return f"{kind}\0{peer}\0{arch}\0".encode()


def encode_line(line: Line) -> bytes:
    """Return the bytes of a line, its end included.

    Raises:
        UnicodeEncodeError: It has a path that is no UTF-8.
    """
    data = _encoder.encode(line)  # without a line break: JSON escapes those in texts
    return _check(data) + b" " + data + b"\n"


def decode_line(raw: bytes) -> Line | None:
    """Return what a line says, without its end; None if it is torn, damaged, or not known."""
    check, _, data = raw.partition(b" ")
    if len(check) != _DIGITS or check != _check(data):
        return None
    try:
        line = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(line, Text):
        return line if line.digest == text_digest(line.text) else None
    if isinstance(line, Use):
        if line.id != use_id(line.kind, line.peer, line.arch, bytes(line.build)):
            return None  # or it could stand for a line that is trusted
        name, peer = printable_line(line.name), printable_line(line.peer)
        return msgspec.structs.replace(line, name=name, peer=peer)
    return line


def _check(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest()[:_DIGITS].encode()


@dataclass
class Record:
    """What lines say together, whatever file each of them is from.

    Attributes:
        uses: By id.
        texts: By digest.
        damaged: Lines that were passed over, but for torn ones.
        torn: Files whose last line is torn, as by a process that was killed while it wrote.
    """

    uses: dict[str, Use] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    damaged: int = 0
    torn: int = 0
    _again: dict[str, Again] = field(default_factory=dict)
    _safe: set[str] = field(default_factory=set)

    def add(self, line: Line | None, *, doubtful: bool = False) -> None:
        """Take a line in; None is one that could not be read.

        Args:
            line: What it says.
            doubtful: Whether other users may have put it there.
        """
        match line:
            case Use():
                if not doubtful:
                    self._safe.add(line.id)
                known = self.uses.get(line.id)
                self.uses[line.id] = line if known is None else _joined(known, line)
            case Text():
                self.texts[line.digest] = line.text
            case Again():
                known_again = self._again.get(line.id, Again(id=line.id, count=0))
                self._again[line.id] = Again(
                    id=line.id,
                    count=min(known_again.count + line.count, MOST_COUNT),
                    last_used=max(known_again.last_used, line.last_used),
                )
            case None:
                self.damaged += 1

    def is_doubtful(self, use: Use) -> bool:
        """Whether only what other users may write to has this use."""
        return use.id not in self._safe

    def drop_doubtful(self, kinds: Collection[str]) -> int:
        """Forget the uses of some kinds that only what others may write to has; return how many."""
        found = [use for use in self.uses.values() if use.kind in kinds and self.is_doubtful(use)]
        for use in found:
            del self.uses[use.id]
        return len(found)

    def finished(self) -> list[Use]:
        """Return the uses with all their counts, those that were needed first before the others."""
        whole = [self._counted(use) for use in self.uses.values()]
        return sorted(whole, key=lambda use: (use.first_use_seconds, use.id))

    def lines(self) -> Iterator[Line]:
        """Yield lines that say the same: texts first, and only those that some build may name."""
        uses = self.finished()
        builds = b"\n".join(bytes(use.build) for use in uses)
        for digest, text in self.texts.items():
            if digest.encode() in builds:
                yield Text(digest, text)
        yield from uses

    def _counted(self, use: Use) -> Use:
        again = self._again.get(use.id)
        if again is None:
            return use
        return msgspec.structs.replace(
            use,
            count=min(use.count + again.count, MOST_COUNT),
            last_used=max(use.last_used, again.last_used),
        )


def _joined(a: Use, b: Use) -> Use:
    return msgspec.structs.replace(
        a,
        name=a.name or b.name,
        count=min(a.count + b.count, MOST_COUNT),
        first_use_seconds=min(a.first_use_seconds, b.first_use_seconds),
        wait_seconds=max(a.wait_seconds, b.wait_seconds),
        last_used=max(a.last_used, b.last_used),
        seals=tuple(dict.fromkeys((*b.seals, *a.seals)))[:MOST_SEALS],
    )


def read_lines(raw: Iterable[bytes], record: Record, *, doubtful: bool = False) -> None:
    """Take the lines of one file into a record. The last one may be torn."""
    for line in raw:
        if not line.endswith(b"\n"):
            record.torn += 1
        elif text := line[:-1]:  # a process that goes on after a short write begins with a break
            record.add(decode_line(text), doubtful=doubtful)
