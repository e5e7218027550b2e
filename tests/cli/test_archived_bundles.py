"""`ajit cache export`, `import`, `check` and `extract` with the bundles of builds."""

from __future__ import annotations

import pytest

from ajit._cache.entries.bundles import BundleStore
from ajit._cache.files.directory import open_cache_directory
from ajit.cli import exits
from tests.cache.entries.test_archived_bundles import KEY, SMALL, bundle_of
from tests.cli.test_cache_archive import files
from tests.cli.test_cache_lists import put


@pytest.fixture
def filled(ajit):
    """A cache with a kernel and a bundle; returns the kernel's key."""
    directory = open_cache_directory(ajit.cache_dir)
    BundleStore(directory).publish(bundle_of(SMALL))
    return put(directory)


def damage(ajit):
    """Change a byte of a file of the bundle, which its head does not show."""
    (entry,) = ajit.cache_dir.glob(f"entries/*/{KEY}.ajit")
    data = bytearray(entry.read_bytes())
    data[-1000] ^= 0x55
    entry.write_bytes(data)


def test_bundles_travel_with_kernels(ajit, filled, tmp_path):
    """Into an empty cache, where the gate finds them; an arch says nothing of a build."""
    exported = ajit("cache", "export", "-o", "a.ajit", "--arch", "sm_90a", "--json")
    other = tmp_path / "other"
    imported = ajit("cache", "import", "a.ajit", "--cache-dir", other, "--json")
    again = ajit("cache", "import", "a.ajit", "--cache-dir", other, "--json")
    checked = ajit("cache", "check", "--archive", "a.ajit", "--cache-dir", other)

    assert exported.json()["entries"] == 2
    assert (imported.code, imported.json()["entries"]) == (exits.FINE, 2)
    assert again.json()["there"] == 2
    assert checked.code == exits.FINE
    assert files(other) == files(ajit.cache_dir)


def test_a_bundle_with_a_damaged_file_lacks_and_does_not_travel(ajit, filled, tmp_path):
    """The gate reads all of it; and an import puts a good one in its place."""
    ajit("cache", "export", "-o", "a.ajit")
    damage(ajit)
    checked = ajit("cache", "check", "--archive", "a.ajit", "--json")
    exported = ajit("cache", "export", "-o", "b.ajit", "--json")
    extracted = ajit("cache", "extract", KEY, "-o", "out")
    ajit("cache", "import", "a.ajit")

    assert (checked.code, checked.json()["lacking"]) == (exits.PROBLEM, [KEY])
    assert exported.json()["entries"] == 1
    assert extracted.code == exits.PROBLEM
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ajit", "b.ajit", "cache"]
    assert ajit("cache", "check", "--archive", "a.ajit").code == exits.FINE


def test_the_files_of_a_bundle_are_extracted(ajit, filled, tmp_path):
    """Into a directory of their own, that was not there."""
    ended = ajit("cache", "extract", KEY, "-o", "out", "--json")
    found = {
        str(path.relative_to(tmp_path / "out")): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }

    assert (ended.code, ended.json()["files"]) == (exits.FINE, sorted(SMALL))
    assert found == SMALL
    assert ajit("cache", "extract", KEY, "-o", "out").code == exits.USAGE
    assert ajit("cache", "extract", KEY, "-o", "-").code == exits.USAGE
    assert ajit("cache", "extract", KEY).code == exits.FINE
    assert (tmp_path / "silu" / "c.json").read_bytes() == b"{}"
