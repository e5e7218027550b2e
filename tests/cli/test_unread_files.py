"""Commands on a cache whose file system fails for a moment."""

from __future__ import annotations

import os
import shutil

import pytest

from ajit._cache.entries.disk import DiskStore
from ajit._cache.entries.history import append_history
from ajit._cache.files.directory import open_cache_directory
from ajit.cli import exits
from tests.cache.entries.test_history import a_line
from tests.cli.test_cache import entry_file, put


@pytest.fixture
def store(ajit):
    """The store of the test's cache."""
    return DiskStore(open_cache_directory(ajit.cache_dir))


def test_verify_and_prune_say_what_could_not_be_read_and_keep_it(ajit, store):
    """Neither calls the cache good, and neither removes from it."""
    key = put(store, "good")
    named = f"could not be read: entries/{key[:2]}/{key}.ajit: Input/output error"

    for args, code in (
        (("verify",), exits.PROBLEM),
        (("verify", "--fix"), exits.PROBLEM),
        (("prune",), exits.PARTLY),
    ):
        ended = ajit.while_failing("read", ajit.cache_dir / "entries", "cache", *args)

        assert named in ended.err
        assert code == ended.code
        assert "Traceback" not in ended.err
    assert entry_file(ajit, key).exists()
    assert exits.FINE == ajit("cache", "verify").code


@pytest.mark.parametrize(
    "args",
    ["ls", "stats", "verify", "prune", "prune --json", "prune --dry-run", f"rm {'ab' * 32}"],
)
def test_commands_tell_of_a_directory_that_cannot_be_listed(ajit, store, args):
    """None of them says that it is empty, and none ends in a traceback."""
    key = put(store, "good")
    folder = ajit.cache_dir / "entries" / key[:2]

    ended = ajit.while_failing("scandir", folder, "cache", *args.split())

    assert f"entries/{key[:2]}: Input/output error" in ended.err
    assert "Traceback" not in ended.err
    assert entry_file(ajit, key).exists()


def test_log_tells_what_of_the_history_it_cannot_read(ajit, store):
    """A list that fails, a file that fails, and what is no file of ajit."""
    append_history(store.directory, [a_line()])
    folder = ajit.cache_dir / "history"
    (file,) = folder.iterdir()

    for call, named in (("scandir", "history"), ("pread", f"history/{file.name}")):
        ended = ajit.while_failing(call, folder, "log", "--json")

        assert f"could not be read: {named}: Input/output error" in ended.err
        assert (exits.FINE, []) == (ended.code, ended.json()["compiles"])
    file.unlink()
    os.mkfifo(file)
    assert f"history/{file.name}: {file.name} is a FIFO" in ajit("log").err
    shutil.rmtree(folder)
    folder.symlink_to(ajit.folder)
    assert "not used until it is removed: history: " in ajit("log").err
