"""A record is lines that can be torn, repeated, reordered and mixed, and says the same."""

from __future__ import annotations

import hashlib
import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ajit
from ajit._core.record import (
    Again,
    Record,
    Text,
    Use,
    decode_line,
    encode_line,
    read_lines,
    text_digest,
    use_id,
)
from ajit._core.spec_form import spec_of, written_spec
from ajit.errors import SpecError


def use(number: int = 0, **changes) -> Use:
    """A use of some kind."""
    build = msgspec.json.encode({"n": number})
    made = Use(
        kind="other",
        id=use_id("other", "", "sm_90a", build),
        name=f"kernel {number}",
        arch="sm_90a",
        build=msgspec.Raw(build),
    )
    return msgspec.structs.replace(made, **changes)


def read(*data: bytes) -> Record:
    """A record of these files."""
    record = Record()
    for each in data:
        read_lines(io.BytesIO(each), record)
    return record


def facts(record: Record) -> list[tuple]:
    """What a record says of its uses."""
    return [(item.id, item.count, bytes(item.build)) for item in record.finished()]


def test_lines_are_read_as_they_were_written():
    """Each kind of line, and a text with line breaks stays one line."""
    for line in (use(1, count=3), Text("f" * 64, "x"), Again(id="a", count=2)):
        raw = encode_line(line)
        assert raw.count(b"\n") == 1
        if not isinstance(line, Text):
            assert decode_line(raw[:-1]) == line
    text = "int a;\nint b;\r\n"
    digest = text_digest(text)

    assert decode_line(encode_line(Text(digest, text))[:-1]) == Text(digest, text)
    assert decode_line(encode_line(Text("f" * 64, "x"))[:-1]) is None, "not what its digest says"


def test_counts_of_all_files_are_added_up():
    """Of a use that several processes had, and of its count in yet another file."""
    first, second = use(1, first_use_seconds=4.0), use(1, count=2, first_use_seconds=3.0)
    record = read(
        encode_line(Again(id=first.id, count=10)),
        encode_line(first) + encode_line(use(2, first_use_seconds=9.0)),
        encode_line(second),
    )

    found = record.finished()
    assert [(item.name, item.count) for item in found] == [("kernel 1", 13), ("kernel 2", 1)]
    assert found[0].first_use_seconds == 3.0


def test_a_count_of_an_unknown_use_is_nothing():
    """Its file may have been removed by hand."""
    assert read(encode_line(Again(id="gone", count=3))).finished() == []


@given(cut=st.integers(0, 10_000), count=st.integers(1, 5))
def test_a_torn_file_has_all_its_whole_lines(cut, count):
    """Whatever the last write of a killed process left."""
    lines = [encode_line(use(number)) for number in range(count)]
    data = b"".join(lines)[:cut]
    record = read(data)
    whole = data.count(b"\n")

    assert len(record.finished()) == whole
    assert (record.torn, record.damaged) == (bool(data) and not data.endswith(b"\n"), 0)


@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_damaged_line_costs_no_other(position, value):
    """It does not fit its digest."""
    lines = [encode_line(use(number)) for number in range(3)]
    data = bytearray(b"".join(lines))
    position %= len(lines[0]) - 1
    data[position] = value
    found = facts(read(bytes(data)))

    assert facts(read(*lines[1:])) == [item for item in found if item[0] != use(0).id]
    assert all(item in facts(read(*lines)) for item in found), "nothing that was not written"


@given(st.binary(max_size=200))
def test_no_bytes_are_an_error(data):
    """A file of anything is a record of nothing."""
    assert read(data).finished() == []


def test_a_line_of_a_later_version_is_passed_over():
    """It has a good digest, and is of a kind that is not known."""
    record = Record()
    good = encode_line(use())
    data = good.replace(b'"line":"use"', b'"line":"new"')
    body = data.partition(b" ")[2][:-1]
    check = hashlib.sha256(body).hexdigest()[:16].encode()
    read_lines(io.BytesIO(check + b" " + body + b"\n" + good), record)

    assert len(record.finished()) == 1


def test_what_was_merged_says_the_same():
    """Texts that no build names are left out."""
    build, texts = written_spec(ajit.Spec("__global__ void k(int n) {}", "k"))
    (digest,) = texts
    made = use(1, build=msgspec.Raw(build), id=use_id("other", "", "sm_90a", build))
    record = read(
        encode_line(Text(digest, texts[digest])) + encode_line(made),
        encode_line(Text(text_digest("int unused;"), "int unused;")),
        encode_line(Again(id=made.id, count=5)),
    )
    again = read(b"".join(map(encode_line, record.lines())))

    assert facts(again) == facts(record)
    assert list(again.texts) == [digest]


@pytest.mark.parametrize(
    "spec",
    [
        ajit.Spec("__global__ void k(float* x, int n) {}", "k"),
        ajit.Spec("__global__ void k(T* x) {}", ajit.EntryPoint("k", "float* x"), defines={"T": 1}),
        ajit.Spec(
            "template <class T> __global__ void scale(T* x) {}",
            ["scale<float>", "scale<int>"],
            name="both",
            compiler="nvrtc",
            arch="sm_90a",
            options=["-O1", "--use_fast_math"],
            defines={"N": 4, "DEBUG": None},
            include_dirs=["/opt/include"],
            headers={"a.h": "int a;", "b.h": "int b;"},
            extra_digest="v1",
        ),
    ],
    ids=lambda spec: spec.name,
)
def test_a_spec_is_made_again_as_it_was(spec):
    """With all that reaches its key, and what was read from its source is read again."""
    build, texts = written_spec(spec)
    made = spec_of(build, texts)

    assert made == spec
    assert made.entries == spec.entries
    assert written_spec(made)[0] == build


def test_a_spec_that_cannot_be_made_again_says_why():
    """A lost text, another kind, a value that this version refuses."""
    build, texts = written_spec(ajit.Spec("__global__ void k() {}", "k"))

    with pytest.raises(SpecError, match="lacks the text"):
        spec_of(build, {})
    with pytest.raises(SpecError, match="of no spec"):
        spec_of(b'{"other":1}', texts)
    with pytest.raises(SpecError, match="of no spec"):
        spec_of(build.replace(b'"name":"k"', b'"name":"k","compiler":"clang"'), texts)
