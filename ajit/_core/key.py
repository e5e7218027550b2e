"""The key: SHA-256 over everything that decides what a compile gives, and nothing else.

The parts go in a fixed order, each with its label and length before it, so that no two different
requests have the same bytes: schema version; compiler; toolchain fingerprint; arch; macros sorted
by name, then flags in the order given; source; entry points and name expressions; virtual headers;
header closure. There is no absolute path, no environment and no time in it: include *paths* are
left out, header *contents* are in, each under the number of its include directory. The label of a
spec and the declared parameter types are left out as well, for they do not reach the compiler.

A key keeps its parts in short form (a value, or a digest where the value is long), so that
`explain` can say why two keys differ.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ajit._core.spec import Spec

__all__ = ["KEY_SCHEMA", "Difference", "Key", "ToolchainId", "explain", "is_key", "make_key"]

KEY_SCHEMA = 2
"""Raised when the meaning of a part changes; every older entry is then a miss.

1. The first.
2. A header is called by its include directory's number and its path in it, ``0/y.h``. When it was
   called ``y.h``, two directories that swapped theirs kept the key.
"""

_KEY = re.compile(r"[0-9a-f]{64}")
_SHORT_VALUE = 96


@dataclass(frozen=True, slots=True)
class ToolchainId:
    """What of a toolchain reaches the key.

    Attributes:
        name: ``nvrtc``, ``nvcc`` or ``host``.
        version: Full version, as the compiler says it.
        fingerprint: Digest of the compiler itself and of the headers that come with it.
    """

    name: str
    version: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class Key:
    """A key and what it was made of.

    Attributes:
        hex: 64 lower-case hex digits; the name of the entry.
        fields: Part label to short value, in key order.
    """

    hex: str
    fields: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return self.hex


@dataclass(frozen=True, slots=True)
class Difference:
    """A part in which two keys differ; None where a key does not have it."""

    field: str
    a: str | None
    b: str | None


def make_key(
    spec: Spec, toolchain: ToolchainId, arch: str, closure: Iterable[tuple[str, str]]
) -> Key:
    """Join a spec with what was found on this machine.

    Args:
        spec: What was asked for.
        toolchain: The compiler that would be used.
        arch: The architecture that would be built for.
        closure: Label and content digest of every header reached, in any order. A label says in
            which include directory it lies, and not where that is.
    """
    pieces: list[bytes] = []
    fields: list[tuple[str, str]] = []
    for label, value in _parts(spec, toolchain, arch, closure):
        name, raw = label.encode(), value.encode()
        pieces += (len(name).to_bytes(8, "little"), name, len(raw).to_bytes(8, "little"), raw)
        fields.append((label, _short(value, raw)))
    return Key(hashlib.sha256(b"".join(pieces)).hexdigest(), tuple(fields))


def explain(
    a: Key | Mapping[str, str] | Iterable[tuple[str, str]],
    b: Key | Mapping[str, str] | Iterable[tuple[str, str]],
) -> list[Difference]:
    """Say in which parts two keys differ, in key order. Takes keys, or the fields of a manifest."""
    left, right = _fields(a), _fields(b)
    labels = [*left, *(label for label in right if label not in left)]
    return [
        Difference(label, left.get(label), right.get(label))
        for label in labels
        if left.get(label) != right.get(label)
    ]


def is_key(text: str) -> bool:
    """Whether a text has the form of a key. Only such a text is ever made into a file name."""
    return _KEY.fullmatch(text) is not None


def _parts(
    spec: Spec, toolchain: ToolchainId, arch: str, closure: Iterable[tuple[str, str]]
) -> Iterable[tuple[str, str]]:
    yield "schema", str(KEY_SCHEMA)
    yield "compiler", toolchain.name
    yield "compiler version", toolchain.version
    yield "toolchain", toolchain.fingerprint
    yield "arch", arch
    for name, value in spec.defines:
        # A bare -DNAME and -DNAME= are different requests.
        yield f"define {name}", "" if value is None else f"={value}"
    for index, option in enumerate(spec.options):
        yield f"option {index}", option
    yield "source", spec.source
    for index, entry in enumerate(spec.entry_names):
        yield f"entry {index}", entry
    for name, text in spec.headers:
        yield f"virtual header {name}", text
    for name, content in sorted(closure):
        yield f"header {name}", content
    if spec.extra_digest is not None:
        yield "extra digest", spec.extra_digest


def _short(value: str, raw: bytes) -> str:
    if len(value) <= _SHORT_VALUE and "\n" not in value:
        return value
    return f"sha256:{hashlib.sha256(raw).hexdigest()} ({len(raw)} bytes)"


def _fields(key: Key | Mapping[str, str] | Iterable[tuple[str, str]]) -> dict[str, str]:
    if isinstance(key, Key):
        key = key.fields
    values: dict[str, list[str]] = {}
    for label, value in key.items() if isinstance(key, Mapping) else key:
        # The closure is not ours: should two headers have one label, no value hides another.
        values.setdefault(label, []).append(value)
    return {label: ", ".join(several) for label, several in values.items()}
