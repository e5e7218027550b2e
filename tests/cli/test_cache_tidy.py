"""`ajit cache ls` with its options, `verify --fix`, and `rm` that shows what would go."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import pytest

from ajit._cache.entries.disk import DiskStore
from ajit._cache.files.directory import open_cache_directory
from ajit.cli import exits
from tests.cli.test_cache import entry_file, put


@pytest.fixture
def store(ajit):
    """The store of the test's cache."""
    return DiskStore(open_cache_directory(ajit.cache_dir))


def names(ended):
    """The kernels of a list, in order."""
    return [item["entries"][0] for item in ended.json()["entries"]]


def test_list_is_sorted_filtered_and_cut_and_says_how_many_are_left_out(ajit, store):
    """The last one is what is looked for most; a text is found in names, arch, compiler, host."""
    keys = {name: put(store, name, size=size) for name, size in (("a", 9000), ("b", 5000))}
    put(store, "c", arch="sm_100a", size=7000)
    long_ago = time.time() - 86400
    os.utime(entry_file(ajit, keys["a"]), (long_ago, long_ago))

    assert names(ajit("cache", "ls", "--sort", "size", "--json")) == ["b", "c", "a"]
    assert names(ajit("cache", "ls", "--sort", "used", "--json"))[0] == "a"
    assert names(ajit("cache", "ls", "SM_100", "--json")) == ["c"]
    cut = ajit("cache", "ls", "--sort", "size", "--limit", "1", "--json")
    assert (names(cut), cut.json()["left_out"]) == (["a"], 2)
    table = ajit("cache", "ls", "--limit", "1").out
    assert "2 more are not shown" in table
    assert "used" in table
    assert "no entries like this among 3" in ajit("cache", "ls", "nothing").out


def damage(file):
    """Change a byte."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)


def test_verify_fix_removes_what_is_bad_and_nothing_else(ajit, store):
    """Entries, reading lists and digests; then a check finds nothing."""
    good, bad, short = put(store, "good"), put(store, "bad"), put(store, "short", cut=100)
    damage(entry_file(ajit, bad))
    reads = ajit.cache_dir / "reads" / "ab" / ("ab" * 32)
    reads.mkdir(parents=True)
    (reads / ("cd" * 32)).write_bytes(b"no list")

    ended = ajit("cache", "verify", "--fix", "--json")

    assert exits.FINE == ended.code
    payload = ended.json()
    assert {item["key"] for item in payload["bad"]} == {bad, short}
    assert len(payload["removed"]) == 3
    assert payload["not_removed"] == []
    assert [entry.key for entry in store.entries()] == [good]
    assert exits.FINE == ajit("cache", "verify").code


def test_verify_fix_leaves_what_it_cannot_remove_and_says_so(ajit, store):
    """A directory that is not used is a person's affair."""
    bad = put(store, "bad")
    damage(entry_file(ajit, bad))
    folder = ajit.cache_dir / "entries" / "ff"
    folder.symlink_to(ajit.cache_dir)

    ended = ajit("cache", "verify", "--fix")

    assert exits.PARTLY == ended.code
    assert "entries/ff" in ended.err
    assert not entry_file(ajit, bad).exists()
    assert folder.is_symlink()


def test_rm_shows_what_would_go_and_removes_nothing(ajit, store):
    """With --dry-run."""
    key, other = put(store, "one"), put(store, "two")

    one = ajit("cache", "rm", key[:12], "--dry-run", "--json").json()
    both = ajit("cache", "rm", "--all", "--dry-run")

    assert [item["key"] for item in one["would_remove"]] == [key]
    assert "one" in both.out
    assert "two" in both.out
    assert {entry.key for entry in store.entries()} == {key, other}


def at_terminal(ajit, answer, *arguments):
    """Run a command by hand: everything is a terminal; return what it showed and its code."""
    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "ajit", "cache", "rm", *arguments]
    environ = {**os.environ, "AJIT_CACHE_DIR": str(ajit.cache_dir), "TERM": "dumb"}
    process = subprocess.Popen(command, env=environ, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(mine, answer)
    shown = b""
    while True:
        try:
            shown += os.read(mine, 4096)
        except OSError:  # it has ended
            break
    os.close(mine)
    return shown.decode(), process.wait(timeout=60)


def test_rm_all_by_hand_asks_first_and_names_what_goes(ajit, store):
    """A no keeps everything; a yes, or --yes, does not."""
    put(store, "one")

    asked, code = at_terminal(ajit, b"n\n", "--all")
    kept = len(list(store.entries()))
    _, sure = at_terminal(ajit, b"y\n", "--all")

    assert "Remove 1 entry of" in asked
    assert code != exits.FINE
    assert kept == 1
    assert sure == exits.FINE
    assert not list(store.entries())


def test_rm_all_by_hand_with_yes_does_not_ask(ajit, store):
    """Nor does a script, whose standard input is no terminal."""
    put(store, "one")

    shown, code = at_terminal(ajit, b"", "--all", "--yes")

    assert "Remove" not in shown
    assert code == exits.FINE
    assert not list(store.entries())
