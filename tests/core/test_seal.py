"""A seal is good for one thing, and of one key."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ajit._core.seal import NO_TRUST, CannotSeal, HmacKey, NotAuthentic, Trust, is_seal, seal_at

SECRET = b"a secret of this test"
KEY = HmacKey(SECRET, "mine")
OTHER = HmacKey(b"another secret", "other")
DIGEST = hashlib.sha256(b"thing").digest()
TRUST = Trust("hmac", [KEY])


class OtherKind(HmacKey):
    """A key of the other kind."""

    method = "ed25519"

    def tag(self, message: bytes) -> bytes:
        """Return a tag as long as a signature."""
        return 2 * super().tag(message)


def test_layout():
    """Magic, method, id of the key, and an HMAC of these, the label and the digest."""
    seal = TRUST.seal("entry", DIGEST)
    identity = hmac.digest(SECRET, b"ajit key id\0", "sha256")[:8]
    head = b"AJITSEAL\x01" + identity

    assert seal[:17] == head
    assert seal[17:] == hmac.digest(SECRET, head + b"entry\0" + DIGEST, "sha256")


def test_a_good_seal_names_its_key():
    """For `ajit cache verify`."""
    info = Trust("hmac", [OTHER, KEY]).check("entry", DIGEST, TRUST.seal("entry", DIGEST))

    assert (info.method, info.name, info.state) == ("hmac", "mine", "good")
    assert str(info) == f"hmac (mine, {KEY.id.hex()})"


@pytest.mark.parametrize("label", ["failure", "digests", "holder"])
def test_the_seal_of_one_kind_of_thing_is_not_valid_for_another(label):
    """Who copies it there gets nothing."""
    with pytest.raises(NotAuthentic, match="does not match"):
        TRUST.check(label, DIGEST, TRUST.seal("entry", DIGEST))


def test_any_byte_of_a_seal_counts():
    """Also those of the head, which says which key to try."""
    seal = TRUST.seal("entry", DIGEST)
    for position in range(len(seal)):
        changed = bytearray(seal)
        changed[position] ^= 1
        with pytest.raises(NotAuthentic):
            TRUST.check("entry", DIGEST, bytes(changed))


def test_the_reason_says_what_is_wrong():
    """None; one of an unknown key; of the wrong kind; of another thing."""
    signed = Trust("signed", [OtherKind(SECRET)])
    wrong = {
        b"": "an HMAC is required",
        Trust("hmac", [OTHER]).seal("entry", DIGEST): f"of key {OTHER.id.hex()}, not trusted here",
        signed.seal("entry", DIGEST): "it has a signature, and an HMAC is required",
        TRUST.seal("entry", bytes(32)): "does not match",
    }
    for seal, reason in wrong.items():
        with pytest.raises(NotAuthentic, match=reason):
            TRUST.check("entry", DIGEST, seal)
    with pytest.raises(NotAuthentic, match="it has an HMAC, and a signature is required"):
        signed.check("entry", DIGEST, TRUST.seal("entry", DIGEST))


def test_without_being_asked_for_a_seal_is_told_and_not_believed():
    """A reader without a key still shows who is said to have sealed."""
    info = NO_TRUST.check("entry", DIGEST, TRUST.seal("entry", DIGEST))

    assert str(info) == f"hmac ({KEY.id.hex()}): no such key here"
    assert NO_TRUST.check("entry", DIGEST, b"") is None
    bad = Trust("none", [KEY]).check("entry", bytes(32), TRUST.seal("entry", DIGEST))
    assert str(bad) == f"hmac (mine, {KEY.id.hex()}): does not match"


def test_who_asks_for_signatures_and_has_no_signing_key_keeps_nothing():
    """Neither for others nor for itself: it would refuse it."""
    reader = Trust("signed", [OtherKind(SECRET)], seals=False)

    assert not reader.can_keep
    with pytest.raises(CannotSeal):
        reader.seal("entry", DIGEST)


@given(st.binary(max_size=200), st.integers(0, 220))
def test_any_bytes(data: bytes, offset: int):
    """Whatever stands there is a seal or none."""
    assert is_seal(data) in (True, False)
    assert len(seal_at(data, offset)) <= len(data)
    with pytest.raises(NotAuthentic):
        TRUST.check("entry", DIGEST, data)


def test_a_seal_is_found_before_what_follows_it():
    """As in a holder record, which ends in zeros."""
    seal = TRUST.seal("holder", DIGEST)

    assert seal_at(b"abc" + seal + bytes(50), 3) == seal
    assert seal_at(bytes(50), 3) == b""
