"""With a secret, who can write to the store cannot make anybody use anything."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ajit._cache.entries.disk import DiskStore, Found, Published, Rejected
from ajit._cache.entries.failures import FailureStore
from ajit._cache.files.secret import MINIMUM_BYTES, load_secret
from ajit._core.entry import encode
from ajit.errors import CompileError, SettingsError
from ajit.settings import Settings
from tests.cache.artifacts import a_key, an_artifact
from tests.cache.helpers import entry_file

if TYPE_CHECKING:
    from ajit._cache.files.directory import CacheDirectory

KEY = a_key()
SECRET = bytes(range(32))
OTHER = bytes(32)
ERROR = CompileError(name="k", key=KEY, compiler="nvrtc", log="line 1\nline 2")


@pytest.fixture
def safe(directory: CacheDirectory) -> DiskStore:
    """A store that asks for authentic entries."""
    return DiskStore(directory, SECRET)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A private file with a secret."""
    path = tmp_path / "key"
    path.write_bytes(SECRET.hex().encode() + b"\n")
    path.chmod(0o600)
    return path


def load(path: Path) -> bytes | None:
    """Load the secret as settings name it."""
    return load_secret(Settings(environ={"HOME": "/h", "AJIT_HMAC_KEY_FILE": str(path)}))


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

    assert "HMAC does not match" in safe.read(KEY).reason


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
    body, trailer = good[:-40], good[-40:]
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


@pytest.mark.parametrize("writer", [None, OTHER])
def test_a_failure_record_that_is_not_authentic_counts_for_nothing(directory, writer):
    """Else a user who can write to the store could keep all others from compiling."""
    FailureStore(directory, secret=writer).record(ERROR)

    assert FailureStore(directory, secret=SECRET).recall(KEY) is None


@pytest.mark.parametrize("reader", [None, SECRET])
def test_an_authentic_failure_record_is_shared(directory: CacheDirectory, reader):
    """With the secret, and with those who ask for none."""
    FailureStore(directory, secret=SECRET).record(ERROR)

    assert FailureStore(directory, secret=reader).recall(KEY).log == ERROR.log


def test_a_failure_record_changed_anywhere_counts_for_nothing(directory, path: Path):
    """Its text reaches users, its being there stops them."""
    failures = FailureStore(directory, secret=SECRET)
    failures.record(ERROR)
    [file] = path.glob("failures/*/*.json")
    data = file.read_bytes()
    for changed in (data.replace(b"nvrtc", b"nvcc!"), data[:-1], data + b"\n", b"\n" + data):
        file.write_bytes(changed)

        assert failures.recall(KEY) is None, changed


# --- the file -------------------------------------------------------------------------------------


def test_the_secret_is_what_the_file_holds(key_file: Path):
    """Without the line break of an editor; no file named, no secret."""
    assert load(key_file) == SECRET.hex().encode()
    assert load_secret(Settings(environ={"HOME": "/h"})) is None


def test_a_mounted_secret_may_be_a_link(key_file: Path, tmp_path: Path):
    """As containers have them; what it leads to is checked."""
    (tmp_path / "link").symlink_to(key_file)
    assert load(tmp_path / "link") == SECRET.hex().encode()

    key_file.chmod(0o644)
    with pytest.raises(SettingsError):
        load(tmp_path / "link")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o666])
def test_a_file_that_others_can_use_is_refused(key_file: Path, mode: int):
    """A user who reads it can forge entries; one who writes it can choose the secret."""
    key_file.chmod(mode)

    with pytest.raises(SettingsError, match="chmod 600") as caught:
        load(key_file)
    assert caught.value.origin == "AJIT_HMAC_KEY_FILE"
    assert SECRET.hex() not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(key_file: Path):
    """Its owner could change it."""
    os.chown(key_file, 65534, -1)

    with pytest.raises(SettingsError, match="belongs to user 65534"):
        load(key_file)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"x" * (MINIMUM_BYTES - 1), b"x" * 5000])
def test_a_file_without_a_secret_is_refused(key_file: Path, data: bytes):
    """Empty, too short to be one, or something else altogether."""
    key_file.write_bytes(data)

    with pytest.raises(SettingsError, match="bytes"):
        load(key_file)


def test_a_secret_that_is_no_file_is_refused(tmp_path: Path):
    """Nothing there, a directory, a pipe that would hang."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        with pytest.raises(SettingsError, match="hmac_key_file"):
            load(path)


def test_a_secret_may_come_by_a_variable(key_file: Path):
    """The same secret in a variable and in a file: the same entries are authentic."""
    from_variable = load_secret(Settings(environ={"AJIT_HMAC_KEY": SECRET.hex() + "\n"}))

    assert from_variable == load(key_file)


def test_a_secret_that_is_too_short_is_refused_and_not_shown():
    """A password is no secret of 128 bits."""
    with pytest.raises(SettingsError, match="at least 16 secret bytes") as caught:
        load_secret(Settings(environ={"AJIT_HMAC_KEY": "hunter2"}))
    assert caught.value.origin == "AJIT_HMAC_KEY"
    assert "hunter2" not in str(caught.value)


def test_a_secret_of_surrogates_is_refused_and_not_shown():
    """A text that stands for no bytes; the error of the encoding would carry it along."""
    with pytest.raises(SettingsError, match="surrogates that stand for no byte") as caught:
        load_secret(Settings(environ={}, hmac_key="hunter2\ud800" * 4))

    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert "hunter2" not in f"{caught.value} {caught.value!r}"


def test_two_secrets_at_once_are_refused(key_file: Path):
    """Which of them counts would be a guess; neither is shown."""
    both = {"AJIT_HMAC_KEY": SECRET.hex(), "AJIT_HMAC_KEY_FILE": str(key_file)}

    with pytest.raises(SettingsError, match="not together") as caught:
        Settings(environ=both)
    assert SECRET.hex() not in f"{caught.value} {caught.value!r}"


def test_a_secret_is_not_in_the_repr_of_the_settings():
    """Settings are logged; and a wrong argument is shown in the error, but not this one."""
    assert SECRET.hex() not in repr(Settings(environ={}, hmac_key=SECRET.hex()))

    with pytest.raises(SettingsError) as caught:
        Settings(environ={}, hmac_key=SECRET)
    assert repr(SECRET) not in str(caught.value)
