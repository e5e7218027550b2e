"""`ajit cache`: look, verify, explain, remove."""

from __future__ import annotations

import hashlib
import time

import pytest

from ajit._cache.entries.disk import DiskStore
from ajit._cache.files.directory import open_cache_directory
from ajit._core.bundle import BundleArtifact, BundleFile
from ajit._core.entry import Artifact
from ajit.cli import exits
from tests.images import a_cubin


@pytest.fixture
def store(ajit):
    """The store of the test's cache."""
    return DiskStore(open_cache_directory(ajit.cache_dir))


def put(store, name, *, arch="sm_90a", size=5000, cut=0, fields=()):
    """Publish an artifact of a size, whole unless it is cut, and return its key."""
    image = a_cubin([f"_Z{name}"])
    image = a_cubin([f"_Z{name}"], b"x" * (size + cut - len(image)))[:size]
    key = hashlib.sha256(f"{name} {arch}".encode()).hexdigest()
    artifact = Artifact(
        key=key,
        base=key,
        key_fields=fields
        or (("schema", "1"), ("compiler", "nvrtc"), ("arch", arch), ("source", name)),
        name=f"{name}.cu",
        kind="cubin",
        arch=arch,
        compiler="nvrtc",
        compiler_version="13.4.92",
        entries=(name,),
        lowered={name: f"_Z{name}"},
        log="a warning",
        command=("nvrtc", f"-arch={arch}"),
        created=time.time() - 150,
        seconds=0.25,
        host="elsewhere",
        ajit_version="0.1.0",
        data=image,
    )
    store.publish(artifact)
    return key


def entry_file(ajit, key):
    """The file of an entry."""
    return ajit.cache_dir / "entries" / key[:2] / f"{key}.ajit"


def test_path_prints_where_the_cache_is_and_makes_nothing(ajit):
    """The path is the only thing on standard output, for use in scripts."""
    ended = ajit("cache", "path")

    assert f"{ajit.cache_dir}\n" == ended.out
    assert not ajit.cache_dir.exists()


def test_cache_that_is_a_file_is_an_environment_problem(ajit):
    """The error says what is wrong with the path, and what to do."""
    ajit.cache_dir.write_text("")

    ended = ajit("cache", "ls")

    assert exits.ENVIRONMENT == ended.code
    assert "not a directory" in ended.err
    assert "AJIT_CACHE_DIR" in ended.err


def test_list_shows_what_every_entry_holds(ajit, store):
    """Key, name, entry points, arch, compiler, sizes and times, in JSON with plain units."""
    key = put(store, "saxpy")

    [entry] = ajit("cache", "ls", "--json").json()["entries"]
    shown = ajit("cache", "ls").out

    assert key == entry["key"]
    assert ["saxpy"] == entry["entries"]
    assert 5000 == entry["size_bytes"]
    assert 0.25 == entry["compile_seconds"]
    for text in (key[:12], "saxpy", "sm_90a", "nvrtc 13.4.92", "4.9 KiB", "250.0 ms", "2 min"):
        assert text in shown


def test_stats_add_up_by_compiler_and_arch(ajit, store):
    """Entries, bytes and compile seconds, in all and for each kind."""
    put(store, "a")
    put(store, "b")
    put(store, "a", arch="sm_80")

    stats = ajit("cache", "stats", "--json").json()

    assert 3 == stats["entries"]
    assert 0.75 == stats["compile_seconds"]
    assert {"sm_90a": 2, "sm_80": 1} == {row["arch"]: row["entries"] for row in stats["groups"]}


def test_verify_names_bad_entries_and_ends_with_one(ajit, store):
    """One flipped bit is found; the good entry is not named."""
    good, bad = put(store, "good"), put(store, "bad")
    data = bytearray(entry_file(ajit, bad).read_bytes())
    data[-100] ^= 1
    entry_file(ajit, bad).write_bytes(data)

    ended = ajit("cache", "verify", "--json")
    shown = ajit("cache", "verify")

    assert exits.PROBLEM == ended.code == shown.code
    assert 2 == ended.json()["checked"]
    assert [bad] == [row["key"] for row in ended.json()["bad"]]
    assert "checksum" in shown.out
    assert "2 entries checked, 1 bad" in shown.out
    assert good[:12] not in shown.out


def test_verify_names_entries_whose_compiled_bytes_are_cut_short(ajit, store):
    """Their checksum is that of what was published, so only a look at the image tells."""
    put(store, "good")
    bad = put(store, "bad", cut=1)

    ended = ajit("cache", "verify", "--json")

    assert exits.PROBLEM == ended.code
    assert [bad] == [row["key"] for row in ended.json()["bad"]]
    assert "cut short" in ended.json()["bad"][0]["reason"]


def test_one_entry_is_written_as_one(ajit, store):
    """Not "1 entries"."""
    put(store, "only")

    shown = [ajit("cache", command).out for command in ("verify", "prune")]

    assert "1 entry checked, all good\n" == shown[0]
    assert "kept: 1 entry of" in shown[1]


def test_bad_entry_is_listed_and_inspecting_it_says_why_it_is_unusable(ajit, store):
    """A truncated entry does not stop the list of the others."""
    bad = put(store, "bad")
    put(store, "good")
    entry_file(ajit, bad).write_bytes(b"")

    listed = ajit("cache", "ls")
    inspected = ajit("cache", "inspect", bad)

    assert exits.FINE == listed.code
    assert "unusable: only 0 bytes" in listed.out
    assert "good" in listed.out
    assert exits.PROBLEM == inspected.code
    assert "only 0 bytes" in inspected.err


def test_inspect_shows_one_entry_by_the_first_digits_of_its_key(ajit, store):
    """Everything but the bytes; the log when asked for."""
    key = put(store, "saxpy")

    entry = ajit("cache", "inspect", key[:8], "--json").json()
    shown = ajit("cache", "inspect", key[:8], "--log").out

    assert key == entry["key"]
    assert {"saxpy": "_Zsaxpy"} == entry["lowered"]
    assert "sm_90a" == entry["key_fields"]["arch"]
    for text in (key, "saxpy → _Zsaxpy", "nvrtc -arch=sm_90a", "on elsewhere", "a warning"):
        assert text in shown


@pytest.mark.parametrize("command", ["inspect", "rm"])
@pytest.mark.parametrize(
    ("text", "complaint"),
    [("abc", "too short"), ("../../etc", "is not a key"), ("f" * 65, "is not a key")],
    ids=["short", "path", "long"],
)
def test_text_that_is_no_key_is_a_usage_error(ajit, store, command, text, complaint):
    """A typing error is answered by what to do, never becomes a path, and removes nothing."""
    key = put(store, "saxpy")

    ended = ajit("cache", command, *([key] if command == "rm" else []), text)

    assert exits.USAGE == ended.code
    assert complaint in ended.err
    assert "at least 4" in ended.err
    assert "ajit cache ls" in ended.err
    assert [key] == [info.key for info in store.entries()]


def test_key_that_no_entry_has_is_a_problem(ajit, store):
    """It is well formed, so it is no question of usage: the entry may just have gone."""
    put(store, "saxpy")

    ended = ajit("cache", "inspect", "deadbeef", "--json")

    assert exits.PROBLEM == ended.code
    assert ("NoSuchEntry", "deadbeef") == (ended.json()["error"], ended.json()["key"])
    assert "no entry 'deadbeef'" in ended.err
    assert "Usage" not in ended.err


def test_first_digits_of_two_keys_are_a_usage_error(ajit, store):
    """Which of them is meant cannot be known, so neither is removed."""
    first = "abcd" + put(store, "a")[4:]
    keys = [first, first[:10] + ("0" if first[10] != "0" else "1") + first[11:]]
    for key in keys:
        file = entry_file(ajit, key)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")

    ended = ajit("cache", "rm", "ABCD")

    assert exits.USAGE == ended.code
    assert "2 entries begin with 'ABCD'" in ended.err
    assert all(entry_file(ajit, key).exists() for key in keys)


def test_why_names_the_parts_in_which_two_keys_differ(ajit, store):
    """Two entries of one source for two architectures differ in the arch alone."""
    a, b = put(store, "k", arch="sm_80"), put(store, "k", arch="sm_90a")

    differences = ajit("cache", "why", a[:12], b[:12], "--json").json()["differences"]
    shown = ajit("cache", "why", a, a).out

    assert [{"field": "arch", "a": "sm_80", "b": "sm_90a"}] == differences
    assert shown == "the keys do not differ\n"


def test_rm_removes_what_is_named_and_ends_with_three_if_something_was_not_there(ajit, store):
    """Partly done is told from done and from nothing done."""
    a, b = put(store, "a"), put(store, "b")

    partly = ajit("cache", "rm", a, "feedbeef", "--json")
    nothing = ajit("cache", "rm", "feedbeef")
    done = ajit("cache", "rm", "--all", "--json")

    assert exits.PARTLY == partly.code
    assert [a] == partly.json()["removed"]
    assert ["feedbeef"] == [row["key"] for row in partly.json()["failed"]]
    assert exits.PROBLEM == nothing.code
    assert exits.FINE == done.code
    assert [b] == done.json()["removed"]
    assert not list(store.entries())


@pytest.mark.parametrize("args", [[], ["--all", "abcd"]], ids=["nothing", "both"])
def test_rm_wants_keys_or_all_and_not_both(ajit, store, args):
    """Nothing is removed by a command that is not clear."""
    put(store, "a")

    ended = ajit("cache", "rm", *args)

    assert exits.USAGE == ended.code
    assert 1 == len(list(store.entries()))


def test_an_entry_of_another_version_is_counted_and_not_called_bad(ajit, store):
    """While a deployment rolls, a cache holds entries that only the other version can verify."""
    path = entry_file(ajit, put(store, "one"))
    data = bytearray(path.read_bytes())
    data[8:12] = (99).to_bytes(4, "little")
    path.write_bytes(data)

    ended = ajit("cache", "verify")
    payload = ajit("cache", "verify", "--json").json()

    assert exits.FINE == ended.code
    assert "1 of other versions of ajit" in ended.out
    assert (1, []) == (payload["other_versions"], payload["bad"])


class Texts:
    """The bytes of a bundle's files."""

    def __init__(self, data):
        self._data = data

    def read(self, offset, count):
        """As `Content.read`."""
        return self._data[offset : offset + count]


def put_bundle(store):
    """Publish a bundle of two files, and return its key."""
    key = hashlib.sha256(b"bundle").hexdigest()
    digest = hashlib.sha256(b"text").hexdigest()
    bundle = BundleArtifact(
        key=key,
        base=key,
        key_fields=(("schema", "build 1.1"),),
        name="silu",
        kind="bundle",
        arch="",
        compiler="build",
        compiler_version="ninja",
        entries=(),
        lowered={},
        log="",
        command=("ninja",),
        created=time.time() - 150,
        seconds=12.5,
        host="elsewhere",
        ajit_version="0.1.0",
        files=(BundleFile("a/silu.so", 4, digest), BundleFile("b.json", 4, digest)),
        pack=Texts(b"texttext"),
    )
    store.bundles.publish(bundle)
    return key


def test_bundle_is_listed_inspected_and_verified(ajit, store):
    """With its name and files; a file of it that changed is told."""
    key = put_bundle(store)
    listed, inspected = ajit("cache", "ls"), ajit("cache", "inspect", key)
    whole = ajit("cache", "verify")
    path = entry_file(ajit, key)
    path.write_bytes(path.read_bytes().replace(b"texttext", b"texttesT"))
    damaged = ajit("cache", "verify")

    assert "silu" in listed.out
    assert "unusable" not in listed.out
    assert "a/silu.so" in inspected.out
    assert "all good" in whole.out
    assert exits.FINE == whole.code
    assert "b.json in it is not what it was" in damaged.out
    assert exits.PROBLEM == damaged.code


def test_bundle_above_the_size_of_a_kernel_is_no_problem(ajit, store, monkeypatch):
    """It is never read as a whole."""
    key = put_bundle(store)
    monkeypatch.setenv("AJIT_COMPILE_OUTPUT_LIMIT_BYTES", "1")
    monkeypatch.setattr("ajit._cache.entries.disk.OVERHEAD_BYTES", 1)

    assert "all good" in ajit("cache", "verify").out
    assert "silu" in ajit("cache", "inspect", key).out
