"""Messages and frames: what comes out is what went in, and nothing else is taken."""

from __future__ import annotations

import contextlib
import itertools

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ajit.kv import messages
from ajit.kv.framing import MOST_FRAME_BYTES, FrameBuffer, framed
from ajit.kv.messages import (
    Find,
    Found,
    Hello,
    Ping,
    ProtocolError,
    Reserve,
    decode_answer,
    decode_request,
    encode,
    pack_slots,
    unpack_slots,
)

NUMBERS = st.integers(0, 2**62)
REQUESTS = st.one_of(
    st.builds(Ping, id=NUMBERS),
    st.builds(Hello, version=NUMBERS, retired=st.lists(st.binary(min_size=16, max_size=16))),
    st.builds(
        Find, id=NUMBERS, space=st.integers(0, 4095), seconds=st.floats(0, 3600),
        digests=st.integers(0, 9).map(lambda n: b"d" * 16 * n), sums=st.booleans(),
    ),
    st.builds(
        Reserve, id=NUMBERS, space=st.integers(0, 4095), seconds=st.floats(0, 3600),
        digests=st.just(b"d" * 32), parent=st.sampled_from([b"", b"p" * 16]),
    ),
)  # fmt: skip


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Bytes in pieces, as a socket may give them."""
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(ends)]


@given(st.lists(REQUESTS, max_size=6), st.lists(st.integers(0, 10_000), max_size=8))
def test_messages_survive_any_cut_of_the_stream(requests, places):
    """In order, and each one once."""
    stream = b"".join(framed(encode(request)) for request in requests)
    buffer = FrameBuffer()
    frames = [frame for piece in cut(stream, places) for frame in buffer.feed(piece)]

    assert requests == [decode_request(frame) for frame in frames]


@given(st.binary(max_size=300))
@example(b"\xff\xff\xff\xff")
@example(b"\x00\x00\x00\x00")
@example(framed(b"\x91" * 2000))
@example(framed(b"\x81\xa1t" * 2000))
def test_whatever_comes_is_a_message_or_a_protocol_error(data):
    """The decoder does nothing else: no other error, no loop, no memory."""
    for decode in (decode_request, decode_answer):
        try:
            for frame in FrameBuffer().feed(data):
                decode(frame)
        except ProtocolError:
            pass


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
        | st.binary(max_size=40),
        lambda inner: st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["t", "id", "space", "digests", "x"]), inner, max_size=5),
        max_leaves=8,
    ),
    st.sampled_from(["find", "hello", "commit", "found", "slabs", "ping", "nothing"]),
)  # fmt: skip
def test_any_value_in_any_field_is_a_message_or_a_protocol_error(value, tag):
    """Values of the wrong type, in maps that look like messages."""
    given_ = value | {"t": tag} if isinstance(value, dict) else value
    payload = msgspec.msgpack.encode(given_)
    for decode in (decode_request, decode_answer):
        with contextlib.suppress(ProtocolError):
            decode(payload)


GOOD = {"t": "find", "id": 1, "space": 0, "digests": b"d" * 16, "seconds": 1.0}


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"id": -1},
        {"id": 2**63},
        {"id": True},
        {"space": 4096},
        {"digests": b"d" * 17},
        {"digests": b"d" * 16 * (messages.MOST_CHUNKS + 1)},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"seconds": -1.0},
        {"t": "other"},
        {"t": None},
    ],
    ids=str,
)
def test_what_is_out_of_bounds_or_unknown_is_refused(change):
    """Field by field."""
    assert isinstance(decode_request(msgspec.msgpack.encode(GOOD)), Find)
    with pytest.raises(ProtocolError):
        decode_request(msgspec.msgpack.encode(GOOD | change))


@pytest.mark.parametrize("size", [0, MOST_FRAME_BYTES + 1, 2**32 - 1])
def test_a_frame_of_an_impossible_length_is_refused_at_once(size):
    """Before its bytes are waited for."""
    buffer = FrameBuffer()
    with pytest.raises(ProtocolError, match="frame of"):
        list(buffer.feed(size.to_bytes(4, "little")))


def test_the_largest_messages_fit_into_a_frame():
    """Whatever a request may ask for."""
    digests = b"d" * 16 * messages.MOST_CHUNKS
    scattered = pack_slots(range(0, 2 * messages.MOST_CHUNKS, 2))
    found = Found(1, 1, scattered, b"c" * 8 * messages.MOST_CHUNKS)
    largest = [Reserve(1, 1, b"p" * 16, digests, 1.0), found]

    assert all(len(encode(message)) <= MOST_FRAME_BYTES for message in largest)
    assert decode_answer(encode(found)) == found


@given(st.lists(st.integers(0, 200) | st.integers(2**32 - 9, 2**32 - 1), max_size=100))
def test_slots_are_the_same_after_packing(slots):
    """In order, with whatever runs."""
    assert slots == unpack_slots(pack_slots(slots))


def test_slots_that_claim_to_be_too_many_are_refused():
    """Six bytes may stand for 65 535 slots."""
    with pytest.raises(ProtocolError, match="too many"):
        unpack_slots(pack_slots(range(messages.MOST_CHUNKS + 1)))


def test_a_lookup_of_131072_tokens_has_10_kib():
    """Request and answer, if the chunks were stored by few requests."""
    request = Find(12345, 7, b"d" * 16 * 512, 1.0)
    found = Found(12345, 678, pack_slots([*range(256), *range(1000, 1256)]))
    actual = len(framed(encode(request))) + len(framed(encode(found)))

    assert actual <= 10 * 1024
