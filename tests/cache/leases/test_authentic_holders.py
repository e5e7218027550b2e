"""With a secret, who holds a lock but does not know it is silent, whatever he writes."""

from __future__ import annotations

import math
import os

import msgspec
import pytest

from ajit._cache.entries.holders import held_leases
from ajit._cache.leases import holder
from ajit._cache.leases.holder import HolderRecord, decode_record, encode_record
from ajit._cache.leases.permits import CompilePermits
from ajit._cache.leases.table import Busy, LeaseTable
from ajit._core.seal import NO_TRUST, HmacKey, Trust
from tests.cache.artifacts import a_job, a_key
from tests.cache.helpers import lock_file, poll

KEY = a_key()
SECRET = Trust("hmac", [HmacKey(bytes(range(32)))])
OTHER = Trust("hmac", [HmacKey(bytes(32))])
PATIENT = 1000.0

RECORD = HolderRecord(
    host="a", boot_id="b", pid=1, start_ticks=0, phase="compiling", compiler="nvrtc",
    started=1.0, beat=3, beat_time=4.0, name="saxpy", namespace=5,
)  # fmt: skip


class WideKey(HmacKey):
    """As long a seal as there is."""

    method = "ed25519"

    def tag(self, message: bytes) -> bytes:
        """Return a tag as long as a signature."""
        return 2 * super().tag(message)


@pytest.fixture
def safe(table: LeaseTable) -> LeaseTable:
    """The leases, for a process with the secret."""
    return LeaseTable(table.directory, SECRET)


def test_a_record_comes_back_with_the_secret_and_to_those_who_ask_for_none():
    """Readers of both kinds share the locks."""
    data = encode_record(RECORD, "place", SECRET)

    assert decode_record(data, "place", SECRET) == RECORD
    assert decode_record(data, "place", NO_TRUST) == RECORD
    assert decode_record(encode_record(RECORD), "place", NO_TRUST) == RECORD


@pytest.mark.parametrize("writer", [NO_TRUST, OTHER])
def test_a_record_without_a_good_seal_says_nothing(writer: Trust):
    """It is none, to those who ask for one."""
    assert decode_record(encode_record(RECORD, "place", writer), "place", SECRET) is None


def test_the_record_of_one_lock_says_nothing_in_another():
    """An attacker who holds a lock copies there what a busy server writes elsewhere."""
    assert decode_record(encode_record(RECORD, "one", SECRET), "two", SECRET) is None


def test_a_record_changed_anywhere_says_nothing():
    """Up to the end of its seal; behind it are zeros, which mean nothing."""
    data = encode_record(RECORD, "place", SECRET)
    end = len(data.rstrip(b"\0"))
    for position in range(end):
        changed = bytearray(data)
        changed[position] ^= 1
        assert decode_record(bytes(changed), "place", SECRET) is None, position


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan, 1e308, -1e308, 1e11, -1.0])
def test_a_record_of_no_time_says_nothing(odd: float):
    """Not a number is equal to nothing, so each look at it would be a new beat.

    Times that are finite and far apart give an age that is not.
    """
    for name in ("started", "beat_time", "cpu_seconds"):
        record = msgspec.structs.replace(RECORD, **{name: odd})
        assert decode_record(encode_record(record)) is None


def test_the_longest_record_has_room_for_the_longest_seal(safe: LeaseTable):
    """In an alphabet that takes four bytes a letter."""
    wide = Trust("signed", [WideKey(b"secret")])
    table = LeaseTable(safe.directory, wide)
    with table.try_acquire(KEY, "𐀀" * 500, name="𐀀" * 500) as lease:
        host = holder.fitting("𐀀" * 500, holder.HOST_BYTES)
        record = msgspec.structs.replace(
            lease.record, host=host, boot_id="f" * 36, phase="publishing",
            pid=2**22, start_ticks=2**60, beat=2**30, namespace=2**32 - 1, cpu_seconds=1e9,
        )  # fmt: skip
        data = encode_record(record, KEY, wide)

    assert len(data) == holder.RECORD_BYTES
    assert decode_record(data, KEY, wide) == record


def test_a_holder_with_the_secret_is_seen(safe: LeaseTable, path):
    """By another table of it, through the file."""
    with safe.try_acquire(KEY, "nvrtc") as lease:
        lease.beat("compiling")
        data = lock_file(path).read_bytes()

    assert decode_record(data, KEY, SECRET) == lease.record


def test_a_holder_without_the_secret_is_busy_and_unknown(safe: LeaseTable, start_peer):
    """It has the lock: nothing can be taken from it. It just is not heard."""
    peer = start_peer()
    peer.ask("acquire", KEY)
    peer.ask("beat", KEY, "compiling")
    outcome = safe.try_acquire(KEY, "nvrtc")

    assert outcome == Busy(None)
    assert safe.read_holder(KEY) is None
    [seen] = held_leases(safe.directory, SECRET)
    assert (seen.record.pid, seen.authentic) == (peer.pid, False)


def test_permits_of_a_process_without_the_secret_hold_no_other_up(directory, start_peer, table):
    """It holds the only one and beats. Without the secret it would be waited for."""
    peer = start_peer()
    peer.ask("count", "1", str(PATIENT))
    assert peer.ask("admit")["holds"]
    # More than from one beat to the next.
    trusting, mine = (
        CompilePermits(directory, 1, patience_seconds=2.0, trust=trust)
        for trust in (NO_TRUST, SECRET)
    )
    believed = []

    def ask():
        believed.append(trusting.try_admit(a_job()))
        return mine.try_admit(a_job())

    permit = poll(ask)
    permit.release()

    assert permit.lease is None, "granted in place of a silent holder's"
    assert set(believed) == {None}


def test_a_process_that_cannot_seal_holds_its_lease_in_silence(directory, table):
    """Like the eviction of a server that only loads: its lock excludes others all the same."""
    reader = LeaseTable(directory, Trust("signed", [WideKey(b"secret")], seals=False))
    with reader.try_acquire(KEY, "eviction") as lease:
        assert lease.held
        assert table.read_holder(KEY).pid == os.getpid()
