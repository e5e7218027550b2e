"""With a secret, who can write to the store cannot make anybody use anything."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ajit._cache.entries.disk import DiskStore, Found, Published, Rejected
from ajit._cache.entries.failures import FailureStore
from ajit._core.entry import encode
from ajit._core.seal import NO_TRUST, HmacKey, Trust
from ajit.errors import CompileError
from tests.cache.artifacts import a_key, an_artifact
from tests.cache.helpers import entry_file

if TYPE_CHECKING:
    from ajit._cache.files.directory import CacheDirectory

KEY = a_key()
SECRET = Trust("hmac", [HmacKey(bytes(range(32)))])
OTHER = Trust("hmac", [HmacKey(bytes(32))])
SEAL_BYTES = 8 + 1 + 8 + 32
ERROR = CompileError(name="k", key=KEY, compiler="nvrtc", log="line 1\nline 2")


@pytest.fixture
def safe(directory: CacheDirectory) -> DiskStore:
    """A store that asks for authentic entries."""
    return DiskStore(directory, SECRET)


def test_an_authentic_entry_is_found(safe: DiskStore):
    """Published and read with one secret."""
    assert isinstance(safe.publish(an_artifact(KEY)), Published)

    assert safe.read(KEY).artifact == an_artifact(KEY)
    assert safe.manifest(KEY)[0].key == KEY


def test_an_entry_without_an_hmac_is_rejected_and_replaced(store: DiskStore, safe: DiskStore):
    """However whole it is: its digest only shows that nothing was damaged."""
    store.publish(an_artifact(KEY, b"evil"))

    rejected = safe.read(KEY)
    assert isinstance(rejected, Rejected)
    assert "an HMAC is required" in rejected.reason
    assert isinstance(safe.manifest(KEY), Rejected)
    assert safe.publish(an_artifact(KEY), replace=True).method == "rename"
    assert safe.read(KEY).artifact.data == b"code"


def test_an_entry_of_another_secret_is_rejected(directory: CacheDirectory, safe: DiskStore):
    """Written by a process that has another one."""
    DiskStore(directory, OTHER).publish(an_artifact(KEY))

    assert "not trusted here" in safe.read(KEY).reason


def test_an_authentic_entry_under_another_name_is_rejected(safe: DiskStore):
    """An attacker can copy files: the key is in what is authenticated."""
    safe.publish(an_artifact(KEY))
    place = entry_file(safe, a_key("other"))
    place.parent.mkdir(mode=0o700, exist_ok=True)
    place.write_bytes(entry_file(safe, KEY).read_bytes())

    assert isinstance(safe.read(a_key("other")), Rejected)


def test_an_entry_changed_anywhere_is_rejected(safe: DiskStore):
    """Every byte counts, also where the digest was made right again."""
    good = encode(an_artifact(KEY), SECRET)
    body, trailer = good[:-SEAL_BYTES], good[-SEAL_BYTES:]
    changed = body[:-36] + b"?" + body[-35:-32]
    forged = changed + hashlib.sha256(changed).digest()
    assert len(forged) == len(body)
    tries = [forged + trailer, body + trailer[:-1] + b"?", body + b"?" + trailer[1:], good[:-1]]
    tries += [good + b"\0", body + trailer + trailer, body, trailer, b""]
    safe.publish(an_artifact(KEY))
    for number, data in enumerate(tries):
        entry_file(safe, KEY).write_bytes(data)

        assert isinstance(safe.read(KEY), Rejected), number


def test_without_a_secret_authentic_entries_are_read(store: DiskStore, safe: DiskStore):
    """So processes with and without a secret may share a store; damage is still found."""
    safe.publish(an_artifact(KEY))
    assert isinstance(store.read(KEY), Found)

    data = entry_file(safe, KEY).read_bytes()
    entry_file(safe, KEY).write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    assert isinstance(store.read(KEY), Rejected)


@pytest.mark.parametrize("writer", [NO_TRUST, OTHER])
def test_a_failure_record_that_is_not_authentic_counts_for_nothing(directory, writer):
    """Else a user who can write to the store could keep all others from compiling."""
    FailureStore(directory, trust=writer).record(ERROR)

    assert FailureStore(directory, trust=SECRET).recall(KEY) is None


@pytest.mark.parametrize("reader", [NO_TRUST, SECRET])
def test_an_authentic_failure_record_is_shared(directory: CacheDirectory, reader):
    """With the secret, and with those who ask for none."""
    FailureStore(directory, trust=SECRET).record(ERROR)

    assert FailureStore(directory, trust=reader).recall(KEY).log == ERROR.log


def test_a_failure_record_changed_anywhere_counts_for_nothing(directory, path: Path):
    """Its text reaches users, its being there stops them."""
    failures = FailureStore(directory, trust=SECRET)
    failures.record(ERROR)
    [file] = path.glob("failures/*/*.json")
    data = file.read_bytes()
    for changed in (data.replace(b"nvrtc", b"nvcc!"), data[:-1], data + b"\n", b"\n" + data):
        file.write_bytes(changed)

        assert failures.recall(KEY) is None, changed


def test_a_failure_record_that_is_very_large_is_not_read(directory, path: Path):
    """Who can write to the store could else fill the memory of all servers."""
    failures = FailureStore(directory)
    failures.record(ERROR)
    [file] = path.glob("failures/*/*.json")
    os.truncate(file, 256 * 1024 * 1024)
    tracemalloc.start()
    recalled = failures.recall(KEY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert recalled is None
    assert peak < 1024 * 1024
