"""Keys are read from private files, or the runtime does not start."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ajit._cache.files import signing
from ajit._cache.files.trust import MINIMUM_BYTES, load_trust
from ajit._core.seal import NotAuthentic, Trust
from ajit.errors import SettingsError
from ajit.settings import Settings

SECRET = bytes(range(32)).hex()
DIGEST = b"d" * 32


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A private file with a secret."""
    return a_secret(tmp_path / "key")


def a_secret(path: Path, secret: str = SECRET) -> Path:
    """Write a private file with a secret."""
    path.write_text(f"{secret}\n")
    path.chmod(0o600)
    return path


def a_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a signing key and its public half."""
    pytest.importorskip("cryptography", reason="signatures need cryptography: ajit[sign]")
    private, public, _ = signing.make_pair()
    paths = folder / f"{name}.key", folder / f"{name}.pub"
    for path, data in zip(paths, (private, public), strict=True):
        path.write_bytes(data)
        path.chmod(0o600)
    paths[1].chmod(0o644)
    return paths


def load(**settings: object) -> Trust:
    """Load what settings name."""
    return load_trust(Settings(environ={"HOME": "/h"}, **settings))


def takes(reader: Trust, writer: Trust) -> bool:
    """Whether a reader takes what a writer sealed."""
    try:
        reader.check("entry", DIGEST, writer.seal("entry", DIGEST))
    except NotAuthentic:
        return False
    return True


# --- secrets --------------------------------------------------------------------------------------


def test_the_secret_is_what_the_file_holds(key_file: Path, tmp_path: Path):
    """Without the line break of an editor; no file named, no secret."""
    other = a_secret(tmp_path / "other", SECRET + "  \n\n")

    assert takes(load(hmac_key_file=key_file), load(hmac_key_file=other))
    assert takes(load(hmac_key_file=key_file), load(hmac_key=SECRET + "\n"))
    assert load().required == "none"
    assert load().seal("entry", DIGEST) == b""


def test_the_first_of_several_secrets_seals_and_all_are_taken(tmp_path: Path):
    """A secret is changed while servers run: what the old one sealed stays good."""
    old = a_secret(tmp_path / "old.key")
    new = a_secret(tmp_path / "new.key", "another secret of the fleet")
    before, first = load(hmac_key_file=old), load(hmac_key_file=[old, new])
    then, after = load(hmac_key_file=f"{new}:{old}"), load(hmac_key_file=new)

    assert takes(before, first)
    assert takes(first, before)
    assert takes(first, then)
    assert takes(then, first)
    assert takes(then, after)
    assert takes(after, then)
    assert not takes(before, then), "so the order matters: both know both before one seals"
    assert not takes(after, first)
    assert then.check("entry", DIGEST, then.seal("entry", DIGEST)).name == "new"


def test_several_secrets_may_come_by_a_variable(tmp_path: Path):
    """One a line."""
    old, new = load(hmac_key=SECRET), load(hmac_key="another secret of the fleet")
    both = load(hmac_key=f"another secret of the fleet\n{SECRET}\n")

    assert takes(both, old)
    assert takes(new, both)
    assert not takes(old, both)


def test_a_mounted_secret_may_be_a_link(key_file: Path, tmp_path: Path):
    """As containers have them; what it leads to is checked."""
    (tmp_path / "link").symlink_to(key_file)
    assert takes(load(hmac_key_file=tmp_path / "link"), load(hmac_key_file=key_file))

    key_file.chmod(0o644)
    with pytest.raises(SettingsError):
        load(hmac_key_file=tmp_path / "link")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o666])
def test_a_file_that_others_can_use_is_refused(key_file: Path, mode: int):
    """A user who reads it can forge entries; one who writes it can choose the secret."""
    key_file.chmod(mode)

    environ = {"HOME": "/h", "AJIT_HMAC_KEY_FILE": str(key_file)}
    with pytest.raises(SettingsError, match="chmod 600") as caught:
        load_trust(Settings(environ=environ))
    assert caught.value.origin == "AJIT_HMAC_KEY_FILE"
    assert SECRET not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(key_file: Path):
    """Its owner could change it."""
    os.chown(key_file, 65534, -1)

    with pytest.raises(SettingsError, match="belongs to user 65534"):
        load(hmac_key_file=key_file)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"x" * (MINIMUM_BYTES - 1), b"x" * 5000])
def test_a_file_without_a_secret_is_refused(key_file: Path, data: bytes):
    """Empty, too short to be one, or something else altogether."""
    key_file.write_bytes(data)

    with pytest.raises(SettingsError, match="bytes"):
        load(hmac_key_file=key_file)


def test_a_secret_that_is_no_file_is_refused(tmp_path: Path):
    """Nothing there, a directory, a pipe that would hang; and the second of two counts as well."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    good = a_secret(tmp_path / "good")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe", [good, tmp_path / "missing"]):
        with pytest.raises(SettingsError, match="hmac_key_file"):
            load(hmac_key_file=path)


@pytest.mark.parametrize(
    "text", ["hunter2", " ", "\n", f"{SECRET}\nhunter2", f"{SECRET}\n\n"[::-1]]
)
def test_a_secret_that_is_too_short_is_refused_and_not_shown(text: str):
    """A password is no secret of 128 bits; nothing at all is not "no authentication"."""
    with pytest.raises(SettingsError, match="at least 16 secret bytes") as caught:
        load(hmac_key=text)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["hmac_key_file", "public_key_files"])
@pytest.mark.parametrize("paths", [":", ":".join("abc" * 30)])
def test_no_file_and_very_many_files_are_refused(name: str, paths: str):
    """A separator alone would else be no authentication at all."""
    with pytest.raises(SettingsError, match="1 to 64 files"):
        load(**{name: paths})


def test_a_list_of_paths_has_no_separator_in_a_path():
    """It would be two."""
    with pytest.raises(SettingsError, match="hmac_key_file"):
        load(hmac_key_file=["/a:b", "/c"])


def test_a_secret_of_surrogates_is_refused_and_not_shown():
    """A text that stands for no bytes; the error of the encoding would carry it along."""
    with pytest.raises(SettingsError, match="surrogates that stand for no byte") as caught:
        load(hmac_key="hunter2\ud800" * 4)

    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert "hunter2" not in f"{caught.value} {caught.value!r}"


def test_two_secrets_at_once_are_refused(key_file: Path):
    """Which of them counts would be a guess; neither is shown."""
    both = {"AJIT_HMAC_KEY": SECRET, "AJIT_HMAC_KEY_FILE": str(key_file)}

    with pytest.raises(SettingsError, match="not together") as caught:
        Settings(environ=both)
    assert SECRET not in f"{caught.value} {caught.value!r}"


def test_a_secret_is_not_in_the_repr_of_settings_and_trust():
    """Settings are logged; and a wrong argument is shown in the error, but not this one."""
    assert SECRET not in repr(Settings(environ={}, hmac_key=SECRET))
    assert SECRET not in repr(load(hmac_key=SECRET))

    with pytest.raises(SettingsError) as caught:
        Settings(environ={}, hmac_key=SECRET.encode())
    assert SECRET not in str(caught.value)


# --- pairs ----------------------------------------------------------------------------------------


def test_who_has_the_public_key_takes_what_the_signing_key_sealed(tmp_path: Path):
    """And cannot seal anything himself."""
    private, public = a_pair(tmp_path, "ci")
    signer, reader = load(signing_key_file=private), load(public_key_files=public)

    assert (signer.required, reader.required) == ("signed", "signed")
    assert takes(reader, signer)
    assert takes(signer, signer)
    assert reader.check("entry", DIGEST, signer.seal("entry", DIGEST)).name == "ci"
    assert (signer.can_keep, reader.can_keep) == (True, False)


def test_the_signature_of_another_key_is_not_taken(tmp_path: Path):
    """Of a pair of the same name, and one whose id was written over."""
    one, public = a_pair(tmp_path, "ci")
    (tmp_path / "other").mkdir()
    other, _ = a_pair(tmp_path / "other", "ci")
    reader = load(public_key_files=public)
    seal, good = (load(signing_key_file=key).seal("entry", DIGEST) for key in (other, one))
    forged = good[:17] + seal[17:]

    assert not takes(reader, load(signing_key_file=other))
    with pytest.raises(NotAuthentic, match="does not match"):
        reader.check("entry", DIGEST, forged)


def test_several_public_keys_are_taken(tmp_path: Path):
    """Of each team that may compile."""
    pairs = [a_pair(tmp_path, name) for name in ("one", "two", "three")]
    reader = load(public_key_files=[public for _, public in pairs[:2]])

    taken = [takes(reader, load(signing_key_file=private)) for private, _ in pairs]
    assert taken == [True, True, False]


def test_a_public_key_may_be_read_by_all_and_written_by_none(tmp_path: Path):
    """Who changes it decides whom this process trusts."""
    _, public = a_pair(tmp_path, "ci")
    public.chmod(0o664)

    with pytest.raises(SettingsError, match=r"others may write it, mode 0664: chmod 644 it"):
        load(public_key_files=public)


def test_a_signing_key_is_as_private_as_a_secret(tmp_path: Path):
    """Who reads it can sign."""
    private, _ = a_pair(tmp_path, "ci")
    private.chmod(0o644)

    with pytest.raises(SettingsError, match="chmod 600"):
        load(signing_key_file=private)


def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path):
    """A private key in place of a public one, and the other way round; another kind; a text."""
    private, public = a_pair(tmp_path, "ci")
    text = a_secret(tmp_path / "text")
    rsa = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    made = subprocess.run([*rsa, "-out", tmp_path / "ec"], check=False, capture_output=True)
    public.chmod(0o600)
    wrong = [public, text, *([tmp_path / "ec"] if made.returncode == 0 else [])]
    for path in wrong:
        with pytest.raises(SettingsError, match="signing_key_file"):
            load(signing_key_file=path)
    for path in (private, text):
        with pytest.raises(SettingsError, match="it holds no public key") as caught:
            load(public_key_files=path)
        assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, True)


def test_keys_of_openssl_are_taken(tmp_path: Path):
    """So nothing of ajit is needed where the key is made."""
    pytest.importorskip("cryptography")
    private, public = tmp_path / "k.key", tmp_path / "k.pub"
    make = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", private]
    try:
        subprocess.run(make, check=True, capture_output=True)
        take = ["openssl", "pkey", "-in", private, "-pubout", "-out", public]
        subprocess.run(take, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"no openssl that makes such keys: {exc}")

    assert takes(load(public_key_files=public), load(signing_key_file=private))


# --- what is asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize(("trust", "key"), [("hmac", "hmac_key_file"), ("signed", "public_key")])
def test_trust_without_a_key_to_check_with_is_refused(trust: str, key: str):
    """All would be a miss."""
    with pytest.raises(SettingsError, match=key):
        load(trust=trust)


def test_trust_none_takes_all_and_seals_with_the_key(key_file: Path):
    """The first step to a secret in a running fleet: all seal, and none asks yet."""
    sealing, asking = load(trust="none", hmac_key_file=key_file), load(hmac_key_file=key_file)

    assert takes(asking, sealing)
    assert takes(sealing, load())
    assert not takes(asking, load())


def test_trust_says_which_kind_counts(tmp_path: Path, key_file: Path):
    """With keys of both kinds; by default a signature."""
    private, public = a_pair(tmp_path, "ci")
    signed, sealed = load(signing_key_file=private), load(hmac_key_file=key_file)
    both = {"hmac_key_file": key_file, "public_key_files": public}

    assert takes(load(**both), signed)
    assert not takes(load(**both), sealed)
    assert takes(load(**both, trust="hmac"), sealed)
    assert not takes(load(**both, trust="hmac"), signed)
    assert takes(sealed, load(**both, trust="hmac"))


def test_without_cryptography_signatures_are_refused_by_name(tmp_path: Path, monkeypatch):
    """It is an extra; the error says what to install. Secrets need none."""
    _, public = a_pair(tmp_path, "ci")
    monkeypatch.setitem(__import__("sys").modules, "cryptography.hazmat.primitives", None)

    with pytest.raises(SettingsError, match=r"pip install 'ajit\[sign\]'"):
        load(public_key_files=public)
    assert load(hmac_key=SECRET).required == "hmac"
