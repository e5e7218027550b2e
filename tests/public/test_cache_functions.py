"""`ajit.cache`: what programs see of a cache, and do with it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time

import pytest

import ajit
import ajit.cache
from ajit._cache.entries.disk import DiskStore
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.table import LeaseTable
from tests.cli.test_cache import put

PUBLIC = (
    "BadDigests BadEntry BadList CacheScan CachedEntry CheckedDigests CheckedLists NotRemoved "
    "Pruned PrunedFile Seals Skipped Unread UnsafeFolder Verification prune scan verify"
)
DAY = 86400


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A cache of this test, which settings name."""
    monkeypatch.setenv("AJIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(path):
    """What is put into it."""
    return DiskStore(open_cache_directory(path))


def file_of(path, key):
    """The file of an entry."""
    return path / "entries" / key[:2] / f"{key}.ajit"


def damage(path, key):
    """Change the last byte of an entry."""
    file = file_of(path, key)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)


def leave_unused(path, key, seconds):
    """Let an entry look as if it was not used for so long."""
    then = time.time() - seconds
    os.utime(file_of(path, key), (then, then))


def test_public_names_are_these_and_no_others():
    """A new one is a promise to users, and has to be added here on purpose."""
    assert sorted(PUBLIC.split()) == sorted(ajit.cache.__all__)
    assert ajit.cache is sys.modules["ajit.cache"]


def test_what_is_returned_is_frozen(store, path):
    """Results are records: they do not change under a reader."""
    put(store, "one")
    scanned, verified = ajit.cache.scan(), ajit.cache.verify()

    for value in (scanned, scanned.entries[0], verified, ajit.cache.prune(dry_run=True)):
        field = dataclasses.fields(value)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field, path)


def test_scan_shows_each_entry_with_its_problem_and_the_totals(store, path):
    """Key, kernels, arch, compiler, sizes and times; a bad one has a reason."""
    good, bad = put(store, "good"), put(store, "bad")
    damage(path, bad)

    found = ajit.cache.scan()

    by_key = {entry.key: entry for entry in found.entries}
    entry = by_key[good]
    assert (entry.entries, entry.arch, entry.compiler) == (("good",), "sm_90a", "nvrtc 13.4.92")
    assert (entry.kind, entry.size_bytes, entry.problem) == ("cubin", 5000, "")
    assert entry.last_used == file_of(path, good).stat().st_mtime
    assert [entry.key for entry in found.unusable] == [bad]
    assert "checksum" in by_key[bad].problem
    assert found.file_bytes == sum(file_of(path, key).stat().st_size for key in (good, bad))
    assert (found.cache_dir, found.layers, found.warnings) == (path, (), ())


def test_scan_with_a_previous_one_reads_only_new_files(store, path):
    """An entry never changes, so what was seen is not read again; its last use is looked at."""
    old = put(store, "old")
    first = ajit.cache.scan()
    damage(path, old)  # the same inode: a read would tell
    leave_unused(path, old, DAY)
    new = put(store, "new")

    second = ajit.cache.scan(previous=first)

    by_key = {entry.key: entry for entry in second.entries}
    assert set(by_key) == {old, new}
    assert by_key[old].problem == ""
    assert by_key[old].last_used < time.time() - DAY / 2
    assert {entry.key for entry in ajit.cache.scan().unusable} == {old}


def test_scan_takes_layers_and_says_what_it_left_out(store, path, tmp_path, monkeypatch):
    """A layer that is missing is a warning, as it is for a server."""
    below = DiskStore(open_cache_directory(tmp_path / "layer"))
    there, here = put(below, "below"), put(store, "above")
    monkeypatch.setenv("AJIT_CACHE_LAYERS", f"{tmp_path}/layer:{tmp_path}/missing")

    found = ajit.cache.scan()

    places = {entry.key: entry.layer for entry in found.entries}
    assert places == {here: "", there: str(tmp_path / "layer")}
    assert found.layers == (str(tmp_path / "layer"),)
    [warning] = found.warnings
    assert "missing" in warning


def test_a_cache_that_is_not_there_is_an_error_and_is_not_made(path):
    """A mistyped path must not look like an empty cache."""
    for call in (ajit.cache.scan, ajit.cache.verify, ajit.cache.prune):
        with pytest.raises(ajit.CacheError, match="no such directory"):
            call()
    assert not path.exists()


def test_settings_are_taken_as_they_are_and_a_path_goes_before_them(store, path, tmp_path):
    """Who has a runtime gives its settings; the environment is not asked then."""
    key = put(store, "one")
    settings = ajit.Settings(cache_dir=tmp_path / "nowhere", environ={})

    found = ajit.cache.scan(path, settings=settings)

    assert [entry.key for entry in found.entries] == [key]
    with pytest.raises(ajit.CacheError):
        ajit.cache.scan(settings=settings)


def test_verify_names_what_is_bad_and_fix_removes_it(store, path):
    """The good entry stays; a second check finds nothing."""
    good, bad = put(store, "good"), put(store, "bad")
    damage(path, bad)

    found = ajit.cache.verify()
    fixed = ajit.cache.verify(fix=True)

    assert (found.good, found.checked, [one.key for one in found.bad]) == (False, 2, [bad])
    assert (found.removed, fixed.not_removed) == ((), ())
    assert fixed.removed == (f"entries/{bad[:2]}/{bad}.ajit",)
    assert ajit.cache.verify().good
    assert file_of(path, good).exists()


def test_prune_removes_what_does_not_verify_however_new_it_is(store, path):
    """A dry run shows it; without verify it is not looked for."""
    good, bad = put(store, "good"), put(store, "bad")
    damage(path, bad)

    unread = ajit.cache.prune(verify=False)
    shown = ajit.cache.prune(dry_run=True)
    there = file_of(path, bad).exists()
    done = ajit.cache.prune()

    assert (unread.removed, there) == ((), True)
    [gone] = done.removed
    assert [one.file for one in shown.removed] == [gone.file]
    assert gone.file == f"entries/{bad[:2]}/{bad}.ajit"
    assert gone.reason == "does not verify"
    assert (done.kept_entries, file_of(path, good).exists()) == (1, True)


def test_prune_keeps_entries_that_only_another_seal_is_asked_of(store, path, monkeypatch):
    """They count as misses here; their makers can use them."""
    key = put(store, "unsealed")
    monkeypatch.setenv("AJIT_HMAC_KEY", "a secret of thirty-two characters or more")

    assert [entry.key for entry in ajit.cache.scan().unusable] == [key]
    assert ajit.cache.prune().removed == ()
    assert file_of(path, key).exists()


def test_prune_removes_what_no_compiler_here_can_use_only_where_asked(store, path):
    """Another machine that shares the cache may have that compiler; builds are not judged."""
    foreign = put(store, "foreign", fields=(("compiler", "nvrtc"), ("toolchain", "ab" * 32)))
    build = put(store, "build", fields=(("schema", "build 1.1"), ("machine", "x86_64")))
    fresh = put(store, "fresh", fields=(("compiler", "nvrtc"), ("toolchain", "ab" * 32)))
    for key in (foreign, build):
        leave_unused(path, key, DAY)

    kept = ajit.cache.prune()
    done = ajit.cache.prune(unusable=True)

    assert kept.removed == ()
    [gone] = done.removed
    assert (gone.file, gone.reason) == (
        f"entries/{foreign[:2]}/{foreign}.ajit", "no compiler here can use it",
    )  # fmt: skip
    assert {entry.key for entry in ajit.cache.scan().entries} == {build, fresh}


def test_prune_keeps_the_limits_that_are_given_and_those_of_the_settings(store, path, monkeypatch):
    """An argument goes before the setting, 0 is no limit, and what is leased stays."""
    held, free = put(store, "held"), put(store, "free")
    for key in (held, free):
        leave_unused(path, key, DAY)
    monkeypatch.setenv("AJIT_CACHE_LIMIT_BYTES", "1")

    unlimited = ajit.cache.prune(max_bytes=0)
    with LeaseTable(store.directory).try_acquire(held, "nvrtc"):
        done = ajit.cache.prune()

    assert unlimited.removed == ()
    assert [one.file for one in done.removed] == [f"entries/{free[:2]}/{free}.ajit"]
    assert [one.reason for one in done.skipped] == ["its lease is held"]
    assert (done.kept_entries, done.limit_bytes) == (1, 1)


def test_looking_at_a_cache_needs_neither_cuda_nor_a_loop(store, path):
    """A program that only looks at a cache starts quickly, and starts nothing."""
    put(store, "one")
    program = (
        "import sys, threading, ajit.cache; ajit.cache.scan(); ajit.cache.prune(dry_run=True);"
        "heavy = {'cuda', 'click', 'rich', 'numpy'} & {n.partition('.')[0] for n in sys.modules};"
        "print(sorted(heavy), threading.active_count())"
    )

    printed = subprocess.check_output([sys.executable, "-c", program], text=True, timeout=60)

    assert printed == "[] 1\n"
