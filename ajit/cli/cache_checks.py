"""Checks of the cache directory: whether it can be used, and whether its locks exclude others."""

from __future__ import annotations

import fcntl
import os
import secrets
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ajit._cache.files.directory import open_configured_cache
from ajit.cli.findings import Check
from ajit.cli.output import format_bytes
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._cache.files.directory import CacheDirectory
    from ajit.settings import Settings

__all__ = ["check_cache"]

LITTLE_SPACE_BYTES = 64 * 1024 * 1024
"""With less free space than this, the check warns. Pretty arbitrary: some hundred kernels."""

CHILD_SECONDS = 30.0
"""How long the other process may take to try the lock, on a busy machine."""

NETWORK_FILE_SYSTEMS = (
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse", "gpfs", "lustre", "nfs", "smb",
)  # fmt: skip

# Another process tries the same lock: the kernel gives it to both, or it does not.
_TRY_LOCK = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except (BlockingIOError, PermissionError):
    print("excluded")
except OSError as error:
    print(error.strerror)
else:
    print("not excluded")
"""


def check_cache(settings: Settings) -> Iterator[Check]:
    """Open the cache directory as a runtime would, and look at its file system."""
    try:
        directory = open_configured_cache(settings)
    except CacheError as exc:
        yield Check("cache", "problem", str(settings.cache_dir), f"{exc.reason}; {exc.hint}")
        return
    if directory.access != "writable":
        found = f"{directory.path}, {directory.access}"
        advice = f"kernels are compiled but not cached: {directory.problem}"
        yield Check("cache", "problem", found, advice)
        return
    yield Check("cache", "ok", directory.path)
    yield _check_file_system(directory)
    yield _check_locks(directory)


def _check_file_system(directory: CacheDirectory) -> Check:
    kind = _file_system(directory.path)
    status = os.fstatvfs(directory.fd)
    free_bytes = status.f_bavail * status.f_frsize
    found = f"{kind}, {format_bytes(free_bytes)} free"
    if free_bytes < LITTLE_SPACE_BYTES:
        return Check("cache file system", "problem", found, "almost full: kernels cannot be cached")
    if kind.startswith(NETWORK_FILE_SYSTEMS):
        advice = "a network file system: locks between nodes were not tested"
        return Check("cache file system", "ok", found, advice)
    return Check("cache file system", "ok", found)


def _check_locks(directory: CacheDirectory) -> Check:
    """Hold a lock on a file of this check, and let another process try to take it."""
    path = Path(directory.path, "tmp", f"doctor.{os.getpid()}.{secrets.token_hex(8)}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        answer = _ask_another_process(path)
    except OSError as exc:
        answer = exc.strerror or str(exc)
    finally:
        os.close(fd)
        with suppress(OSError):
            path.unlink()
    if answer == "excluded":
        return Check("cache locks", "ok", "exclude another process", "one compile for each kernel")
    advice = "kernels stay correct, but several processes may compile the same one"
    return Check("cache locks", "problem", f"do not work: {answer}", advice)


def _ask_another_process(path: Path) -> str:
    try:
        # -I -S: no user site, no .pth files: fast, and no code of other packages runs.
        asked = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _TRY_LOCK, str(path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {CHILD_SECONDS:g} s"
    return asked.stdout.strip() or "the process that tried the lock failed"


def _file_system(path: str) -> str:
    """The type of the file system that a path is on, from the longest mount point above it."""
    real = Path(path).resolve()
    best, kind = -1, "unknown file system"
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        # Blanks in a mount point are written as \\040; such a path is just not matched.
        mount_point = Path(left.split()[4])
        if real.is_relative_to(mount_point) and len(mount_point.parts) >= best:
            best, kind = len(mount_point.parts), right.split()[0]
    return kind
