"""The base key: SHA-256 over everything that is known before a compile and decides what it gives.

The parts go in a fixed order, each with its label and length before it, so that no two different
requests have the same bytes: schema and format version; compiler; toolchain fingerprint; arch;
macros sorted by name, then flags in the order given; source; entry points and name expressions;
virtual headers; the number of include directories, and how they lie in each other. There is no
absolute path, no environment and no time in it, and no file is read for it. What a compile reads is
the other part of an entry's key, see `ajit._core.reads`. The label of a spec and the declared
parameter types are left out, for they do not reach the compiler.

A key keeps its parts in short form (a value, or a digest where the value is long), so that
`explain` can say why two keys differ.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._core.entry import FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ajit._core.spec import Spec

__all__ = [
    "KEY_SCHEMA",
    "Difference",
    "Key",
    "ToolchainId",
    "explain",
    "is_key",
    "key_of_parts",
    "make_base_key",
]

KEY_SCHEMA = 4
"""Raised when the meaning of a part changes; every older entry is then a miss.

1. The first.
2. A header is called by its include directory's number and its path in it, ``0/y.h``. When it was
   called ``y.h``, two directories that swapped theirs kept the key.
3. No header is in a base key: the compile's own reads are in the entry's key.
4. How include directories lie in each other is in it, and a reading list names the directories
   whose paths a text spells out. A list of files that were found in another way elsewhere held.
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


def make_base_key(
    spec: Spec,
    toolchain: ToolchainId,
    arch: str,
    machine: str = "",
    sandbox: str = "",
    nesting: Iterable[str] = (),
) -> Key:
    """Join a spec with what was found on this machine.

    Args:
        spec: What was asked for.
        toolchain: The compiler that would be used.
        arch: The architecture that would be built for.
        machine: What identifies this kind of CPU, if an option means "the machine at hand".
        sandbox: What the compiler may read, if it is confined. A kernel that another process has
            compiled without may hold what must not be read here; and so may the log of its failure.
        nesting: How the include directories lie in each other.
    """
    return key_of_parts(_parts(spec, toolchain, arch, machine, sandbox, nesting))


def key_of_parts(parts: Iterable[tuple[str, str]]) -> Key:
    """Return the key of labelled parts. Surrogates, which stand for bytes, are kept apart."""
    pieces: list[bytes] = []
    fields: list[tuple[str, str]] = []
    for label, value in parts:
        name, raw = label.encode(), value.encode(errors="surrogateescape")
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
    spec: Spec,
    toolchain: ToolchainId,
    arch: str,
    machine: str,
    sandbox: str,
    nesting: Iterable[str],
) -> Iterable[tuple[str, str]]:
    # With the format of entries, two versions of ajit that write different ones share a cache in
    # peace: neither ever meets, rejects and replaces an entry of the other.
    yield "schema", f"{KEY_SCHEMA}.{FORMAT_VERSION}"
    yield "compiler", toolchain.name
    yield "compiler version", toolchain.version
    yield "toolchain", toolchain.fingerprint
    yield "arch", arch
    if machine:
        yield "machine", machine
    if sandbox:
        yield "sandbox", sandbox
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
    if spec.include_dirs:
        # A reading list says nothing of a directory that its compile did not have: a spec with one
        # more may find a header there that the list has from elsewhere.
        yield "include dirs", str(len(spec.include_dirs))
    for index, relation in enumerate(nesting):
        yield f"nested directory {index}", relation
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
        # Should two files have one label, no value hides another.
        values.setdefault(label, []).append(value)
    return {label: ", ".join(several) for label, several in values.items()}
