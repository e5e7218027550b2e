"""`ajit cache` and what leads to an entry: base keys, reading lists, digests of files."""

from __future__ import annotations

import time

import pytest

from ajit._cache.entries.disk import DiskStore
from ajit._cache.entries.lists import ListStore
from ajit._cache.entries.node_digests import NodeDigests
from ajit._cache.files.directory import open_cache_directory
from ajit._core.entry import Artifact
from ajit._core.key import Key
from ajit._core.reads import Read, ReadingList, key_of
from ajit._core.seal import NO_TRUST, HmacKey, Trust
from ajit.cli import exits
from ajit.cli.output import SHORT_KEY, short_keys
from tests.cache.artifacts import a_key
from tests.images import a_cubin

BASE = a_key("base")


@pytest.fixture
def directory(ajit):
    """The test's cache."""
    return open_cache_directory(ajit.cache_dir)


def put(directory, *, base=BASE, header="x.h", content="1", shared=True):
    """Publish the entry of a compile that read one header, and its list; return its key."""
    made = _list(header)
    states = (a_key(content),)
    key = key_of(Key(base, (("compiler", "nvrtc"), ("arch", "sm_90a"))), made, states)
    artifact = Artifact(
        key=key.hex,
        base=base,
        key_fields=key.fields,
        name="k.cu",
        kind="cubin",
        arch="sm_90a",
        compiler="nvrtc",
        compiler_version="13.4.92",
        entries=("k",),
        lowered={"k": "_Zk"},
        log="",
        command=("nvrtc",),
        created=time.time(),
        seconds=0.25,
        host="elsewhere",
        ajit_version="0.1.0",
        data=a_cubin(["_Zk"]),
    )
    DiskStore(directory).publish(artifact)
    if shared:
        ListStore(directory).publish(base, made)
    return key.hex


def lists_of(ajit, base=BASE):
    """The lists of a base that are there."""
    return sorted((ajit.cache_dir / "reads" / base[:2] / base).glob("*"))


@pytest.mark.parametrize("digits", [12, 16, 40, 64])
def test_an_entry_is_found_by_the_base_key_that_logs_print(ajit, directory, digits):
    """Shortened or whole. What is shown names both keys."""
    key = put(directory)
    assert key != BASE

    entry = ajit("cache", "inspect", BASE[:digits], "--json").json()
    shown = ajit("cache", "inspect", BASE[:digits]).out

    assert (key, BASE) == (entry["key"], entry["base"])
    assert key in shown
    assert BASE in shown


def test_a_key_that_only_begins_like_a_base_key_finds_nothing(ajit, directory):
    """All of the digits that are given count."""
    put(directory)
    other = BASE[:-1] + ("0" if BASE[-1] != "0" else "1")

    ended = ajit("cache", "inspect", other)

    assert exits.PROBLEM == ended.code
    assert "no entry" in ended.err


@pytest.mark.parametrize("command", ["inspect", "rm"])
@pytest.mark.parametrize("digits", [16, 64])
def test_several_entries_of_a_base_are_told_apart_by_their_files(ajit, directory, command, digits):
    """The header has changed between two compiles: which entry is meant must be said."""
    keys = [put(directory, content=content) for content in ("1", "2")]

    ended = ajit("cache", command, BASE[:digits])
    short = short_keys(keys)

    assert exits.USAGE == ended.code
    assert "2 entries begin with" in ended.err
    for key, content in zip(keys, ("1", "2"), strict=True):
        assert f"{short[key]}  file i0/x.h: {a_key(content)[:16]}" in ended.err
        assert "arch" not in ended.err
        assert ajit("cache", "inspect", short[key], "--json").json()["key"] == key
    assert set(keys) == {info.key for info in DiskStore(directory).entries()}


def test_entries_of_one_base_are_listed_with_as_many_digits_as_tell_them_apart(ajit, directory):
    """The others are short."""
    alike = [put(directory, content=content) for content in ("1", "2")]
    other = put(directory, base=a_key("other"))

    shown = ajit("cache", "ls").out
    rows = ajit("cache", "ls", "--json").json()["entries"]

    digits = {line.split()[0] for line in shown.splitlines()[1:]}
    assert digits == set(short_keys([*alike, other]).values())
    assert other[:SHORT_KEY] in digits
    assert dict.fromkeys(alike, BASE) | {other: a_key("other")} == {
        row["key"]: row["base"] for row in rows
    }


@pytest.mark.parametrize("keys", [[], ["0" * 64], ["0" * 64, "0" * 62 + "11"]])
def test_short_keys_are_never_longer_than_keys(keys):
    """However much two of them share."""
    assert all(keys == [] or key.startswith(short) for key, short in short_keys(keys).items())
    assert len(set(short_keys(keys).values())) == len(keys)


def test_why_names_the_header_in_which_two_entries_of_a_base_differ(ajit, directory):
    """And nothing else, as they share a base."""
    a, b = (put(directory, content=content) for content in ("1", "2"))

    differences = ajit("cache", "why", a, b, "--json").json()["differences"]

    assert [{"field": "file i0/x.h", "a": a_key("1"), "b": a_key("2")}] == differences


# --- removing ---


def test_rm_takes_the_list_that_leads_to_nothing_else(ajit, directory):
    """Its folder as well. Lists of other bases stay."""
    key, other = put(directory), put(directory, base=a_key("other"))

    ended = ajit("cache", "rm", key, "--json")

    assert ([key], 1) == (ended.json()["removed"], ended.json()["removed_lists"])
    assert not (ajit.cache_dir / "reads" / BASE[:2] / BASE).exists()
    assert 1 == len(lists_of(ajit, a_key("other")))
    assert [other] == [info.key for info in DiskStore(directory).entries()]


def test_rm_leaves_a_list_that_another_entry_needs(ajit, directory):
    """Two contents of one header: the same list leads to both."""
    first, second = (put(directory, content=content) for content in ("1", "2"))

    one = ajit("cache", "rm", first, "--json").json()
    assert (0, 1) == (one["removed_lists"], len(lists_of(ajit)))

    two = ajit("cache", "rm", second, "--json").json()
    assert (1, []) == (two["removed_lists"], lists_of(ajit))


def test_rm_takes_only_the_list_of_what_it_removes(ajit, directory):
    """Another entry of the base has a list of its own; what a third one leads to is not known."""
    gone, stays = put(directory, header="x.h"), put(directory, header="y.h")
    ListStore(directory).publish(BASE, _list("z.h"))
    before = [file for file in lists_of(ajit) if file.name != _list("x.h").digest]

    ended = ajit("cache", "rm", gone, "--json").json()

    assert 1 == ended["removed_lists"]
    assert 2 == len(before)
    assert before == lists_of(ajit)
    assert [stays] == [info.key for info in DiskStore(directory).entries()]


def test_rm_leaves_all_lists_if_an_entry_cannot_tell_which_is_its(ajit, directory):
    """An entry that does not verify says nothing; the lists are evicted when they are old."""
    gone, unclear = put(directory, header="x.h"), put(directory, header="y.h")
    (ajit.cache_dir / "entries" / unclear[:2] / f"{unclear}.ajit").write_bytes(b"")

    ended = ajit("cache", "rm", gone, "--json").json()

    assert (0, 2) == (ended["removed_lists"], len(lists_of(ajit)))


def test_rm_all_takes_all_lists(ajit, directory):
    """And says how many."""
    put(directory, content="1")
    put(directory, content="2")
    put(directory, header="y.h")
    put(directory, base=a_key("other"))

    shown = ajit("cache", "rm", "--all").out

    assert "removed 4 entries and 3 reading lists\n" == shown
    assert [] == list((ajit.cache_dir / "reads").glob("*/*/*"))


# --- verifying and counting ---


def test_verify_checks_lists_and_digests_and_says_how_many(ajit, directory):
    """All of them are good."""
    put(directory)
    _keep_digests(directory)

    ended = ajit("cache", "verify", "--json")
    shown = ajit("cache", "verify").out

    assert exits.FINE == ended.code
    assert {"checked": 1, "bad": []} == ended.json()["reading_lists"] == ended.json()["digests"]
    assert "1 entry, 1 reading list, 1 file of digests checked, all good\n" == shown


def test_verify_names_a_bad_list(ajit, directory):
    """It counts as not there."""
    put(directory)
    [file] = lists_of(ajit)
    file.write_bytes(b"")

    ended = ajit("cache", "verify", "--json")
    shown = ajit("cache", "verify").out

    [bad] = ended.json()["reading_lists"]["bad"]
    assert exits.PROBLEM == ended.code
    assert (BASE, file.name) == (bad["base"], bad["digest"])
    assert "not the digest of its content" in bad["reason"]
    assert f"reads/{BASE[:SHORT_KEY]}/{file.name[:SHORT_KEY]}" in shown
    assert [] == ended.json()["bad"]


def test_verify_names_bad_digests(ajit, directory):
    """They would be hashed again."""
    file = ajit.cache_dir / _keep_digests(directory)
    file.write_bytes(file.read_bytes()[:-1])

    ended = ajit("cache", "verify", "--json")

    assert exits.PROBLEM == ended.code
    assert [file.name] == [bad["node"] for bad in ended.json()["digests"]["bad"]]
    assert f"digests/{file.name}" in ajit("cache", "verify").out


def test_verify_asks_digests_for_the_secret(ajit, directory):
    """A file that is not authentic is not used by servers that have one."""
    _keep_digests(directory)
    _keep_digests(directory, Trust("hmac", [HmacKey(b"sixteen bytes it has")]))

    ended = ajit("cache", "verify", "--json", AJIT_HMAC_KEY="sixteen bytes it has")

    assert exits.PROBLEM == ended.code
    assert 2 == ended.json()["digests"]["checked"]
    assert ["it is not authenticated, and an HMAC is required"] == [
        bad["reason"] for bad in ended.json()["digests"]["bad"]
    ]
    assert exits.FINE == ajit("cache", "verify").code


def test_stats_count_lists_and_digests(ajit, directory):
    """Files and bytes, and what they hold."""
    put(directory)
    size = lists_of(ajit)[0].stat().st_size
    kept = ajit.cache_dir / _keep_digests(directory)

    stats = ajit("cache", "stats", "--json").json()
    shown = ajit("cache", "stats").out

    assert {"files": 1, "file_bytes": size, "reads": 1} == stats["reading_lists"]
    assert {"files": 1, "file_bytes": kept.stat().st_size, "records": 1} == stats["digests"]
    assert "1 reading list of" in shown
    assert "digests of 1 file on 1 node" in shown


def _list(header):
    return ReadingList((Read("i0", header, "file"),))


def _keep_digests(directory, trust=NO_TRUST):
    node = NodeDigests(directory, trust)
    node.learned({(1, 2, 3, 4, 5): a_key()})
    node.close()
    return node.name


@pytest.mark.parametrize("top", ["entries", "reads", "locks", "failures"])
def test_verify_names_directories_that_are_not_used(ajit, directory, top):
    """A link in a directory's place, or one that all may write to: what it holds is not used."""
    put(directory)
    shard = ajit.cache_dir / top / "ab"
    shard.mkdir(mode=0o700, exist_ok=True)
    shard.chmod(0o777)

    ended = ajit("cache", "verify", "--json")

    assert exits.PROBLEM == ended.code
    [bad] = ended.json()["unsafe"]
    assert f"{top}/ab" == bad["name"]
    assert "remove it" in bad["reason"]
    assert "1 name is not used until removed" in " ".join(ajit("cache", "verify").out.split())


def test_a_command_on_a_directory_of_something_else_changes_nothing(ajit):
    """Not even a marker is put into it; the error names the way out."""
    ajit.cache_dir.mkdir(mode=0o700)
    (ajit.cache_dir / "mine").touch()

    for command in ("ls", "verify", "prune", "stats"):
        ended = ajit("cache", command)
        assert exits.ENVIRONMENT == ended.code
        assert "no cache of ajit" in " ".join(ended.err.split())
    assert ["mine"] == [path.name for path in ajit.cache_dir.iterdir()]
