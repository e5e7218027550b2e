"""`ajit cache` with layers: what a server would find is listed, shown, extracted and exported."""

from __future__ import annotations

import pytest

from ajit._cache.files.directory import open_cache_directory
from ajit.cli import exits
from tests.cache.artifacts import a_key
from tests.cli.test_cache_archive import files
from tests.cli.test_cache_lists import BASE, put
from tests.fuse.mounts import Mount, why_no_fuse

OTHER_BASE = a_key("another")
NO_FUSE = why_no_fuse()


@pytest.fixture
def layer(ajit, monkeypatch):
    """A layer with one entry, below a cache with another one."""
    path = ajit.folder / "layer"
    put(open_cache_directory(path), base=OTHER_BASE)
    put(open_cache_directory(ajit.cache_dir))
    path.chmod(0o755)
    monkeypatch.setitem(ajit.environ, "AJIT_CACHE_LAYERS", str(path))
    return path


def test_entries_of_layers_are_listed_with_their_layer(ajit, layer):
    """A column, and a field that is empty for the cache itself; without layers no column."""
    listed = ajit("cache", "ls", "--json").json()
    shown = ajit("cache", "ls").out
    alone = ajit("cache", "ls", AJIT_CACHE_LAYERS="").out

    assert {BASE: "", OTHER_BASE: str(layer)} == {
        row["base"]: row["layer"] for row in listed["entries"]
    }
    assert listed["layers"] == [str(layer)]
    assert "layer" in shown.splitlines()[0]
    assert str(layer) in shown
    assert "layer" not in alone.splitlines()[0]
    assert len(alone.splitlines()) == 2


def test_the_label_is_listed_beside_the_kernel(ajit, layer):
    """`export --name` takes both."""
    shown = ajit("cache", "ls").out.splitlines()

    assert "label" in shown[0]
    assert "k.cu" in shown[2]


def test_an_entry_of_a_layer_is_inspected_extracted_and_compared(ajit, layer):
    """By its key, with the layer named."""
    inspected = ajit("cache", "inspect", OTHER_BASE, "--json")
    shown = ajit("cache", "inspect", OTHER_BASE)
    extracted = ajit("cache", "extract", OTHER_BASE, "-o", "out.cubin", "--json")
    compared = ajit("cache", "why", BASE, OTHER_BASE)
    missing = ajit("cache", "inspect", "feedbeef")

    assert inspected.json()["layer"] == extracted.json()["layer"] == str(layer)
    assert str(layer) in shown.out
    assert (ajit.folder / "out.cubin").stat().st_size == extracted.json()["bytes"]
    assert compared.code == exits.FINE
    assert "and its layer (see: ajit cache ls)" in missing.err


def test_a_good_entry_of_a_layer_is_not_hidden_by_a_bad_one_of_the_cache(ajit, layer):
    """As for a server, which goes on to the layer."""
    key = put(open_cache_directory(ajit.cache_dir), base=OTHER_BASE)
    (ajit.cache_dir / "entries" / key[:2] / f"{key}.ajit").write_bytes(b"torn")

    inspected = ajit("cache", "inspect", key, "--json")

    assert (inspected.code, inspected.json()["layer"]) == (exits.FINE, str(layer))


def test_an_export_has_what_layers_have(ajit, layer):
    """Entries and reading lists: an import elsewhere has all that this server finds."""
    exported = ajit("cache", "export", "-o", "a.ajit", "--json").json()
    alone = ajit("cache", "export", "-o", "b.ajit", "--json", AJIT_CACHE_LAYERS="").json()
    ajit("cache", "import", "a.ajit", "--cache-dir", ajit.folder / "other")

    assert (exported["entries"], exported["reading_lists"]) == (2, 2)
    assert (alone["entries"], alone["reading_lists"]) == (1, 1)
    assert files(ajit.folder / "other") == files(ajit.cache_dir) | files(layer)


def test_a_layer_is_never_changed(ajit, layer):
    """Whatever is looked at, and what is removed from the cache."""
    before = {file: file.stat().st_mtime_ns for file in layer.rglob("*")}

    for command in (["ls"], ["verify"], ["rm", "--all"], ["prune", "--max-bytes", "1"], ["stats"]):
        assert ajit("cache", *command).code == exits.FINE

    assert {file: file.stat().st_mtime_ns for file in layer.rglob("*")} == before


def test_a_layer_that_is_missing_is_told_and_left_out(ajit, layer):
    """The result is that of the others; and so it is of a cache that is missing above a layer."""
    missing = ajit("cache", "ls", "--json", AJIT_CACHE_LAYERS=f"{layer}:/nowhere")
    below = ajit("cache", "ls", "--json", AJIT_CACHE_DIR="/nonexistent")

    assert (missing.code, len(missing.json()["entries"])) == (exits.FINE, 2)
    assert "cache layer /nowhere" in missing.err
    assert (below.code, len(below.json()["entries"])) == (exits.FINE, 1)
    assert "cache directory /nonexistent: there is no such directory" in below.err


def test_a_layer_that_is_unsafe_is_an_error_that_names_it(ajit, layer):
    """As it is for a server."""
    layer.chmod(0o777)

    ended = ajit("cache", "ls")

    assert ended.code == exits.ENVIRONMENT
    assert f"cache layer {layer}" in ended.err
    assert "AJIT_CACHE_LAYERS" in ended.err


@pytest.mark.skipif(bool(NO_FUSE), reason=NO_FUSE)
@pytest.mark.parametrize("command", [["cache", "ls"], ["doctor"]], ids=" ".join)
def test_a_layer_that_hangs_is_named(ajit, tmp_path, command):
    """And not the cache, which answers."""
    open_cache_directory(ajit.cache_dir)
    with Mount(tmp_path / "fuse") as mount:
        layer = mount.path / "layer"
        layer.mkdir(mode=0o755)
        mount.stop()
        ended = ajit(*command, AJIT_CACHE_LAYERS=str(layer), AJIT_PATIENCE_SECONDS="1")

    assert ended.code == (exits.PROBLEM if command == ["doctor"] else exits.ENVIRONMENT)
    assert "AJIT_CACHE_LAYERS" in ended.out + ended.err
    assert str(layer) in ended.out + ended.err
    assert "does not answer" in ended.out + ended.err
