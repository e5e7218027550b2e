"""Failure records: a failed compile is not repeated by every process that waited for it.

Eight ranks want one kernel whose compile fails after five minutes. Without a record each would get
the lease in turn and fail again, for forty minutes in all. With a record, a process that gets the
lease looks here before it compiles, and raises the same error with the same log.

Only errors of the source are recorded, never those of the environment (a killed or missing
compiler), which say nothing about the next try. A record belongs to one base key, so a changed
source has none; it lists what the compile read, so a mended header ends it; and it is valid for a
short time only. Like an entry it is one file, written whole.

A second line may have a seal of the first (`ajit._core.seal`). Who asks for seals ignores a record
without a good one: otherwise any writer to the store could keep every process from compiling.
"""

from __future__ import annotations

import binascii
import hashlib
import platform
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from ajit._cache.files import fs
from ajit._core.reads import Read
from ajit._core.seal import NO_TRUST, CannotSeal, NotAuthentic, Trust
from ajit._core.std_headers import missing_std_note
from ajit._printable import printable, printable_line
from ajit.errors import CacheError, CompileError, UnknownEntryPoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit._cache.files.directory import CacheDirectory

__all__ = ["BELIEVED_SECONDS", "Failure", "FailureStore"]

TOP = "failures"

BELIEVED_SECONDS = 30.0
"""Pretty arbitrary. Waiters look within milliseconds; a person who tries again should not wait."""

MAX_LOG_CHARACTERS = 256 * 1024

MAX_FILE_BYTES = 32 * 1024 * 1024
"""A larger file is not even read. Pretty arbitrary: the reads of CUTLASS take a megabyte."""


class Conditions(Protocol):
    """Tells the state of reads on this machine, see `ajit._compile.recorder.today`."""

    def __call__(self, reads: Sequence[Read]) -> tuple[str, ...] | None:
        """Return the state of each, or None if they do not hold."""


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    kind: Literal["CompileError", "UnknownEntryPoint"]
    key: str
    name: str
    compiler: str
    entry: str
    log: str
    host: str
    created: float
    reads: tuple[Read, ...] = ()
    states: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    nearest: str = ""


_decoder = msgspec.json.Decoder(_Record)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A compile that failed, for people: all that is known of it, cleaned.

    Attributes:
        key: Hex base key.
        name: Label of the spec.
        compiler: Compiler and version.
        entry: The entry point that the source does not have, or "".
        log: What the compiler printed, cut.
        created: Unix time in seconds.
    """

    key: str
    name: str
    compiler: str
    entry: str
    log: str
    created: float


class FailureStore:
    """The failure records of one cache directory. Its methods block and never raise.

    Args:
        directory: Where they are kept.
        believed_seconds: How long a record is valid; 0 keeps none.
        trust: Which seal of a record is asked for.
    """

    def __init__(
        self,
        directory: CacheDirectory,
        believed_seconds: float = BELIEVED_SECONDS,
        trust: Trust = NO_TRUST,
    ) -> None:
        self._directory = directory
        self._trust = trust
        self._believed_seconds = believed_seconds

    def record(
        self, error: CompileError, reads: Sequence[Read] = (), states: Sequence[str] = ()
    ) -> bool:
        """Leave a record for the waiters of the same key. Call it before the release.

        Args:
            error: The error; its key is the base key.
            reads: What the compile read.
            states: The state of each.

        Returns:
            False if it could not be written: then each waiter compiles for itself.
        """
        record = _Record(
            kind="UnknownEntryPoint" if isinstance(error, UnknownEntryPoint) else "CompileError",
            key=error.key,
            name=error.name,
            compiler=error.compiler,
            entry=getattr(error, "entry", ""),
            log=error.log[:MAX_LOG_CHARACTERS],
            host=platform.node(),
            created=time.time(),
            reads=tuple(reads),
            states=tuple(states),
            kernels=getattr(error, "kernels", ()),
            nearest=getattr(error, "nearest", ""),
        )
        if self._directory.access != "writable" or not self._believed_seconds:
            return False
        with suppress(OSError, CacheError, CannotSeal):
            name, data = _file_name(error.key), msgspec.json.encode(record)
            fs.publish_file(self._directory, name, self._sealed(data), replace=True)
            return True
        return False

    def recall(self, key: str, states_of: Conditions = lambda _: ()) -> CompileError | None:
        """Return the error of a compile that failed just now, if one did.

        A record that is too old, from a clock that is ahead, not readable, or of a compile that
        read other files than there are today, is ignored.

        Args:
            key: The hex base key.
            states_of: Tells what files are today.
        """
        record = self._read(key)
        if (
            record is None
            or record.key != key
            or not 0 <= time.time() - record.created < self._believed_seconds
            or (record.reads and states_of(record.reads) != record.states)
        ):
            return None
        return _error(record)

    def recent(self, most: int) -> list[Failure]:
        """Return the failures of which there is a record still, for people; the newest first.

        Args:
            most: How many.
        """
        found = []
        for _, key in fs.list_files(self._directory, TOP, ".json", ""):
            record = self._read(key)
            if record is not None:
                found.append(record)
        found.sort(key=lambda record: record.created, reverse=True)
        return [_told(record) for record in found[:most]]

    def _read(self, key: str) -> _Record | None:
        try:
            data = self._opened(fs.read_file(self._directory, _file_name(key), MAX_FILE_BYTES))
            return None if data is None else _decoder.decode(data)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, MemoryError):
            return None

    def _sealed(self, data: bytes) -> bytes:
        """Return the bytes of the file: the record's line, and the line of its seal if it has one.

        Raises:
            CannotSeal: This process asks for seals that it cannot make.
        """
        seal = self._trust.seal("failure", hashlib.sha256(data).digest())
        return data + b"\n" + seal.hex().encode() if seal else data

    def _opened(self, data: bytes) -> bytes | None:
        """Return the record's line; None if it must be authentic and is not."""
        line, _, written = data.partition(b"\n")  # JSON as msgspec writes it has no line break
        try:
            seal = binascii.unhexlify(written)
            self._trust.check("failure", hashlib.sha256(line).digest(), seal)
        except (ValueError, NotAuthentic):  # what is no hex is a ValueError
            return None
        return line


def _file_name(key: str) -> str:
    return f"{TOP}/{key[:2]}/{key}.json"


def _told(record: _Record) -> Failure:
    return Failure(
        key=printable_line(record.key),
        name=printable_line(record.name),
        compiler=printable_line(record.compiler),
        entry=printable_line(record.entry),
        log=printable(record.log[:MAX_LOG_CHARACTERS]),
        created=record.created,
    )


def _error(record: _Record) -> CompileError:
    facts = {
        "name": printable_line(record.name),
        "key": record.key,
        "compiler": printable_line(record.compiler),
        "log": printable(record.log[:MAX_LOG_CHARACTERS]),
    }
    if record.kind == "UnknownEntryPoint":
        entry = printable_line(record.entry)
        kernels = [printable_line(kernel) for kernel in record.kernels]
        nearest = printable_line(record.nearest)
        error: CompileError = UnknownEntryPoint(
            entry=entry, kernels=kernels, nearest=nearest, **facts
        )
    else:
        error = CompileError(**facts)
    if note := missing_std_note(error.compiler, error.log):
        error.add_note(note)
    error.add_note(
        f"compiled and failed just now on {printable_line(record.host)}; not tried again here"
    )
    return error
