"""A FUSE file system for tests: shows another directory, and hangs or fails on demand.

``python server_main.py BACKING MOUNTPOINT CONTROL`` serves until it is unmounted. The test stops it
as a whole with SIGSTOP, or writes files into the directory CONTROL:

- ``hang``: a text; calls on a path that has it in it are not answered while the file is there;
- ``fail``: the number of an error; every call is answered with it while the file is there.

Locks are the kernel's own, as on any FUSE file system whose server does not carry them.
"""

# Each method is the system call of its name, on a text and not on a Path:
# ruff: noqa: D102, PTH101, PTH102, PTH104, PTH106, PTH108
from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import mfusepy

POLL_SECONDS = 0.005


class Passthrough(mfusepy.Operations):
    """Every call on the directory behind, unless the test says otherwise."""

    use_ns = True

    def __init__(self, backing: str, control: str) -> None:
        self._backing = backing
        self._hang = Path(control, "hang")
        self._fail = Path(control, "fail")

    def _real(self, path: str) -> str:
        while self._hangs(path):
            time.sleep(POLL_SECONDS)
        try:
            raise mfusepy.FuseOSError(int(self._fail.read_text()))
        except (FileNotFoundError, ValueError):
            return self._backing + path

    def _hangs(self, path: str) -> bool:
        try:
            return self._hang.read_text() in path
        except FileNotFoundError:
            return False

    def access(self, path, amode):
        if not os.access(self._real(path), amode):
            raise mfusepy.FuseOSError(13)
        return 0

    def chmod(self, path, mode):
        os.chmod(self._real(path), mode)
        return 0

    def chown(self, path, uid, gid):
        os.chown(self._real(path), uid, gid, follow_symlinks=False)
        return 0

    def create(self, path, mode, fi=None):
        return os.open(self._real(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def open(self, path, flags):
        return os.open(self._real(path), flags & ~os.O_NOFOLLOW)

    def read(self, path, size, offset, fh):
        self._real(path)
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        self._real(path)
        return os.pwrite(fh, data, offset)

    def fsync(self, path, datasync, fh):
        self._real(path)
        return os.fsync(fh) or 0

    def fsyncdir(self, path, datasync, fh):
        self._real(path)
        return 0

    def release(self, path, fh):
        os.close(fh)
        return 0

    def getattr(self, path, fh=None):
        status = os.lstat(self._real(path))
        shown = {name: getattr(status, name) for name in ("st_mode", "st_nlink", "st_size")}
        shown |= {name: getattr(status, name) for name in ("st_uid", "st_gid", "st_ino")}
        times = {f"st_{t}time": getattr(status, f"st_{t}time_ns") for t in "amc"}
        return shown | times

    def link(self, target, source):
        os.link(self._real(source), self._real(target))
        return 0

    def rename(self, old, new):
        os.rename(self._real(old), self._real(new))
        return 0

    def unlink(self, path):
        os.unlink(self._real(path))
        return 0

    def mkdir(self, path, mode):
        os.mkdir(self._real(path), mode)
        return 0

    def rmdir(self, path):
        os.rmdir(self._real(path))
        return 0

    def readdir(self, path, fh):
        # With numbers: a name without one is left out by the C library's readdir.
        real = self._real(path)
        with os.scandir(real) as found:
            return [(entry.name, {"st_ino": entry.inode()}, 0) for entry in found]

    def truncate(self, path, length, fh=None):
        os.truncate(self._real(path), length)
        return 0

    def utimens(self, path, times=None):
        os.utime(self._real(path), ns=times, follow_symlinks=False)
        return 0

    def statfs(self, path):
        found = os.statvfs(self._real(path))
        names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_files", "f_frsize", "f_namemax")
        return {name: getattr(found, name) for name in names}


def main() -> None:
    """Serve."""
    backing, mountpoint, control = sys.argv[1:]
    mfusepy.FUSE(
        Passthrough(backing, control),
        mountpoint,
        foreground=True,
        fsname="ajit-test",
        use_ino=True,
        # Nothing is kept: every call asks the server.
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
    )


if __name__ == "__main__":
    main()
