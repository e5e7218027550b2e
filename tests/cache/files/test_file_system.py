"""Which file system a directory is on, and what follows from it for leases."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ajit._cache.files import file_system
from ajit._cache.files.directory import open_cache_directory, open_configured_cache
from ajit._cache.files.file_system import Mount, is_shared_between_nodes, mount_of
from ajit.settings import Settings


def mount_at(path: Path) -> Mount:
    """The mount of a directory."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return mount_of(str(path), fd)
    finally:
        os.close(fd)


def test_a_mount_is_told_from_the_one_above_it(small_disk: Path):
    """By its device; the type and the source are the kernel's."""
    assert Mount("tmpfs", "ajit-test") == mount_at(small_disk)
    assert mount_at(small_disk.parent) != mount_at(small_disk)


def test_a_link_into_a_mount_is_followed(small_disk: Path, tmp_path: Path):
    """As opening it does."""
    link = tmp_path / "link"
    link.symlink_to(small_disk)

    assert Mount("tmpfs", "ajit-test") == mount_at(link)


def test_a_subvolume_is_found_by_its_path(tmp_path: Path, monkeypatch):
    """Its device is not the one of its mount. Of two mounts on a point the last one is seen."""
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 0 9:1 / / rw - ext4 /dev/root rw\n"
        f"2 1 9:2 / {tmp_path} rw shared:1 - nfs4 server:/old rw\n"
        f"3 1 9:3 / {tmp_path} rw - nfs4 server:/new rw\n"
        f"4 1 9:4 / {tmp_path}x rw - xfs /dev/other rw\n"
    )
    monkeypatch.setattr(file_system, "_MOUNTS", str(table))

    assert Mount("nfs4", "server:/new") == mount_at(tmp_path)


def test_without_a_table_of_mounts_nothing_is_known(tmp_path: Path, monkeypatch):
    """No /proc: then it counts as a local file system."""
    monkeypatch.setattr(file_system, "_MOUNTS", str(tmp_path / "missing"))

    assert Mount("", "") == mount_at(tmp_path)
    assert not is_shared_between_nodes("")


@pytest.mark.parametrize(
    "kind",
    ["nfs", "nfs4", "cifs", "smb3", "lustre", "ceph", "beegfs", "gpfs", "9p", "virtiofs",
     "fuse.seaweedfs", "fuse.sshfs", "fuse.juicefs", "fuse"],
)  # fmt: skip
def test_file_systems_that_nodes_share(kind: str):
    """Of a FUSE file system that is not known, nothing tells that it is local."""
    assert is_shared_between_nodes(kind)


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuseblk", "fuse.fuse-overlayfs"]
)
def test_file_systems_of_one_machine(kind: str):
    """Locks are enough there."""
    assert not is_shared_between_nodes(kind)


@pytest.mark.parametrize(
    ("lease", "kind", "expected"),
    [
        ("auto", "ext4", "locks"),
        ("auto", "nfs4", "directory"),
        ("locks", "nfs4", "locks"),
        ("directory", "ext4", "directory"),
    ],
)
def test_the_setting_decides_and_auto_looks_at_the_file_system(
    lease: str, kind: str, expected: str, path: Path, monkeypatch
):
    """It is decided once, when the cache is opened."""
    monkeypatch.setattr(
        "ajit._cache.files.directory.mount_of", lambda _path, _fd: Mount(kind, "there")
    )
    settings = Settings(environ={}, cache_dir=path, lease=lease, patience_seconds=3.0)
    directory = open_configured_cache(settings)

    assert (expected, 3.0) == (directory.lease_kind, directory.patience_seconds)
    assert "locks" == open_cache_directory(path).lease_kind
