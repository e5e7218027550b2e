"""`ajit cache export`, `import`, `check` and `extract`: what one machine compiled, on another."""

from __future__ import annotations

import shutil

import pytest

from ajit import Build, Command, run
from ajit._cache.entries.archive import write_archive
from ajit._cache.entries.disk import DiskStore
from ajit._cache.entries.lists import ListStore
from ajit._cache.files.directory import open_cache_directory
from ajit.cli import exits
from tests.cache.artifacts import a_key
from tests.cli.test_cache_lists import put

OTHER_BASE = a_key("another")


@pytest.fixture
def filled(ajit):
    """A cache with two kernels; returns their keys."""
    directory = open_cache_directory(ajit.cache_dir)
    return [put(directory), put(directory, base=OTHER_BASE)]


@pytest.fixture
def built(ajit):
    """A cache with a bundle; returns its file."""
    build = Build("b", Command(["sh", "-c", "echo some text > out.txt"]), ["out.txt"])
    run(lambda rt: rt.build(build), device="none", cache_dir=str(ajit.cache_dir))
    (entry,) = (ajit.cache_dir / "entries").rglob("*.ajit")
    return entry


def files(path):
    """Every entry and reading list of a cache, with what it holds."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for top in ("entries", "reads")
        for file in (path / top).rglob("*")
        if file.is_file()
    }


def test_a_cache_is_the_same_after_export_and_import(ajit, filled, tmp_path):
    """Entries and reading lists, in a directory that was not there; twice does no harm."""
    exported = ajit("cache", "export", "-o", "a.ajit", "--json")
    other = tmp_path / "other"
    first = ajit("cache", "import", "a.ajit", "--cache-dir", other, "--json")
    second = ajit("cache", "import", "a.ajit", "--cache-dir", other, "--json")

    assert (exported.code, first.code, second.code) == (exits.FINE,) * 3
    assert (exported.json()["entries"], exported.json()["reading_lists"]) == (2, 2)
    assert (first.json()["entries"], first.json()["there"]) == (2, 0)
    assert (second.json()["entries"], second.json()["there"]) == (0, 2)
    assert files(other) == files(ajit.cache_dir)
    assert ajit("cache", "verify", "--cache-dir", other).code == exits.FINE


def test_the_same_entries_give_the_same_archive(ajit, filled, tmp_path):
    """At another time, from another cache that has them."""
    ajit("cache", "export", "-o", "a.ajit")
    ajit("cache", "import", "a.ajit", "--cache-dir", tmp_path / "other")
    ajit("cache", "export", "-o", "b.ajit", "--cache-dir", tmp_path / "other")

    assert (tmp_path / "a.ajit").read_bytes() == (tmp_path / "b.ajit").read_bytes()
    assert [file.name for file in tmp_path.glob(".*tmp")] == []


def test_an_export_takes_what_is_named_and_fits(ajit, filled, tmp_path):
    """Keys, base keys or their first digits; an arch; a label."""
    keys = tmp_path / "keys"
    keys.write_text(f"# of a server\n{filled[0]}  # by key\n\n{OTHER_BASE}\n")
    one = tmp_path / "one"
    one.write_text(filled[0][:16])

    def exported(*args):
        ended = ajit("cache", "export", "-o", "a.ajit", "--json", *args)
        return ended.json()["entries"] if ended.code == exits.FINE else ended.code

    assert exported("--keys", keys) == 2
    assert exported("--keys", one) == 1
    assert exported("--arch", "sm_90a", "--name", "k*") == 2
    assert exported("--name", "k.cu") == 2  # the label
    assert exported("--name", "k") == 2  # the kernel
    assert exported("--arch", "sm_80") == exits.PROBLEM
    assert exported("--name", "other") == exits.PROBLEM


def test_keys_without_an_entry_are_told(ajit, filled, tmp_path):
    """What there is, is written."""
    keys = tmp_path / "keys"
    keys.write_text(f"{filled[0]}\n{a_key('nowhere')}\n")
    ended = ajit("cache", "export", "-o", "a.ajit", "--keys", keys)

    assert ended.code == exits.PARTLY
    assert a_key("nowhere") in ended.err


@pytest.mark.parametrize("harm", ["cut", "byte", "text"])
def test_a_bad_archive_is_refused_as_a_whole(ajit, filled, tmp_path, harm):
    """Nothing of it is put into the cache, though its first files are good."""
    ajit("cache", "export", "-o", "a.ajit")
    archive, other = tmp_path / "a.ajit", tmp_path / "other"
    data = archive.read_bytes()
    changed = data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]
    archive.write_bytes({"cut": data[:-9], "byte": changed, "text": b"no archive"}[harm])
    ended = ajit("cache", "import", archive, "--cache-dir", other)

    assert ended.code == exits.PROBLEM
    assert "nothing was imported" in ended.err
    assert not other.exists()


def test_a_limit_keeps_large_archives_out(ajit, filled, tmp_path):
    """What its files have in all, and not what it has itself."""
    ajit("cache", "export", "-o", "a.ajit")
    other = tmp_path / "other"

    def imported(size):
        return ajit("cache", "import", "a.ajit", "--max-bytes", size, "--cache-dir", other)

    refused = imported("1KiB")

    assert refused.code == exits.PROBLEM
    assert "at most 1024 are taken" in refused.err
    assert not other.exists()
    assert imported("a lot").code == exits.USAGE
    assert imported("1GiB").code == exits.FINE
    assert imported("0").code == exits.FINE


def test_a_bad_entry_is_replaced_by_an_import(ajit, filled, tmp_path):
    """As a compile would."""
    ajit("cache", "export", "-o", "a.ajit")
    before = files(ajit.cache_dir)
    entry = next(ajit.cache_dir.glob("entries/*/*"))
    entry.write_bytes(b"torn")
    ended = ajit("cache", "import", "a.ajit", "--json")

    assert (ended.json()["entries"], ended.json()["there"]) == (1, 1)
    assert files(ajit.cache_dir) == before


def test_an_import_asks_for_the_seals_that_the_settings_ask_for(ajit, filled, tmp_path):
    """An archive of entries without one is no way around a secret."""
    ajit("cache", "export", "-o", "a.ajit")
    secret = {"AJIT_HMAC_KEY": "a secret that only these servers know"}
    ended = ajit("cache", "import", "a.ajit", "--cache-dir", tmp_path / "other", **secret)

    assert ended.code == exits.PROBLEM
    assert not (tmp_path / "other").exists()


def test_check_is_a_gate_for_images(ajit, filled, tmp_path):
    """It names what is lacking, and exits with 1."""
    keys = tmp_path / "keys"
    keys.write_text("\n".join(filled))
    ajit("cache", "export", "-o", "a.ajit")
    directory = open_cache_directory(ajit.cache_dir)
    by_keys = ajit("cache", "check", "--keys", keys)
    by_archive = ajit("cache", "check", "--archive", "a.ajit")
    DiskStore(directory).remove(filled[1])
    lacking = ajit("cache", "check", "--archive", "a.ajit", "--json")

    assert (by_keys.code, by_archive.code) == (exits.FINE, exits.FINE)
    assert "all 2 are there" in by_keys.out
    assert lacking.code == exits.PROBLEM
    assert lacking.json()["lacking"] == [filled[1]]


def test_check_looks_at_layers(ajit, filled, tmp_path):
    """What the layers of an image have need not be in its cache; an entry that is bad lacks."""
    keys = tmp_path / "keys"
    keys.write_text(f"{filled[0]}\n{OTHER_BASE}\n")
    given = ("cache", "check", "--keys", keys, "--cache-dir", tmp_path / "empty")

    assert ajit(*given).code == exits.ENVIRONMENT
    assert ajit(*given, AJIT_CACHE_LAYERS=str(ajit.cache_dir)).code == exits.FINE
    assert not (tmp_path / "empty").exists()
    for entry in ajit.cache_dir.glob("entries/*/*"):
        entry.write_bytes(entry.read_bytes()[:-1])
    assert ajit(*given, AJIT_CACHE_LAYERS=str(ajit.cache_dir)).code == exits.PROBLEM


def test_the_compiled_bytes_of_an_entry_are_extracted(ajit, filled, tmp_path):
    """By its key, to a file that is named, to standard output, or to one called as its label."""
    cubin = DiskStore(open_cache_directory(ajit.cache_dir)).read(filled[0]).artifact.data

    named = ajit("cache", "extract", filled[0], "-o", "out.cubin", "--json")
    assert (named.code, named.json()["kind"]) == (exits.FINE, "cubin")
    assert named.json()["symbols"] == {"k": "_Zk"}
    assert ajit("cache", "extract", filled[0]).code == exits.FINE
    assert (tmp_path / "out.cubin").read_bytes() == cubin
    assert (tmp_path / "k.cu.cubin").read_bytes() == cubin
    assert ajit("cache", "extract", a_key("nowhere")).code == exits.PROBLEM
    next(ajit.cache_dir.glob(f"entries/*/{filled[0]}.ajit")).write_bytes(b"torn")
    assert ajit("cache", "extract", filled[0]).code == exits.PROBLEM


def test_extracting_leaves_a_file_that_has_the_name_of_the_label(ajit, filled, tmp_path):
    """It may be a source; what -o names is replaced, and so is all with --force."""
    mine = tmp_path / "k.cu.cubin"
    mine.write_text("mine")

    refused = ajit("cache", "extract", filled[0])
    left = mine.read_text()
    forced = ajit("cache", "extract", filled[0], "--force")
    mine.write_text("mine")
    named = ajit("cache", "extract", filled[0], "-o", mine)

    assert (refused.code, left) == (exits.USAGE, "mine")
    assert "k.cu.cubin is there" in refused.err
    assert "--force" in refused.err
    assert (forced.code, named.code) == (exits.FINE, exits.FINE)
    assert mine.read_bytes().startswith(b"\x7fELF")


def test_reading_lists_that_are_bad_are_not_exported(ajit, filled):
    """A list that does not fit its name counts as not there."""
    for name in ajit.cache_dir.glob("reads/*/*/*"):
        name.write_bytes(b"torn")
    ended = ajit("cache", "export", "-o", "a.ajit", "--json")

    assert ended.json()["reading_lists"] == 0
    assert list(ListStore(open_cache_directory(ajit.cache_dir)).files())


def test_a_bundle_travels_as_well(ajit, built, tmp_path):
    """It is verified with all of its files, and counts where it is asked for."""
    other = tmp_path / "other"
    exported = ajit("cache", "export", "-o", "a.ajit")
    first = ajit("cache", "import", "a.ajit", "--cache-dir", other, "--json")
    second = ajit("cache", "import", "a.ajit", "--cache-dir", other, "--json")
    checked = ajit("cache", "check", "--archive", "a.ajit", "--cache-dir", other)

    assert (exported.code, first.code, checked.code) == (exits.FINE,) * 3
    assert (first.json()["entries"], second.json()["there"]) == (1, 1)
    assert files(other) == files(ajit.cache_dir)


def test_a_damaged_bundle_is_not_exported(ajit, built):
    """Its head is good: that says nothing of its files."""
    data = built.read_bytes()
    built.chmod(0o600)
    built.write_bytes(data.replace(b"some text", b"more text"))

    assert ajit("cache", "export", "-o", "a.ajit").code == exits.PROBLEM


def test_a_bundle_whose_files_are_others_is_refused(ajit, built, tmp_path):
    """As who makes an archive by another program could have it."""
    name = str(built.relative_to(ajit.cache_dir))
    data = built.read_bytes().replace(b"some text", b"more text")
    with (tmp_path / "a.ajit").open("wb") as out:
        write_archive(out, [name], lambda _: iter((data,)))
    ended = ajit("cache", "import", "a.ajit", "--cache-dir", tmp_path / "other")

    assert ended.code == exits.PROBLEM
    assert "does not verify" in ended.err
    assert not (tmp_path / "other").exists()


def test_an_archive_may_be_compressed_by_zstd(ajit, filled, tmp_path):
    """It has the same bytes each time, and an import sees by itself what it is."""
    options = ["--compress", "zstd", "--json"]
    first = ajit("cache", "export", "-o", "a.ajit", *options)
    ajit("cache", "export", "-o", "b.ajit", *options)
    other = tmp_path / "other"
    imported = ajit("cache", "import", "a.ajit", "--cache-dir", other)
    checked = ajit("cache", "check", "--archive", "a.ajit")

    assert (first.code, imported.code, checked.code) == (exits.FINE,) * 3
    assert (tmp_path / "a.ajit").read_bytes() == (tmp_path / "b.ajit").read_bytes()
    assert (tmp_path / "a.ajit").read_bytes()[:4] == b"\x28\xb5\x2f\xfd"
    assert files(other) == files(ajit.cache_dir)


def test_without_the_zstd_package_it_is_said_what_to_install(ajit, filled, tmp_path):
    """To write and to read; nothing is made."""
    ajit("cache", "export", "-o", "a.ajit", "--compress", "zstd")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "zstandard.py").write_text("raise ImportError")
    path = {"PYTHONPATH": f"{hidden}:{ajit.environ['PYTHONPATH']}"}
    written = ajit("cache", "export", "-o", "b.ajit", "--compress", "zstd", **path)
    read = ajit("cache", "import", "a.ajit", "--cache-dir", tmp_path / "other", **path)

    assert (written.code, read.code) == (exits.ENVIRONMENT, exits.ENVIRONMENT)
    assert "pip install 'ajit[zstd]'" in written.err
    assert "pip install 'ajit[zstd]'" in read.err
    assert not (tmp_path / "b.ajit").exists()
    assert not (tmp_path / "other").exists()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_what_a_foreign_compile_made_is_extracted_as_files(ajit, tmp_path):
    """Into a directory that is not called as the source: the label of such an entry is a file."""
    source = tmp_path / "a.c"
    source.write_text("#warning one\nint f(void) { return 1; }\n")
    made = ajit("cc", "--", "gcc", "-c", "a.c", "-o", "a.o")
    (entry,) = ajit("cache", "ls", "--json").json()["entries"]
    ended = ajit("cache", "extract", entry["key"], "--json")
    again = ajit("cache", "extract", entry["key"])

    assert (made.code, ended.code, again.code) == (exits.FINE, exits.FINE, exits.USAGE)
    assert source.read_text().startswith("#warning")
    assert "out" in ended.json()["files"]
    assert (tmp_path / "a.c.outputs" / "out").read_bytes() == (tmp_path / "a.o").read_bytes()
    assert "warning" in (tmp_path / "a.c.outputs" / "stderr").read_text()


def test_statistics_of_a_launcher_without_a_cache_say_so(ajit):
    """A path that was mistyped has counted nothing; to forget what is not there is fine."""
    assert ajit("cc", "--statistics").code == exits.ENVIRONMENT
    assert ajit("cc", "--zero").code == exits.FINE
