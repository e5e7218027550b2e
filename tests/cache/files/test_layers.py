"""A layer of another owner: read, not used, or refused, as docs/cache.md says of caches."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ajit._cache.entries.disk import DiskStore, Found, PublishFailed
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.files.layers import layer_paths, open_layer
from ajit._cache.files.marker import MARKER
from ajit.errors import CacheError
from ajit.settings import Settings
from tests.cache.artifacts import an_artifact
from tests.cache.files.test_containers import (
    APP,
    NEW,
    OLD,
    POD,
    SECRET,
    Used,
    as_user,
    built,
    chmod,
    chown,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET_SETTING = {"hmac_key": "the secret of these pods"}
of_others = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for other users")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that other users can reach, as pytest's own cannot."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def use(path: Path, **settings: object) -> Used:
    """Use a layer as a server does."""
    made = Settings(environ={}, cache_dir="/nonexistent", **settings)
    trust = SECRET if settings else None
    try:
        directory = open_layer(str(path), made)
    except CacheError as exc:
        return Used("refused", str(exc))
    store = DiskStore(directory, trust) if trust else DiskStore(directory)
    assert isinstance(store.publish(an_artifact(NEW)), PublishFailed)
    return Used(directory.access, directory.problem, found=isinstance(store.read(OLD), Found))


@of_others
def test_a_layer_of_roots_that_all_may_read_is_read(folder):
    """Baked into an image, 0755 and 0644, and served by another user; nothing is written to it."""
    path = built(folder / "layer")
    chmod(path, "a+rX,go-w")
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}

    used = as_user(APP, APP, [], lambda: use(path))

    assert (used.access, used.found) == ("read-only", True)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


@of_others
def test_a_layer_that_only_root_may_read_says_how_to_let_others(folder):
    """As a cache is made, and copied into an image: the directory, or what is in it, is 0700."""
    path = built(folder / "layer")
    outer = as_user(APP, APP, [], lambda: use(path))
    path.chmod(0o755)
    inner = as_user(APP, APP, [], lambda: use(path))

    for used in (outer, inner):
        assert (used.access, used.found) == ("none", False)
        assert "chmod -R a+rX" in used.words


@of_others
def test_a_layer_of_another_user_is_refused_unless_a_secret_vouches_for_it(folder):
    """Its owner could put code there."""
    path = built(folder / "layer", SECRET)
    chown(path, APP, APP)
    chmod(path, "a+rX")

    refused = as_user(POD, POD, [], lambda: use(path))
    used = as_user(POD, POD, [], lambda: use(path, **SECRET_SETTING))

    assert refused.access == "refused"
    assert "AJIT_CACHE_LAYERS" in refused.words
    assert "AJIT_CACHE_DIR" not in refused.words
    assert "user 1000" in refused.words
    assert (used.access, used.found) == ("read-only", True)


@of_others
def test_a_forged_entry_of_a_layer_is_not_used_where_a_secret_is_asked_for(folder):
    """It has no seal."""
    path = built(folder / "layer")
    chmod(path, "a+rwX")

    assert not as_user(POD, POD, [], lambda: use(path, **SECRET_SETTING)).found


def test_a_cache_without_entries_is_a_layer(tmp_path):
    """One in which nothing was compiled yet; with or without the marker, which earlier lack."""
    made = Path(open_cache_directory(tmp_path / "made").path)
    unmarked = tmp_path / "unmarked"
    (unmarked / "entries").mkdir(parents=True, mode=0o755)
    unmarked.chmod(0o755)

    for path in (made, unmarked):
        assert use(path) == Used("read-only", "a layer, which is only read")


@pytest.mark.parametrize("what", ["missing", "empty", "other", "foreign"])
def test_what_is_no_cache_is_no_layer_and_says_why(tmp_path, what):
    """Not there, empty, of something else, another program's cache; nothing is made in it."""
    path = tmp_path / what
    words = {
        "missing": "No such file",
        "empty": "it is empty",
        "other": "it has a, b, c, 1 more",
        "foreign": f"it has {MARKER}",
    }[what]
    if what != "missing":
        path.mkdir(mode=0o755)
    if what == "other":
        for name in "abcd":
            (path / name).touch()
    if what == "foreign":
        (path / MARKER).write_text("Signature: 8a477f597d28d172789f06886806bc55\n# of cargo\n")
    before = sorted(tmp_path.rglob("*"))

    used = use(path)

    assert used.access == "none"
    assert words in used.words
    assert sorted(tmp_path.rglob("*")) == before


def test_layers_are_named_by_absolute_paths_each_once(tmp_path):
    """The cache itself is none."""
    own = tmp_path / "own"
    named = [tmp_path / "a", own, tmp_path / "b", tmp_path / "a"]
    settings = Settings(environ={}, cache_dir=own, cache_layers=named)

    assert layer_paths(settings) == (str(tmp_path / "a"), str(tmp_path / "b"))
    assert layer_paths(Settings(environ={})) == ()
