"""`ajit doctor --bundle`: what is packed, and what is not."""

from __future__ import annotations

import json
import platform
import stat
import zipfile

import pytest

from ajit._cache.entries.disk import DiskStore
from ajit._cache.entries.failures import FailureStore
from ajit._cache.files.directory import open_cache_directory
from ajit.cli import exits
from ajit.errors import CompileError
from tests.cli.test_cache import put

PHRASE = "correct horse battery staple, and more of it"
MEMBERS = [
    "README.txt", "doctor.json", "versions.json", "settings.json", "environment.json", "cache.json",
    "failures.json",
]  # fmt: skip


@pytest.fixture
def filled(ajit):
    """A cache with an entry and a failure, in a home of a user with a name."""
    directory = open_cache_directory(ajit.cache_dir)
    put(DiskStore(directory), "confidential")
    log = f"in {ajit.folder}/k.cu: API_KEY=abcdefgh {PHRASE}\n" + "x" * 5000
    error = CompileError(name="broken.cu", key="ab" * 32, compiler="nvrtc", log=log)
    FailureStore(directory).record(error)
    ajit.environ |= {"HOME": str(ajit.folder), "USER": "ann", "GITHUB_TOKEN": "abcdefgh"}
    return ajit


def unpacked(ajit, name="help.zip"):
    """The texts of a support file, by name."""
    with zipfile.ZipFile(ajit.folder / name) as archive:
        return {
            item.filename.removeprefix("help/"): archive.read(item).decode()
            for item in archive.infolist()
        }


def test_file_has_what_is_asked_first_and_says_so(filled):
    """Only this user may read it; the command's result is as without it."""
    ended = filled("doctor", "--bundle", "help.zip", "--json")

    texts = unpacked(filled)
    documents = {name: json.loads(text) for name, text in texts.items() if name.endswith("json")}
    assert list(texts) == MEMBERS
    assert ended.json()["bundle"] == {"file": "help.zip", "members": MEMBERS}
    assert "look through it before you send it" in ended.err
    assert ended.code in (exits.FINE, exits.PROBLEM)
    assert stat.S_IMODE((filled.folder / "help.zip").stat().st_mode) == 0o600
    assert all(f"\n{name} " in texts["README.txt"] for name in documents)
    checks = [check["name"] for check in documents["doctor.json"]["checks"]]
    assert checks == [check["name"] for check in ended.json()["checks"]]
    assert "msgspec" in documents["versions.json"]["packages"]
    origins = {row["name"]: row["origin"] for row in documents["settings.json"]["settings"]}
    assert origins["cache_dir"] == "AJIT_CACHE_DIR"
    assert documents["cache.json"]["entries"] == 1
    [failure] = documents["failures.json"]["failures"]
    assert failure["name"] == "broken.cu"
    assert "characters in all" in failure["log"]


def test_nothing_of_secrets_user_machine_or_kernels_is_in_it(filled):
    """Neither from variables, nor from logs, nor from paths."""
    filled("doctor", "--bundle", "help.zip", AJIT_HMAC_KEY=PHRASE)

    texts = unpacked(filled)
    for name, text in texts.items():
        for private in ("horse", "abcdefgh", "GITHUB", str(filled.folder), "confidential"):
            assert private not in text, name
        if len(platform.node()) > 3:
            assert platform.node() not in text, name
    assert "~/cache" in texts["settings.json"]
    assert json.loads(texts["environment.json"])["variables"]["AJIT_HMAC_KEY"] == "(removed)"


def test_values_of_variables_that_are_no_settings_are_not_in_it(filled):
    """A misspelt name may have a key in it, and what an unknown one means no one knows."""
    unknown = {
        "AJIT_HMACKEY": "0123456789abcdef0123456789abcdef",
        "AJIT_DB_TOKEN": "hunter2hunter2",
        "AJIT_REGISTRY": "https://alice:p@ss@w0rd@host/x",
        "AJIT_X": "plainplain",
    }
    filled("doctor", "--bundle", "help.zip", AJIT_DEVICE="cpu", AJIT_CC_CXX="/opt/c++", **unknown)

    texts = unpacked(filled)
    shown = json.loads(texts["environment.json"])["variables"]
    assert {name: shown[name] for name in unknown} == dict.fromkeys(unknown, "(removed)")
    assert (shown["AJIT_DEVICE"], shown["AJIT_CC_CXX"]) == ("cpu", "/opt/c++")
    for name, text in texts.items():
        for private in (*unknown.values(), "w0rd"):
            assert private not in text, name


def test_what_a_secret_variable_has_is_nowhere_in_it(filled):
    """A compiler's log may have printed it without its name; so may a key in a file's place."""
    log = "cannot log in with s3cr3t-of-mine as carol"
    directory = open_cache_directory(filled.cache_dir)
    error = CompileError(name="k.cu", key="cd" * 32, compiler="nvcc", log=log)
    FailureStore(directory).record(error)
    misplaced = "0123456789abcdef0123456789abcdef"
    filled.environ |= {"REGISTRY_PASSWORD": "s3cr3t-of-mine", "SUDO_USER": "carol"}

    filled("doctor", "--bundle", "help.zip", AJIT_HMAC_KEY_FILE=misplaced)

    for name, text in unpacked(filled).items():
        for private in ("s3cr3t", "carol", misplaced):
            assert private not in text, name


def test_logs_are_left_out_where_asked(filled):
    """They may quote a source."""
    filled("doctor", "--bundle", "help.zip", "--no-logs")

    [failure] = json.loads(unpacked(filled)["failures.json"])["failures"]
    assert failure["log"] == "(removed)"


def test_an_existing_file_is_not_replaced(filled):
    """Nor is one that a link leads to made; nothing is checked then."""
    (filled.folder / "help.zip").write_text("mine")
    (filled.folder / "link.zip").symlink_to("nowhere")

    for name in ("help.zip", "link.zip"):
        ended = filled("doctor", "--bundle", name)

        assert ended.code == exits.USAGE
        assert "is there" in ended.err
        assert ended.out == ""
    assert (filled.folder / "help.zip").read_text() == "mine"
    assert not (filled.folder / "nowhere").exists()


def test_a_place_that_cannot_be_written_is_told(filled):
    """Without a traceback, and nothing is left."""
    ended = filled("doctor", "--bundle", "missing/help.zip")
    full = filled("doctor", "--bundle", "/dev/full/help.zip")

    assert (ended.code, full.code) == (exits.USAGE, exits.USAGE)
    assert "No such file or directory" in ended.err


def test_a_cache_that_cannot_be_used_is_told_in_the_file(ajit):
    """The file is made all the same: that is when it is needed."""
    ajit.cache_dir.write_text("")

    ended = ajit("doctor", "--bundle", "help.zip")

    assert ended.code == exits.PROBLEM
    assert "not a directory" in json.loads(unpacked(ajit)["cache.json"])["problem"]
