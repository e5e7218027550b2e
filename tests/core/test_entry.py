"""An entry is its artifact, whole and verified, or it is nothing."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from ajit._core import manifest
from ajit._core.entry import (
    FORMAT_VERSION,
    Artifact,
    CannotEncode,
    EntryInvalid,
    Manifest,
    decode,
    decode_manifest,
    encode,
)
from ajit._printable import printable, printable_line

KEY = "9478101f" * 8
BASE = KEY[:16] + "c" * 48
HEADER = struct.Struct("<8sIIQ")  # written down again here: the format is a promise
MAGIC = b"AJITENT\0"


def an_artifact(**changes: object) -> Artifact:
    """A small artifact, some of its fields as asked."""
    fields = {
        "key": KEY,
        "base": BASE,
        "key_fields": (("arch", "sm_90a"), ("source", "sha256:00")),
        "name": "scale",
        "kind": "cubin",
        "arch": "sm_90a",
        "compiler": "nvrtc",
        "compiler_version": "13.0.88",
        "entries": ("scale<float>",),
        "lowered": {"scale<float>": "_Z5scaleIfEvT_"},
        "log": "warning: größe",
        "command": ("nvrtc", "-arch=sm_90a"),
        "created": 1.75e9,
        "seconds": 0.5,
        "host": "node1",
        "ajit_version": "0.1.0",
        "data": b"\x7fELF compiled",
    }
    return Artifact(**fields | changes)


def sealed(
    manifest: bytes,
    sections: bytes = b"",
    *,
    magic: bytes = MAGIC,
    version: int = FORMAT_VERSION,
    manifest_bytes: int | None = None,
    total: int | None = None,
) -> bytes:
    """A file whose checksum is right, whatever its header says: foreign, or a forgery."""
    length = HEADER.size + len(manifest) + len(sections) + 32
    header = HEADER.pack(
        magic,
        version,
        len(manifest) if manifest_bytes is None else manifest_bytes,
        length if total is None else total,
    )
    body = header + manifest + sections
    return body + hashlib.sha256(body).digest()


def manifest_of(artifact: Artifact | None = None, **changes: object) -> dict[str, object]:
    """The manifest as it stands in a file, some of its fields as asked; Ellipsis leaves one out."""
    entry = encode(artifact or an_artifact())
    manifest_bytes = HEADER.unpack_from(entry)[2]
    manifest = msgspec.msgpack.decode(entry[HEADER.size : HEADER.size + manifest_bytes])
    return {name: value for name, value in (manifest | changes).items() if value is not ...}


def with_manifest(rest: bytes = b"\x7fELF compiled", /, **changes: object) -> bytes:
    """A well-sealed entry with a changed manifest, and the bytes of its sections."""
    return sealed(msgspec.msgpack.encode(manifest_of(**changes)), rest)


# --- round trip ---


def test_artifact_comes_back():
    """Reading returns the written artifact, field by field."""
    artifact = an_artifact()
    read = decode(encode(artifact), KEY)

    assert read == artifact
    assert type(read) is Artifact
    assert type(read.data) is bytes


def test_reading_from_a_view_of_a_map():
    """A reader may map the file; the artifact does not keep the map open."""
    view = memoryview(bytearray(encode(an_artifact())))
    read = decode(view, KEY)
    view.release()

    assert read == an_artifact()


def test_manifest_can_be_read_alone():
    """Lists of entries need no key and keep no compiled bytes."""
    manifest, size_bytes = decode_manifest(encode(an_artifact()))

    assert type(manifest) is Manifest
    assert size_bytes == an_artifact().size_bytes == len(b"\x7fELF compiled")
    assert all(
        getattr(manifest, field) == getattr(an_artifact(), field)
        for field in Manifest.__struct_fields__
    )


def test_layout():
    """Magic, version, length of the manifest, length of the file, manifest, code, digest."""
    artifact = an_artifact()
    entry = encode(artifact)
    magic, version, manifest_bytes, total = HEADER.unpack_from(entry)

    assert (magic, version, total) == (MAGIC, 3, len(entry))
    assert entry[HEADER.size + manifest_bytes : -32] == artifact.data
    assert entry[-32:] == hashlib.sha256(entry[:-32]).digest()
    assert encode(artifact) == entry, "the same bytes each time"


def test_artifact_without_compiled_bytes():
    """Strange, but nothing to stumble over."""
    assert decode(encode(an_artifact(data=b"")), KEY).data == b""


ANY_TEXT = st.text(max_size=30)
ARTIFACTS = st.builds(
    an_artifact,
    key_fields=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), max_size=4).map(tuple),
    name=ANY_TEXT,
    kind=st.sampled_from(["cubin", "elf"]),
    arch=ANY_TEXT,
    compiler=ANY_TEXT,
    compiler_version=ANY_TEXT,
    entries=st.lists(ANY_TEXT, max_size=4).map(tuple),
    lowered=st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=4),
    log=ANY_TEXT,
    command=st.lists(ANY_TEXT, max_size=4).map(tuple),
    created=st.floats(0, 2.5e11),
    seconds=st.floats(0, 9e8),
    host=ANY_TEXT,
    ajit_version=ANY_TEXT,
    data=st.binary(max_size=200),
)


FOR_PEOPLE = ("name", "arch", "compiler", "compiler_version", "host", "ajit_version")


def cleaned(artifact: Artifact) -> Artifact:
    """The artifact with what is only for people made fit for a terminal."""
    shown = {name: printable_line(getattr(artifact, name)) for name in FOR_PEOPLE}
    command = tuple(map(printable_line, artifact.command))
    return replace(artifact, **shown, log=printable(artifact.log), command=command)


@given(ARTIFACTS)
def test_any_artifact_comes_back(artifact):
    """Whatever texts and bytes it has, but for what would act on a terminal."""
    assert decode(encode(artifact), KEY) == cleaned(artifact)


@given(ARTIFACTS)
def test_what_another_program_wrote_is_cleaned_as_well(artifact):
    """A forged manifest reaches terminals like any other; what is looked up stays as it is."""
    names = (*FOR_PEOPLE, "command", "log")
    raw = {name: getattr(artifact, name) for name in names}
    entry = with_manifest(
        artifact.data, **manifest_of(artifact) | raw | {"sections": [["code", artifact.size_bytes]]}
    )

    assert decode(entry, KEY) == cleaned(artifact)
    assert decode_manifest(entry)[0].entries == artifact.entries


# --- what is not the entry that it should be ---


def refused(data: bytes, complaint: str | None = None) -> None:
    """Both ways to read refuse, as one and the same thing."""
    with pytest.raises(EntryInvalid, match=complaint):
        decode(data, KEY)
    with pytest.raises(EntryInvalid, match=complaint):
        decode_manifest(data)


def test_entry_truncated_at_any_length():
    """A file system that lost the end of a file."""
    entry = encode(an_artifact())

    for length in range(len(entry)):
        refused(entry[:length])


def test_entry_with_any_bit_flipped():
    """A bad disk, a bad memory module: every bit of the file is checked."""
    entry = bytearray(encode(an_artifact()))

    for position in range(len(entry)):
        for bit in range(8):
            entry[position] ^= 1 << bit
            refused(bytes(entry))
            entry[position] ^= 1 << bit


def test_entry_with_bytes_after_it():
    """Two writers in one file."""
    entry = encode(an_artifact())

    for extra in (b"\0", b"\n", bytes(4096), entry):
        refused(entry + extra)


def test_entry_in_pages_of_zeros():
    """A crash after the rename and before the data: the name is there, the pages are not."""
    entry = encode(an_artifact(data=bytes(range(256)) * 64))

    for start in range(0, len(entry), 4096):
        refused(entry[:start] + bytes(len(entry[start : start + 4096])) + entry[start + 4096 :])
    refused(bytes(len(entry)))


def test_entry_of_another_key():
    """A file that was copied or renamed: its checksum is right, its key is not."""
    entry = encode(an_artifact())
    other = "ab" * 32

    with pytest.raises(EntryInvalid, match=f"{KEY[:16]}.*not of {other[:16]}"):
        decode(entry, other)
    assert decode_manifest(entry)[0].key == KEY


FOREIGN_FILES = {
    "empty": (b"", "only 0 bytes"),
    "a cubin": (b"\x7fELF" + bytes(1000), "magic"),
    "text": (b"#pragma once\n" * 100, "magic"),
    "other magic": (sealed(b"", magic=b"AJITENT1"), "magic"),
    "older format": (sealed(b"", version=1), "version 1"),
    "newer format": (sealed(b"", version=4), "version 4"),
    "no manifest": (sealed(b""), "manifest"),
    "manifest is text": (sealed(b"key: 00"), "manifest"),
    "manifest is a number": (sealed(b"\x01"), "manifest"),
    "manifest is empty": (sealed(b"\x80"), "manifest"),
    "manifest is nested too deep": (sealed(b"\x81\xa1x" + b"\x91" * 100_000), "manifest"),
    "manifest and more": (sealed(msgspec.msgpack.encode(manifest_of()) + b"\xc0"), "manifest"),
    "lying length": (sealed(b"\x80", total=10), "should be 10"),
    "huge length": (sealed(b"\x80", total=2**64 - 1), "should be"),
    "manifest as long as the file": (sealed(b"\x80", manifest_bytes=57), "manifest longer"),
    "huge manifest": (sealed(b"\x80", manifest_bytes=2**32 - 1), "manifest longer"),
    "manifest over the sections": (sealed(b"\x80", b"code", manifest_bytes=5), "manifest"),
    "manifest too short": (
        sealed(msgspec.msgpack.encode(manifest_of()), manifest_bytes=9),
        "manif",
    ),
}


@pytest.mark.parametrize(("data", "complaint"), FOREIGN_FILES.values(), ids=FOREIGN_FILES.keys())
def test_foreign_file_is_refused_with_its_reason(data, complaint):
    """The reason goes into an event, for an operator who wonders about a slow start."""
    refused(data, complaint)


RIGHT_TYPES = {
    str: (
        "key", "base", "name", "arch", "compiler", "compiler_version", "log", "host",
        "ajit_version",
    ),
    int: ("created", "seconds"),
    float: ("created", "seconds"),
}  # fmt: skip
WRONG_FIELDS = [
    (field, value)
    for field in (*Manifest.__struct_fields__, "sections")
    for value in (..., None, 1, -1, 1.5, "x", b"x", True, [1], [[1]], [["a"]], {"a": 1})
    if field not in RIGHT_TYPES.get(type(value), ())
]


@pytest.mark.parametrize(("field", "value"), WRONG_FIELDS, ids=repr)
def test_manifest_with_a_field_missing_or_of_wrong_type(field, value):
    """A right checksum does not make the right program: types are checked, or nothing is read."""
    refused(with_manifest(**{field: value}), "manifest does not decode")


ODD_TIMES = [float("inf"), float("-inf"), float("nan"), 1e300, -1.0, 2.6e11]


@pytest.mark.parametrize("odd", ODD_TIMES, ids=repr)
@pytest.mark.parametrize("field", ["created", "seconds"])
def test_a_time_that_is_none_is_refused(field, odd):
    """No clock says so, and no calendar has it."""
    refused(with_manifest(**{field: odd}), "no such time")


def test_limits_of_a_manifest():
    """In size, in counts and in lengths; what is as large as it may be is taken."""
    most = {
        "key_fields": [["", ""]] * manifest.MAX_KEY_FIELDS,
        "entries": [""] * manifest.MAX_NAMES,
        "command": [""] * manifest.MAX_NAMES,
        "log": "x" * manifest.MAX_LOG_CHARACTERS,
        "host": "x" * manifest.MAX_LINE_CHARACTERS,
    }
    assert decode(with_manifest(**most), KEY).host == most["host"]
    for field, value in most.items():
        refused(with_manifest(**{field: value + value[:1]}), "manifest does not decode")
    refused(with_manifest(sections=[["a", 0]] * 17), "manifest does not decode")
    refused(
        with_manifest(more="x" * manifest.MAX_MANIFEST_BYTES), r"manifest of \d+ bytes, at most"
    )


def test_what_no_reader_would_take_is_not_written():
    """Else it would be compiled again by each process. What is only for people is cut instead."""
    with pytest.raises(CannotEncode, match="key_fields"):
        encode(an_artifact(key_fields=(("", ""),) * (manifest.MAX_KEY_FIELDS + 1)))
    with pytest.raises(CannotEncode, match="no such time"):
        encode(an_artifact(created=float("nan")))
    long = decode(encode(an_artifact(name="n" * 10_000, log="l" * 3_000_000)), KEY)

    assert (len(long.name), len(long.log)) == (4096, 2 * 1024 * 1024)


BAD_SECTIONS = {
    "none": ([], "add up"),
    "too short": ([["code", 12]], "add up"),
    "too long": ([["code", 14]], "add up"),
    "far too long": ([["code", 2**63]], "add up"),
    "overflow": ([["code", 2**64 - 1], ["more", 14]], "add up"),
    "negative": ([["code", -13]], ">= 0"),
    "negative before": ([["more", -1], ["code", 14]], ">= 0"),
    "negative after": ([["code", 14], ["more", -1]], ">= 0"),
    "twice": ([["code", 6], ["code", 7]], "two sections"),
    "twice, once empty": ([["code", 0], ["code", 13]], "two sections"),
    "no code": ([["more", 13]], "no section"),
}


@pytest.mark.parametrize(("sections", "complaint"), BAD_SECTIONS.values(), ids=BAD_SECTIONS.keys())
def test_sections_that_do_not_fit_the_file(sections, complaint):
    """Sections neither overlap, nor leave a gap, nor reach over the end."""
    refused(with_manifest(sections=sections), complaint)


def test_other_sections_are_passed_over():
    """The code is found by its name, not by its place."""
    entry = with_manifest(b"headCODEtail", sections=[["a", 4], ["code", 4], ["b", 4], ["c", 0]])

    assert decode(entry, KEY).data == b"CODE"
    assert decode_manifest(entry)[1] == 4


# --- fuzz ---


def decoded_or_refused(data: bytes) -> None:
    """Decode; any exception but `EntryInvalid` fails the test, as does half an artifact."""
    try:
        artifact = decode(data, KEY)
    except EntryInvalid:
        return
    assert artifact.key == KEY
    assert decode(encode(artifact), KEY) == artifact or artifact.created != artifact.created


@given(st.binary(max_size=400))
def test_any_bytes(data):
    """Whatever stands in the file."""
    decoded_or_refused(data)


@given(
    st.binary(max_size=200), st.binary(max_size=50), st.integers(0, 2**32 - 1), st.integers(0, 300)
)
def test_any_bytes_behind_a_right_checksum(manifest, sections, manifest_bytes, cut):
    """Past the checksum there are two decoders more, and lengths that may lie."""
    decoded_or_refused(sealed(manifest, sections))
    decoded_or_refused(sealed(manifest, sections, manifest_bytes=manifest_bytes))
    decoded_or_refused(sealed(manifest, sections, manifest_bytes=cut))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5)
    | st.binary(max_size=5) | st.sampled_from(["code", KEY, "cubin"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from([*Manifest.__struct_fields__, "sections", "more"]), VALUES))
@example({"created": float("nan")})
@example({"more": [[[]]]})
def test_any_manifest(changes):
    """A well-formed manifest with any values in any fields."""
    decoded_or_refused(with_manifest(**changes))


@given(st.integers(0, 2**12), st.binary(min_size=1, max_size=4))
def test_any_bytes_in_the_middle_of_an_entry(position, patch):
    """Damage that was sealed again: what a broken writer would publish."""
    body = bytearray(encode(an_artifact())[:-32])
    position %= len(body)
    body[position : position + len(patch)] = patch
    decoded_or_refused(bytes(body) + hashlib.sha256(body).digest())


# --- memory ---


def peak_bytes(data: bytes) -> int:
    """Most memory that was allocated at once while decoding."""
    tracemalloc.start()
    try:
        decoded_or_refused(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


LIARS = {
    f"{name} of {count}": b"\x81" + msgspec.msgpack.encode(field) + code + struct.pack(">I", count)
    for count in (2**20, 2**28, 2**32 - 1)
    for name, field, code in (
        ("array", "entries", b"\xdd"),
        ("map", "lowered", b"\xdf"),
        ("text", "log", b"\xdb"),
        ("sections", "sections", b"\xdd"),
        ("bytes", "more", b"\xc6"),
        ("unknown array", "more", b"\xdd"),
    )
}


@pytest.mark.parametrize("manifest", LIARS.values(), ids=LIARS.keys())
def test_lying_lengths_allocate_nothing(manifest):
    """A hundred bytes that promise four billion texts are not believed."""
    peak = peak_bytes(sealed(manifest))

    assert peak < 64 * 1024


FULL_MANIFESTS = {
    "texts": {"entries": [""] * 50_000},
    "pairs": {"key_fields": [["", ""]] * 30_000},
    "map": {"lowered": {f"{number:x}": "" for number in range(30_000)}},
    "sections": {"sections": [["code", 13], *([f"{number:x}", 0] for number in range(30_000))]},
    "unknown": {"more": [[]] * 50_000},
}


@pytest.mark.parametrize("changes", FULL_MANIFESTS.values(), ids=FULL_MANIFESTS.keys())
def test_memory_is_bounded_by_the_size_of_the_file(changes):
    """A manifest of very many tiny things costs what Python's objects cost, and no more."""
    entry = with_manifest(**changes)
    peak = peak_bytes(entry)

    assert peak < 100 * len(entry)


def test_reading_holds_the_compiled_bytes_once():
    """Beside the file itself, a big artifact is copied once."""
    entry = encode(an_artifact(data=bytes(10_000_000)))
    tracemalloc.start()
    artifact = decode(entry, KEY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert artifact.size_bytes == 10_000_000
    assert peak < 10_100_000
