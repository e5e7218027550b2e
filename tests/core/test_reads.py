"""An entry's key is made of the base key, the reading list, and what is listed."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ajit._core.key import Difference, Key, explain
from ajit._core.reads import (
    ABSENT,
    MAX_READS,
    NOTHING_READ,
    PRESENT,
    Read,
    ReadingList,
    ReadingListInvalid,
    decode_list,
    entry_key,
    key_of,
    unshared_key,
)

BASE = Key("ab" * 32, (("arch", "sm_90a"), ("source", "text")))
ONE, TWO = "11" * 32, "22" * 32
LIST = ReadingList(
    (
        Read("i0", "tile.cuh", "file"),
        Read("i0", "optional.h", "absent"),
        Read("i1", "there.h", "present"),
        Read("t0", "cuda_fp16.h", "file"),
        Read("/", "/usr/include/stdio.h", "file"),
    )
)
STATES = (ONE, ABSENT, PRESENT, TWO, TWO)

READS = st.builds(
    Read,
    st.sampled_from(["i0", "i1", "t0", "tool", "/"]),
    st.text(max_size=8),
    st.sampled_from(["file", "absent", "present", "same"]),
)


def test_key_is_what_its_docstring_says():
    """The base's first digits, then SHA-256 over base, list and states."""
    text = " ".join((BASE.hex, LIST.digest, *STATES))
    expected = "ab" * 8 + hashlib.sha256(text.encode()).hexdigest()[16:]
    actual = key_of(BASE, LIST, STATES)

    assert actual.hex == expected
    assert entry_key(BASE.hex, LIST.digest, STATES) == expected


def test_a_list_never_changes_by_accident():
    """Its digest is a file's name: if it changes, every cache in the world is cold."""
    expected = hashlib.sha256(
        msgspec.msgpack.encode([1, [[r.place, r.name, r.kind] for r in LIST.reads]])
    ).hexdigest()

    assert LIST.digest == expected


OTHERS = {
    "content": (LIST, (TWO, ABSENT, PRESENT, TWO, TWO)),
    "content of the toolchain's": (LIST, (ONE, ABSENT, PRESENT, ONE, TWO)),
    "order": (ReadingList(LIST.reads[::-1]), STATES[::-1]),
    "place": (ReadingList((Read("i1", "tile.cuh", "file"), *LIST.reads[1:])), STATES),
    "name": (ReadingList((Read("i0", "tiles.cuh", "file"), *LIST.reads[1:])), STATES),
    "fewer": (ReadingList(LIST.reads[:1]), STATES[:1]),
    "none": (NOTHING_READ, ()),
    "absent and not present": (
        ReadingList((*LIST.reads[:2], Read("i1", "there.h", "absent"), *LIST.reads[3:])),
        (ONE, ABSENT, ABSENT, TWO, TWO),
    ),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_whatever_was_read_changes_the_key(other):
    """Which file, where, and what it holds; and that something was not there."""
    assert key_of(BASE, *other).hex != key_of(BASE, LIST, STATES).hex
    assert explain(key_of(BASE, *other), key_of(BASE, LIST, STATES))


def test_no_two_of_these_share_a_key():
    """Not only do they differ from the fixed list."""
    assert len({key_of(BASE, *other).hex for other in OTHERS.values()}) == len(OTHERS)


def test_base_and_entry_are_called_alike():
    """Where 16 digits are shown, a lock and its entry have one name."""
    other = Key("ac" * 32, BASE.fields)

    assert key_of(BASE, LIST, STATES).hex[:16] == BASE.hex[:16]
    assert key_of(other, LIST, STATES).hex[16:] != key_of(BASE, LIST, STATES).hex[16:]


def test_explain_names_the_users_file_that_changed():
    """By its include directory; the toolchain's files are told together."""
    one = key_of(BASE, LIST, STATES)
    user = key_of(BASE, LIST, (TWO, *STATES[1:]))
    toolchain = key_of(BASE, LIST, (*STATES[:3], ONE, TWO))
    system = key_of(BASE, LIST, (*STATES[:4], ONE))

    assert explain(one, user) == [Difference("file i0/tile.cuh", ONE, TWO)]
    assert [item.field for item in explain(one, toolchain)] == ["toolchain's files"]
    assert [item.field for item in explain(one, system)] == ["file /usr/include/stdio.h"]


def test_an_artifact_that_is_not_shared_has_a_key_of_its_own():
    """No look-up makes it, and no two artifacts have it."""
    keys = {unshared_key(BASE, text).hex for text in ("1", "2")} | {
        key_of(BASE, NOTHING_READ, ()).hex
    }

    assert len(keys) == 3


@given(st.lists(READS, max_size=6))
def test_any_list_comes_back(reads):
    """From the bytes that it is stored as."""
    made = ReadingList(tuple(reads))

    assert decode_list(made.encode(), made.digest) == made


@given(st.binary(max_size=64))
def test_any_bytes_are_a_list_or_refused(data):
    """A decoder of files that others may write never fails in another way."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        found = decode_list(data, digest)
    except ReadingListInvalid:
        return
    assert found.digest == digest or decode_list(found.encode(), found.digest) == found


def test_a_list_under_another_name_is_refused():
    """Also one that is cut short."""
    for data in (LIST.encode()[:-1], LIST.encode() + b" ", b""):
        with pytest.raises(ReadingListInvalid, match="digest"):
            decode_list(data, LIST.digest)


def test_a_list_of_another_format_or_without_end_is_refused():
    """So is one that is no list at all."""
    read = ["i0", "x.h", "file"]
    for content in ([2, [read]], [1, [read] * (MAX_READS + 1)], [1, [["i0", "x.h", "odd"]]], 7):
        data = msgspec.msgpack.encode(content)
        with pytest.raises(ReadingListInvalid):
            decode_list(data, hashlib.sha256(data).hexdigest())


def test_only_a_key_is_a_base():
    """The first digits of anything else would become a directory's name."""
    with pytest.raises(ValueError, match="not a key"):
        entry_key("../" * 22, LIST.digest, STATES)
