"""Every system call by which files of the cache are published and read, each with its reason.

Names are relative to the cache directory's descriptor, and symbolic links are not followed::

    entries/<2 hex>/<key>.ajit     one file per entry, immutable
    reads/<2 hex>/<base>/<digest>  see `ajit._cache.entries.lists`, immutable
    digests/<node>                 see `ajit._cache.entries.node_digests`
    locks/<2 hex>/<key>.lock       see `ajit._cache.leases.table`; never unlinked
    locks/ev/, locks/pe/           leases of other things: eviction, compile permits
    failures/<2 hex>/<key>.json    see `ajit._cache.entries.failures`
    tmp/                           files that are being written

Guarantees: a published name only ever shows a whole file that was synced to the disk first; a
failure leaves nothing behind; `sweep_temporaries` removes what a killed process left in ``tmp``; no
mode depends on the umask. Everything here blocks: call it from a thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TypeVar

from ajit._system.process import this_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ajit._cache.files.directory import CacheDirectory

__all__ = [
    "OPEN_DIRECTORY",
    "TEMPORARY",
    "PublishMethod",
    "close_unwritten",
    "list_files",
    "list_names",
    "now",
    "publish_file",
    "read_dated_file",
    "read_file",
    "remove_file",
    "sweep_temporaries",
    "sync_directory",
    "with_parent",
]

T = TypeVar("T")

PublishMethod = Literal["link", "rename-noreplace", "rename"]
"""The call that gave a file its name. Only ``rename`` can replace a file."""

TEMPORARY = "tmp"

PARENT_TRIES = 3
"""How often a missing directory is made. Pretty arbitrary: each must be removed right after it."""

_RENAME_NOREPLACE = 1
_LINK_UNSUPPORTED = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})
_NOREPLACE_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_SYNC_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NOFOLLOW: a symbolic link is never an entry. O_NONBLOCK: opening a FIFO in its place must not
# hang; the flag has no effect on regular files.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# O_EXCL: never write into an existing file, nor through a link.
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def read_file(directory: CacheDirectory, name: str) -> bytes:
    """Return the bytes of a regular file below the cache directory.

    Raises:
        FileNotFoundError: There is none.
        OSError: It cannot be read, or is not a regular file.
    """
    return read_dated_file(directory, name)[0]


def read_dated_file(directory: CacheDirectory, name: str) -> tuple[bytes, float]:
    """Return the same, and the Unix time of its last modification by the file system's clock."""
    try:
        return _read_once(directory.fd, name)
    except OSError as exc:
        if exc.errno != errno.ESTALE:
            raise
        # On NFS the file behind a name may be replaced on the server between look-up and read.
        # A second look-up asks the server again.
        return _read_once(directory.fd, name)


def publish_file(
    directory: CacheDirectory, name: str, data: bytes, *, replace: bool
) -> PublishMethod:
    """Write a file under a temporary name, sync it, and give it its name in one step.

    Args:
        directory: The cache directory.
        name: Relative name, such as ``entries/ab/<key>.ajit``.
        data: All of its bytes.
        replace: Whether a file of that name may be replaced.

    Raises:
        FileExistsError: There is such a file and ``replace`` is false. It was not touched.
        OSError: The file could not be written. Nothing was published and nothing is left behind.
    """
    # In the cache and not in /tmp: link and rename do not cross file systems. Host, process and
    # random bits: process ids alone collide between the nodes that share a cache.
    temporary = f"{TEMPORARY}/{this_process().file_prefix}.{secrets.token_hex(8)}"
    mode = directory.sharing.file_mode
    fd = with_parent(
        directory, TEMPORARY, lambda: os.open(temporary, _CREATE, mode, dir_fd=directory.fd)
    )
    try:
        _write_synced(fd, data, mode)
        method = _give_name(directory, temporary, name, replace=replace)
    finally:
        # After a link the temporary is a second name of the file, after a rename it is gone, and
        # after a failure it is garbage. Failing to clean up must never fail work that succeeded.
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory.fd)
    sync_directory(directory.fd, _parent(name))
    return method


def remove_file(directory: CacheDirectory, name: str) -> bool:
    """Unlink a file and return whether there was one. A process that has it open can read on."""
    try:
        os.unlink(name, dir_fd=directory.fd)
    except FileNotFoundError:
        return False
    return True


def list_files(directory: CacheDirectory, top: str, suffix: str) -> Iterator[tuple[str, str]]:
    """Yield relative name and stem of every file ``<top>/<2 hex>/<stem><suffix>``, sorted."""
    for shard in list_names(directory.fd, top):
        for file in list_names(directory.fd, f"{top}/{shard}"):
            if file.endswith(suffix):
                yield f"{top}/{shard}/{file}", file.removesuffix(suffix)


def sweep_temporaries(directory: CacheDirectory) -> int:
    """Remove temporary files of processes of this host that died while they wrote.

    Files of living processes, of other hosts and of other containers are kept: from here it
    cannot be seen whether those writers live.

    Returns:
        How many were removed.
    """
    removed = 0
    for file in list_names(directory.fd, TEMPORARY):
        if this_process().outlived(file):
            with suppress(OSError):
                os.unlink(f"{TEMPORARY}/{file}", dir_fd=directory.fd)
                removed += 1
    return removed


def close_unwritten(fd: int) -> None:
    """Close a descriptor through which nothing was written."""
    # Linux frees the number whatever close() reports. An error would not matter here: the bytes
    # were read, and are verified by content.
    try:  # noqa: SIM105  # ten times as fast as suppress(), for each entry that is read
        os.close(fd)
    except OSError:
        pass


def now(directory: CacheDirectory) -> float:
    """Return the Unix time by the file system's clock, which may be another machine's.

    Ages of files are differences of its times. If it cannot be read, this machine's clock is used.
    """
    with suppress(OSError):
        os.utime(TEMPORARY, dir_fd=directory.fd, follow_symlinks=False)
        return os.stat(TEMPORARY, dir_fd=directory.fd).st_mtime
    return time.time()


def sync_directory(dir_fd: int, name: str) -> None:
    """Make the names in a directory survive a crash, as far as that is possible."""
    # Without it a crash may lose a name although the bytes are on the disk. By now the file is
    # published and whole, and losing it costs one compile: a failure here fails nothing.
    with suppress(OSError):
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=dir_fd)
        try:
            os.fsync(fd)
        finally:
            close_unwritten(fd)


def with_parent(directory: CacheDirectory, parent: str, operation: Callable[[], T]) -> T:
    """Run an operation; if its directory is missing, create that and run it again."""
    for _ in range(PARENT_TRIES):
        try:
            return operation()
        except FileNotFoundError:
            # An evictor may remove the directory while it is still empty: it takes no lease of
            # those who publish without one.
            with suppress(FileNotFoundError):
                directory.make(parent)
    return operation()


def _read_once(dir_fd: int, name: str) -> tuple[bytes, float]:
    fd = os.open(name, _READ, dir_fd=dir_fd)
    try:
        # The size by the descriptor, not by the name: it is that of the file which is read, and
        # allows one allocation of the right size.
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        size = status.st_size
        data = os.read(fd, size)
        # Network file systems may cut a read short; so does Linux above 2 GiB.
        while len(data) < size and (more := os.read(fd, size - len(data))):
            data += more
    finally:
        close_unwritten(fd)
    return data, status.st_mtime


def _write_synced(fd: int, data: bytes, mode: int) -> None:
    """Write all bytes, sync them, and close the descriptor in any case."""
    try:
        # The umask has reduced the mode given at creation; users who share it must be able to read.
        os.fchmod(fd, mode)
        view = memoryview(data)
        # A write may be short: on a disk that is filling up, and on Linux above 2 GiB. EINTR
        # before the first byte is retried by os.write itself (PEP 475).
        while view:
            view = view[os.write(fd, view) :]
        # Before the name: after a crash a valid name must not show truncated bytes. Network file
        # systems also report a full disk or an exceeded quota only here.
        _sync(fd)
    finally:
        # Raises, too, where the file system reports a late write error at close.
        os.close(fd)


def _give_name(
    directory: CacheDirectory, temporary: str, name: str, *, replace: bool
) -> PublishMethod:
    def operation() -> PublishMethod:
        if not replace:
            return _link(directory.fd, temporary, name)
        # Atomic: a reader sees the old file or the new one, and a process that has the old one open
        # can read on.
        os.rename(temporary, name, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
        return "rename"

    return with_parent(directory, _parent(name), operation)


def _link(dir_fd: int, temporary: str, name: str) -> PublishMethod:
    try:
        # link() fails if the name exists, on every POSIX file system, NFS included: of many
        # writers exactly one wins. With rename() the last one would win.
        os.link(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
    except FileExistsError:
        # An NFS server may do the link and lose the reply; the client asks again and is told
        # that the name exists. Two names of our own file mean that the first try succeeded.
        if os.stat(temporary, dir_fd=dir_fd, follow_symlinks=False).st_nlink != 2:
            raise
    except OSError as exc:
        if exc.errno not in _LINK_UNSUPPORTED:
            raise
        return _rename_create_only(dir_fd, temporary, name)
    return "link"


def _rename_create_only(dir_fd: int, temporary: str, name: str) -> PublishMethod:
    """For file systems without hard links: FAT, some FUSE file systems, object stores."""
    try:
        _renameat2(dir_fd, temporary, name, _RENAME_NOREPLACE)
    except OSError as exc:
        if exc.errno not in _NOREPLACE_UNSUPPORTED:
            raise
    else:
        return "rename-noreplace"
    # Neither is available. Look first, then rename: two writers at once may replace each other's
    # files. Both files are whole and of this key, so that is harmless, but not create-only. The
    # other order (create the name with O_EXCL, then write) would show readers a torn entry.
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    return "rename"


def _renameat2(dir_fd: int, old: str, new: str, flags: int) -> None:
    # Python has no os.renameat2. Looked up here and not on import: few caches ever need it.
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), new)
    if renameat2(dir_fd, os.fsencode(old), dir_fd, os.fsencode(new), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), new)


def _sync(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as exc:
        # Some FUSE file systems cannot sync. Then nothing is durable, but the entry's digest still
        # detects a file that a crash has torn.
        if exc.errno not in _SYNC_UNSUPPORTED:
            raise


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def list_names(dir_fd: int, name: str) -> list[str]:
    """Names in a directory, sorted; none if it does not exist or cannot be read."""
    try:
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=dir_fd)
    except OSError:
        return []
    try:
        with os.scandir(fd) as found:
            return sorted(entry.name for entry in found)
    except OSError:  # an I/O error in the middle; half a list would look like a whole one
        return []
    finally:
        close_unwritten(fd)
