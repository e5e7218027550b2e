"""Keys that vouch for a cache: made, changed while servers run, and shown."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ajit._cache.entries.disk import DiskStore
from ajit._cache.files.directory import open_cache_directory
from ajit.cli import exits
from tests.cache.artifacts import a_key, an_artifact

SAXPY = """\
extern "C" __global__ void saxpy(float a, const float* x, float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += a * x[i];
}
"""


@pytest.fixture
def compile_(ajit, tmp_path):
    """Compile one kernel, or find it, under some settings; the object that it prints."""
    (tmp_path / "saxpy.cu").write_text(SAXPY)

    def compile_(**environ):
        command = ("compile", "saxpy.cu", "--entry", "saxpy", "--arch", "sm_90a", "--json")
        return ajit(*command, **{name: str(value) for name, value in environ.items()}).json()

    return compile_


@pytest.fixture
def keygen(ajit, tmp_path):
    """Make a key, and return the files."""

    def keygen(name, *options):
        if "--hmac" not in options:
            pytest.importorskip("cryptography", reason="signatures need cryptography: ajit[sign]")
        assert ajit("keygen", name, *options).code == exits.FINE
        return tmp_path / f"{name}.key", tmp_path / f"{name}.pub"

    return keygen


def mode_of(path: Path) -> int:
    """The permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


# --- making ---------------------------------------------------------------------------------------


def test_a_pair_is_a_private_and_a_public_file(ajit, keygen, tmp_path):
    """The private one is never readable by others, whatever the umask is."""
    private, public = keygen("ci")
    told = ajit("keygen", "other", "--json").json()

    assert (mode_of(private), mode_of(public)) == (0o600, 0o644)
    assert private.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert public.read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----")
    assert {"name": "other", "method": "ed25519", "private": str(Path("other.key")),
            "schema": 1, "public": "other.pub"} == {
                k: v for k, v in told.items() if k != "key_id"}  # fmt: skip
    assert len(told["key_id"]) == 16


def test_a_secret_is_one_private_file(ajit, tmp_path):
    """It needs no package."""
    told = ajit("keygen", "fleet", "--hmac", "--json").json()

    assert ("hmac", None) == (told["method"], told["public"])
    assert mode_of(tmp_path / "fleet.key") == 0o600
    assert len((tmp_path / "fleet.key").read_text().strip()) == 64
    assert not (tmp_path / "fleet.pub").exists()


def test_a_file_that_is_there_is_never_replaced(ajit, keygen, tmp_path):
    """Neither half; and of the other one nothing is left."""
    private, public = keygen("ci")
    before = private.read_bytes(), public.read_bytes()
    again = ajit("keygen", "ci", "--json")
    private.rename(tmp_path / "away.key")
    half = ajit("keygen", "ci")

    assert (exits.PROBLEM, "NotWritten") == (again.code, again.json()["error"])
    assert "ajit: cannot write ci.key: File exists" in again.err
    assert (exits.PROBLEM, False) == (half.code, private.exists())
    assert before == ((tmp_path / "away.key").read_bytes(), public.read_bytes())


def test_a_name_that_is_none_is_usage(ajit):
    """A directory's own name."""
    assert ajit("keygen", "/", "--hmac").code == exits.USAGE


def test_without_cryptography_a_pair_cannot_be_made(ajit, tmp_path):
    """An extra that is not installed is the environment's fault."""
    code = (
        "import sys; sys.modules['cryptography.hazmat.primitives'] = None\n"
        "from ajit.cli.main import run\n"
        "sys.exit(run(sys.argv[1:]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "keygen", "ci"],
        cwd=tmp_path, env=ajit.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert exits.ENVIRONMENT == ended.returncode
    assert "pip install 'ajit[sign]'" in ended.stderr
    assert list(tmp_path.iterdir()) == []


# --- changing a secret ----------------------------------------------------------------------------


def test_a_rolling_change_of_the_secret_compiles_nothing_again(compile_, keygen):
    """All learn the new one; then all seal with it; then the old one goes. In this order."""
    old, new = keygen("old", "--hmac")[0], keygen("new", "--hmac")[0]
    tiers = [
        compile_(AJIT_HMAC_KEY_FILE=keys)["tier"]
        for keys in (old, f"{old}:{new}", old, f"{new}:{old}", f"{old}:{new}", f"{new}:{old}")
    ]

    assert tiers == ["compiled", *["disk"] * 5]


def test_a_process_that_was_left_behind_compiles_once_and_spoils_nothing(compile_, keygen):
    """It knows the old secret only. What it puts in place of the new is good for the others."""
    old, new = keygen("old", "--hmac")[0], keygen("new", "--hmac")[0]
    both = f"{new}:{old}"
    tiers = [compile_(AJIT_HMAC_KEY_FILE=keys)["tier"] for keys in (both, old, old, both, old)]

    assert tiers == ["compiled", "compiled", "disk", "disk", "disk"]


# --- signatures -----------------------------------------------------------------------------------


def test_who_compiles_signs_and_who_loads_needs_no_secret(compile_, keygen):
    """Also a process that trusts no key by name may read it."""
    private, public = keygen("ci")

    assert compile_(AJIT_SIGNING_KEY_FILE=private)["tier"] == "compiled"
    assert compile_(AJIT_PUBLIC_KEY_FILES=public)["tier"] == "disk"
    assert compile_()["tier"] == "disk"


def test_what_is_not_signed_by_a_trusted_key_is_not_loaded(compile_, keygen):
    """By another signer, by a secret, by none: each is a miss, and the log says why."""
    _, public = keygen("ci")
    other, _ = keygen("other")
    secret, _ = keygen("fleet", "--hmac")
    for writer in (
        {"AJIT_SIGNING_KEY_FILE": other},
        {"AJIT_HMAC_KEY_FILE": secret},
        {"AJIT_TRUST": "none"},
    ):
        compile_(**writer)
        assert compile_(**writer)["tier"] == "disk"

        told = compile_(AJIT_PUBLIC_KEY_FILES=public)
        assert ("compiled", False) == (told["tier"], told["stored"])


def test_without_a_signing_key_what_is_compiled_is_used_and_not_stored(ajit, compile_, keygen):
    """It would be refused by all who trust the same; what is there is not touched."""
    private, public = keygen("ci")
    compile_(AJIT_SIGNING_KEY_FILE=private)
    [entry] = ajit.cache_dir.glob("entries/*/*.ajit")
    damaged = entry.read_bytes()[:-1]
    entry.write_bytes(damaged)
    told = compile_(AJIT_PUBLIC_KEY_FILES=public)

    assert ("compiled", False) == (told["tier"], told["stored"])
    assert damaged == entry.read_bytes()
    assert compile_(AJIT_SIGNING_KEY_FILE=private)["tier"] == "compiled"
    assert compile_(AJIT_PUBLIC_KEY_FILES=public)["tier"] == "disk"


def test_an_older_entry_with_a_good_seal_is_good_when_it_is_put_back(ajit, compile_, keygen):
    """Documented: a seal says who made it, and not when. It still is of this very key."""
    secret, _ = keygen("fleet", "--hmac")
    compile_(AJIT_HMAC_KEY_FILE=secret)
    [entry] = ajit.cache_dir.glob("entries/*/*.ajit")
    older = entry.read_bytes()
    entry.unlink()
    compile_(AJIT_HMAC_KEY_FILE=secret)
    assert older != entry.read_bytes(), "it has another time in it"
    entry.write_bytes(older)

    assert compile_(AJIT_HMAC_KEY_FILE=secret)["tier"] == "disk"


# --- looking --------------------------------------------------------------------------------------


def test_verify_and_inspect_tell_which_key_sealed(ajit, keygen, tmp_path):
    """By the name that its file has here; of a key that is not known here its id."""
    private, public = keygen("ci")
    secret, _ = keygen("fleet", "--hmac")
    store = DiskStore(open_cache_directory(ajit.cache_dir), _trust(signing_key_file=private))
    store.publish(an_artifact(a_key()))
    DiskStore(store.directory, _trust(hmac_key_file=secret)).publish(an_artifact(a_key(1)))
    DiskStore(store.directory).publish(an_artifact(a_key(2)))
    knowing = {"AJIT_TRUST": "none", "AJIT_PUBLIC_KEY_FILES": str(public)}
    shown = ajit("cache", "inspect", a_key(), **knowing).out
    inspected = ajit("cache", "inspect", a_key(), "--json", **knowing).json()["seal"]
    verified = ajit("cache", "verify", "--json", **knowing).json()["seals"]
    unsealed = ajit("cache", "inspect", a_key(2), "--json").json()["seal"]

    assert f"ed25519 (ci, {inspected['key_id']})" in shown
    assert ("ed25519", "ci", "good") == tuple(
        inspected[name] for name in ("method", "name", "state")
    )
    assert {("ed25519", "ci", "good", 1), ("hmac", "", "unknown", 1)} == {
        (item["method"], item["name"], item["state"], item["entries"]) for item in verified
    }
    assert unsealed is None


def test_verify_says_what_is_not_signed_by_a_trusted_key(ajit, keygen):
    """Each with its reason, and who has signed the others."""
    private, public = keygen("ci")
    other, _ = keygen("other")
    store = DiskStore(open_cache_directory(ajit.cache_dir), _trust(signing_key_file=private))
    store.publish(an_artifact(a_key()))
    DiskStore(store.directory, _trust(signing_key_file=other)).publish(an_artifact(a_key(1)))
    DiskStore(store.directory).publish(an_artifact(a_key(2)))
    ended = ajit("cache", "verify", AJIT_PUBLIC_KEY_FILES=str(public))

    assert exits.PROBLEM == ended.code
    assert "its signature is of key" in ended.out
    assert "it is not authenticated, and a signature is required" in ended.out
    assert "1 entry sealed by ed25519 (ci, " in ended.out


def _trust(**settings):
    from ajit._cache.files.trust import load_trust
    from ajit.settings import Settings

    return load_trust(Settings(environ={"HOME": "/h"}, **settings))


def _trust_check(ajit, **environ):
    """What `ajit doctor` says about trust."""
    checks = ajit("doctor", "--json", **environ).json()["checks"]
    [check] = [check for check in checks if check["name"] == "cache trust"]
    return check["status"], check["found"], check["advice"]


def test_doctor_says_what_is_trusted_and_what_is_wrong_with_a_key(ajit, keygen):
    """As a runtime would find it."""
    old, new = (keygen(name, "--hmac")[0] for name in ("old", "new"))
    _, public = keygen("ci")
    status, found, advice = _trust_check(ajit, AJIT_HMAC_KEY_FILE=f"{new}:{old}")
    reader = _trust_check(ajit, AJIT_PUBLIC_KEY_FILES=str(public))
    old.chmod(0o644)
    wrong = _trust_check(ajit, AJIT_HMAC_KEY_FILE=str(old))

    assert (status, found.startswith("hmac: new ("), ", old (" in found) == ("ok", True, True)
    assert advice.startswith("seals with new (")
    assert reader[1].startswith("signed: ci (")
    assert "without a signing key nothing is kept" in reader[2]
    assert ("problem", "auto") == wrong[:2]
    assert "chmod 600" in wrong[2]
    assert ("ok", "none", "") == _trust_check(ajit)
