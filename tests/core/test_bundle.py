"""A bundle is its head, whole and verified, which says what each of its files has to be."""

from __future__ import annotations

import hashlib
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ajit._core.bundle import (
    DIGEST_BYTES,
    HEADER_BYTES,
    TAIL_BYTES,
    BundleArtifact,
    BundleFile,
    decode_head,
    encode_frame,
    frame_of,
)
from ajit._core.entry import CannotEncode, EntryInvalid, EntryOfOtherVersion
from ajit._core.seal import HmacKey, Trust

KEY = "9478101f" * 8
HEADER = struct.Struct("<8sIIQ")  # written down again here: the format is a promise


def a_file(path, content=b"text", **more):
    """A file of a bundle."""
    return BundleFile(path, len(content), hashlib.sha256(content).hexdigest(), **more)


def a_bundle(*files, **changes):
    """A small bundle, some of its fields as asked."""
    fields = {
        "key": KEY,
        "base": KEY[:16] + "c" * 48,
        "key_fields": (("schema", "build 1.1"),),
        "name": "silu",
        "kind": "bundle",
        "arch": "",
        "compiler": "build",
        "compiler_version": "ninja",
        "entries": (),
        "lowered": {},
        "log": "linked",
        "command": ("ninja", "-j", "{jobs}"),
        "created": 1.75e9,
        "seconds": 12.5,
        "host": "node1",
        "ajit_version": "0.1.0",
        "files": files or (a_file("a/b.so", executable=True), a_file("c.json")),
    }
    return BundleArtifact(**fields | changes)


def decoded(data, key=KEY, trust=Trust()):  # noqa: B008 - it is never changed
    """What a reader of a whole file finds."""
    frame = frame_of(data[:HEADER_BYTES], len(data))
    end = frame.total_bytes - DIGEST_BYTES
    return decode_head(data[: frame.head_bytes], data[end : end + TAIL_BYTES], key, trust)[0]


def encoded(bundle, trust=Trust()):  # noqa: B008 - likewise
    """The bytes of a whole file, its files of zeros."""
    head, tail = encode_frame(bundle, trust)
    return head + b"\0" * bundle.size_bytes + tail


def test_head_comes_back():
    """Every field, and where the files begin."""
    bundle = a_bundle()
    found = decoded(encoded(bundle))

    assert replace(found, offset=0) == bundle
    assert found.size_bytes == 8
    assert found.offset == len(encode_frame(bundle)[0])


def test_layout_is_what_the_page_says():
    """Magic, version, lengths; the checksum is over header and manifest."""
    data = encoded(a_bundle())
    magic, version, manifest_bytes, total = HEADER.unpack_from(data)
    head = data[: HEADER.size + manifest_bytes]

    assert (magic, version, total) == (b"AJITBUN\0", 1, len(data))
    assert hashlib.sha256(head).digest() == data[-32:]


@pytest.mark.parametrize("position", [0, 8, 12, 16, 30, 200, -32, -1])
def test_changed_byte_is_refused(position):
    """In the header, the manifest or the checksum. The files have digests of their own."""
    data = bytearray(encoded(a_bundle()))
    data[position] ^= 1
    with pytest.raises(EntryInvalid):
        decoded(bytes(data))


@given(st.integers(0, 2000))
def test_part_of_a_bundle_is_refused(length):
    """Wherever it was cut."""
    data = encoded(a_bundle())
    with pytest.raises(EntryInvalid):
        decoded(data[: min(length, len(data) - 1)])


@given(st.binary(max_size=300))
def test_anything_is_refused(data):
    """No bytes crash the decoder."""
    with pytest.raises(EntryInvalid):
        decoded(b"AJITBUN\0" + data)


def test_other_key_and_other_version_are_refused():
    """An entry that was renamed, or written by a later ajit."""
    data = bytearray(encoded(a_bundle()))
    with pytest.raises(EntryInvalid, match="not of aaaaaaaa"):
        decoded(bytes(data), key="a" * 64)
    data[8] = 9
    with pytest.raises(EntryOfOtherVersion, match="bundle version 9"):
        decoded(bytes(data))


@pytest.mark.parametrize(
    "paths",
    [
        ["../a"],
        ["/etc/passwd"],
        ["a/../b"],
        ["a//b"],
        ["./a"],
        [""],
        ["a\0b"],
        ["a", "a"],
        ["a", "a/b"],
        ["b", "a"],
    ],
)
def test_files_that_lead_out_or_collide_are_refused(paths):
    """By the writer, and by a reader of what another program has written."""
    bundle = a_bundle(*map(a_file, paths))
    with pytest.raises(CannotEncode):
        encode_frame(bundle)
    good = encode_frame(a_bundle(*(a_file(f"{n:0{len(p)}}") for n, p in enumerate(paths))))[0]
    stored = msgspec.msgpack.decode(good[HEADER.size :])
    stored["files"] = [msgspec.to_builtins(file) for file in bundle.files]
    manifest = msgspec.msgpack.encode(stored)
    total = HEADER.size + len(manifest) + bundle.size_bytes + 32
    head = HEADER.pack(b"AJITBUN\0", 1, len(manifest), total) + manifest
    with pytest.raises(EntryInvalid):
        decode_head(head, hashlib.sha256(head).digest(), KEY)


def test_seal_is_over_all_files():
    """Who has no key can change no file: its digest is in what is sealed."""
    trust = Trust("hmac", [HmacKey(b"a secret of some length")])
    data = encoded(a_bundle(), trust)
    other = encoded(a_bundle(a_file("a/b.so", b"evil", executable=True), a_file("c.json")))

    assert decoded(data, trust=trust).name == "silu"
    with pytest.raises(EntryInvalid, match="not authenticated"):
        decoded(other, trust=trust)
    with pytest.raises(EntryInvalid, match="tampered"):
        decoded(other + data[-49:], trust=trust)
