"""Which file system a directory is on, and whether other nodes may share it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

__all__ = ["Mount", "is_local", "is_shared_between_nodes", "mount_of"]

_MOUNTS = "/proc/self/mountinfo"

_NETWORK = (
    "9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs",
    "ocfs2", "orangefs", "pvfs2", "smb", "virtiofs", "vboxsf", "wekafs",
)  # fmt: skip
"""Beginnings of the types, as the kernel names them: ``nfs4`` and ``smb3`` are among them."""

_LOCAL_FUSE = frozenset(
    {
        "fuse.bindfs", "fuse.encfs", "fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.lxcfs",
        "fuse.mergerfs", "fuse.ntfs-3g", "fuse.portal", "fuse.snapfuse", "fuse.squashfuse",
        "fuse.unionfs",
    }
)  # fmt: skip
"""FUSE file systems over a local one. Any other may be a network's, which nothing tells."""


class Mount(NamedTuple):
    """Where a directory is mounted.

    Attributes:
        kind: Type of the file system, as the kernel names it; "" if unknown.
        source: What is mounted: a device, or a server and its path.
    """

    kind: str
    source: str


def mount_of(path: str, fd: int) -> Mount:
    """Return the mount of a directory.

    Args:
        path: Its absolute path.
        fd: Its descriptor.
    """
    try:
        text = Path(_MOUNTS).read_text(errors="surrogateescape")
        device = os.fstat(fd).st_dev
    except OSError:
        return Mount("", "")
    real, number = Path(path).resolve(), f"{os.major(device)}:{os.minor(device)}"
    lines = text.splitlines()
    fits = [(_fit(line, real, number), index) for index, line in enumerate(lines)]
    # Of several mounts on one point, the last one is the one that is seen.
    fit, index = max(fits, default=((False, -1), 0))
    if fit == (False, -1):
        return Mount("", "")
    kind, source = lines[index].partition(" - ")[2].split()[:2]
    return Mount(kind, source)


def _fit(line: str, real: Path, number: str) -> tuple[bool, int]:
    """How well a mount fits: by its device, and how near to the path it is mounted."""
    words = line.partition(" - ")[0].split()
    # Blanks in a mount point are written as \\040; such a path is found by its device alone.
    point = Path(words[4])
    depth = len(point.parts) if real.is_relative_to(point) else -1
    # The device is certain where it fits; a subvolume has another one than its mount.
    return words[2] == number, depth


def is_shared_between_nodes(kind: str) -> bool:
    """Whether a file system of this type may be mounted on several nodes at once."""
    if kind.startswith("fuse"):
        return kind not in ("fuseblk", *_LOCAL_FUSE)
    return kind.startswith(_NETWORK)


def is_local(mount: Mount) -> bool:
    """Whether a mount is known to be of one node alone, whose processes see changes at once."""
    return bool(mount.kind) and not is_shared_between_nodes(mount.kind)
