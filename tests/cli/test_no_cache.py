"""`ajit cache` and `ajit locks` where there is no cache: a path that was mistyped is told."""

from __future__ import annotations

import pytest

from ajit._cache.files.directory import open_cache_directory
from ajit.cli import exits

KEY = "0123456789abcdef"

COMMANDS = [
    ["cache", "ls"],
    ["cache", "stats"],
    ["cache", "verify"],
    ["cache", "inspect", KEY],
    ["cache", "why", KEY, KEY],
    ["cache", "extract", KEY],
    ["cache", "rm", "--all"],
    ["cache", "prune"],
    ["cache", "prune", "--dry-run"],
    ["cache", "export", "-o", "a.ajit"],
    ["cache", "check", "--keys", "keys"],
    ["locks"],
    ["log"],
]


@pytest.fixture
def place(ajit, request):
    """A place where no cache is: nothing, an empty directory, or one of something else."""
    path = ajit.folder / "place"
    if request.param != "missing":
        path.mkdir(mode=0o700)
    if request.param == "other":
        (path / "thesis.tex").write_text("precious")
    (ajit.folder / "keys").write_text(KEY)
    return path


@pytest.mark.parametrize("place", ["missing", "empty", "other"], indirect=True)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_where_no_cache_is_a_command_says_so_and_makes_nothing(ajit, place, command):
    """The environment's exit code, with the path and what is wrong; "all good" would mislead."""
    before = sorted(ajit.folder.rglob("*"))

    ended = ajit(*command, "--cache-dir", place)

    assert exits.ENVIRONMENT == ended.code
    assert str(place) in ended.err
    assert any(words in ended.err for words in ("no such directory", "it is empty", "thesis.tex"))
    assert "AJIT_CACHE_DIR" in ended.err
    assert ended.out == ""
    assert sorted(ajit.folder.rglob("*")) == before


@pytest.mark.parametrize("command", ["ls", "stats", "verify", "prune"])
def test_a_cache_without_entries_is_fine(ajit, command):
    """It is a cache, and nothing is wrong with it."""
    open_cache_directory(ajit.cache_dir)

    assert exits.FINE == ajit("cache", command).code


def test_the_error_is_an_object_with_json(ajit):
    """With the path as a field."""
    ended = ajit("cache", "verify", "--json")

    assert exits.ENVIRONMENT == ended.code
    assert ("CacheError", str(ajit.cache_dir)) == (ended.json()["error"], ended.json()["path"])


@pytest.mark.parametrize("command", ["inspect", "rm", "extract"])
def test_what_is_no_key_is_a_usage_error_also_without_a_cache(ajit, command):
    """Nothing was opened yet."""
    assert exits.USAGE == ajit("cache", command, "no key").code
