"""Every system call by which files of the cache are published, each with its reason.

Names are relative to the cache directory. None is used as a whole: the file's directory is opened
and checked first (`ajit._cache.files.folders`), and no symbolic link is followed::

    entries/<2 hex>/<key>.ajit     one file per entry, immutable
    reads/<2 hex>/<base>/<digest>  see `ajit._cache.entries.lists`, immutable
    digests/<node>                 see `ajit._cache.entries.node_digests`
    locks/<2 hex>/<key>.lock       see `ajit._cache.leases.table`; never unlinked
    locks/ev/, locks/pe/           leases of other things: eviction, compile permits
    locks/ra/<group>/<rank>        see `ajit._cache.leases.posts`
    failures/<2 hex>/<key>.json    see `ajit._cache.entries.failures`
    history/<node>.jsonl           see `ajit._cache.entries.history`, appended to
    tmp/                           files that are being written

Guarantees: a published name only ever shows a whole file that was synced to the disk first; a
failure leaves nothing behind; `sweep_temporaries` removes what a killed process left in ``tmp``; no
mode depends on the umask. Everything here blocks: call it from a thread. How files are read is in
`ajit._cache.files.reading`, whose names are those of this module as well.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from ajit._cache.files.folders import NO_DESCRIPTORS, UnsafeFolder, close_unwritten
from ajit._cache.files.reading import (
    LIST_DIRECTORY,
    TEMPORARY,
    Failed,
    UnusableFile,
    is_temporary,
    list_files,
    list_names,
    list_names_or_raise,
    now,
    open_checked,
    read_dated_file,
    read_file,
    regular_files,
    stat_file,
    touch_file,
    unsafe_folders,
)
from ajit._system.process import this_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ajit._cache.files.directory import CacheDirectory
    from ajit._cache.files.folders import Folder

__all__ = [
    "TEMPORARY",
    "Failed",
    "PublishMethod",
    "UnsafeFolder",
    "UnusableFile",
    "close_unwritten",
    "in_folder",
    "is_temporary",
    "list_files",
    "list_names",
    "list_names_or_raise",
    "new_temporary",
    "now",
    "open_checked",
    "publish_file",
    "publish_pieces",
    "read_dated_file",
    "read_file",
    "regular_files",
    "remove_empty",
    "remove_file",
    "stat_file",
    "sweep_temporaries",
    "touch_file",
    "unsafe_folders",
]

T = TypeVar("T")

PublishMethod = Literal["link", "rename-noreplace", "rename"]
"""The call that gave a file its name. Only ``rename`` can replace a file."""

PARENT_TRIES = 3
"""How often a missing directory is made. Pretty arbitrary: each must be removed right after it."""

_RENAME_NOREPLACE = 1
_LINK_UNSUPPORTED = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})
_NOREPLACE_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_NOT_EMPTY = frozenset({errno.ENOTEMPTY, errno.EEXIST})
_SYNC_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

# O_EXCL: never write into an existing file, nor through a link.
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def publish_file(
    directory: CacheDirectory, name: str, data: bytes, *, replace: bool, synced: bool = True
) -> PublishMethod:
    """Write a file under a temporary name, sync it, and give it its name in one step.

    As `publish_pieces`, with all of its bytes.
    """
    return publish_pieces(directory, name, (data,), replace=replace, synced=synced)


def publish_pieces(
    directory: CacheDirectory,
    name: str,
    pieces: Iterable[bytes],
    *,
    replace: bool,
    synced: bool = True,
) -> PublishMethod:
    """Write a file under a temporary name, sync it, and give it its name in one step.

    Args:
        directory: The cache directory.
        name: Relative name, such as ``entries/ab/<key>.ajit``.
        pieces: Its bytes, one after another; what this raises ends it, and nothing is left behind.
        replace: Whether a file of that name may be replaced.
        synced: Whether it must survive a crash. If not, a crash may leave it empty or torn: for
            what has its own checksum and costs nothing to make again.

    Raises:
        FileExistsError: There is such a file and ``replace`` is false. It was not touched.
        UnsafeFolder: Its directory must not be used. Nothing was written.
        OSError: The file could not be written. Nothing was published and nothing is left behind.
    """
    mode = directory.sharing.file_mode
    last, folder, fd = in_folder(directory, TEMPORARY, lambda folder: _create(folder, mode))
    temporary = _Temporary(folder, last)
    try:
        _write(fd, pieces, mode, synced=synced)
        method = _give_name(directory, temporary, name, replace=replace)
    finally:
        # After a link the temporary is a second name of the file, after a rename it is gone, and
        # after a failure it is garbage. Failing to clean up must never fail work that succeeded.
        with suppress(OSError):
            os.unlink(last, dir_fd=folder.fd)
    if synced:
        with suppress(OSError):
            sync_folder(directory.folders.get(_parent(name)))
    return method


def new_temporary() -> str:
    """Return a new name for a file in ``tmp``. `is_temporary` knows its form."""
    # Host, process and random bits: process ids alone collide between the nodes that share a cache.
    return f"{this_process().file_prefix}.{secrets.token_hex(8)}"


def remove_file(directory: CacheDirectory, name: str) -> bool:
    """Unlink a file and return whether there was one. A process that has it open can read on."""
    parent, _, last = name.rpartition("/")
    try:
        directory.folders.retry(parent, lambda folder: os.unlink(last, dir_fd=folder.fd))
    except FileNotFoundError:
        return False
    return True


def remove_empty(directory: CacheDirectory, name: str) -> None:
    """Remove a directory.

    Raises:
        OSError: It is not empty, or cannot be removed.
    """
    parent, _, last = name.rpartition("/")
    directory.folders.retry(parent, lambda folder: os.rmdir(last, dir_fd=folder.fd))


def sweep_temporaries(directory: CacheDirectory) -> int:
    """Remove temporary files of processes of this host that died while they wrote.

    Files of living processes, of other hosts and of other containers are kept: from here it
    cannot be seen whether those writers live.

    Returns:
        How many were removed.
    """
    removed = 0
    for file in list_names(directory, TEMPORARY):
        if is_temporary(file) and this_process().outlived(file):
            with suppress(OSError):
                removed += remove_file(directory, f"{TEMPORARY}/{file}")
    return removed


def sync_folder(folder: Folder) -> None:
    """Make the names in a directory survive a crash, as far as that is possible."""
    # Without it a crash may lose a name although the bytes are on the disk. By now the file is
    # published and whole, and losing it costs one compile: a failure here fails nothing.
    with suppress(OSError):
        fd = os.open(".", LIST_DIRECTORY, dir_fd=folder.fd)
        try:
            os.fsync(fd)
        finally:
            close_unwritten(fd)


def in_folder(directory: CacheDirectory, name: str, operation: Callable[[Folder], T]) -> T:
    """Run an operation on a directory that is there now; if it is missing, create it first.

    Raises:
        UnsafeFolder: The directory must not be used.
        OSError: What the operation raised, or creating the directory.
        CacheError: The cache directory that is there now cannot be used.
    """
    for _ in range(PARENT_TRIES):
        try:
            return operation(directory.folders.current(name))
        except FileNotFoundError:
            # An evictor may remove the directory while it is still empty: it takes no lease of
            # those who publish without one.
            with suppress(FileNotFoundError):
                directory.make(name)
        except OSError as exc:
            # Those that are kept are given up first.
            if exc.errno not in NO_DESCRIPTORS:
                raise
            directory.folders.clear()
    return operation(directory.folders.current(name))


class _Temporary(NamedTuple):
    folder: Folder
    last: str


def _create(folder: Folder, mode: int) -> tuple[str, Folder, int]:
    last = new_temporary()
    return last, folder, os.open(last, _CREATE, mode, dir_fd=folder.fd)


def _write(fd: int, pieces: Iterable[bytes], mode: int, *, synced: bool) -> None:
    """Write all bytes, sync them if need be, and close the descriptor in any case."""
    try:
        # The umask has reduced the mode given at creation; users who share it must be able to read.
        os.fchmod(fd, mode)
        for piece in pieces:
            view = memoryview(piece)
            # A write may be short: on a disk that is filling up, and on Linux above 2 GiB. EINTR
            # before the first byte is retried by os.write itself (PEP 475).
            while view:
                view = view[os.write(fd, view) :]
        # Before the name: after a crash a valid name must not show truncated bytes. Network file
        # systems also report a full disk or an exceeded quota only here.
        if synced:
            _sync(fd)
    finally:
        # Raises, too, where the file system reports a late write error at close.
        os.close(fd)


def _give_name(
    directory: CacheDirectory, temporary: _Temporary, name: str, *, replace: bool
) -> PublishMethod:
    parent, _, last = name.rpartition("/")

    def operation(folder: Folder) -> PublishMethod:
        if not replace:
            return _link(temporary, folder, last)
        try:
            _rename(temporary, folder, last)
        except IsADirectoryError:
            _put_aside(temporary, folder, last)
            _rename(temporary, folder, last)
        return "rename"

    # In the cache and not in /tmp: link and rename do not cross file systems.
    return in_folder(directory, parent, operation)


def _rename(temporary: _Temporary, folder: Folder, last: str) -> None:
    # Atomic: a reader sees the old file or the new one, and a process that has the old one open can
    # read on. A link, FIFO or socket in its place is replaced as well, and not followed.
    os.rename(temporary.last, last, src_dir_fd=temporary.folder.fd, dst_dir_fd=folder.fd)


def _put_aside(temporary: _Temporary, folder: Folder, last: str) -> None:
    """Clear a name that a directory has. What is in the directory is moved, and not removed."""
    try:
        os.rmdir(last, dir_fd=folder.fd)
    except OSError as exc:
        if exc.errno not in _NOT_EMPTY:
            raise
        aside = f"{temporary.last}.aside"
        os.rename(last, aside, src_dir_fd=folder.fd, dst_dir_fd=temporary.folder.fd)


def _link(temporary: _Temporary, folder: Folder, last: str) -> PublishMethod:
    source = temporary.folder.fd
    try:
        # link() fails if the name exists, on every POSIX file system, NFS included: of many
        # writers exactly one wins. With rename() the last one would win.
        os.link(
            temporary.last, last, src_dir_fd=source, dst_dir_fd=folder.fd, follow_symlinks=False
        )
    except FileExistsError:
        # An NFS server may do the link and lose the reply; the client asks again and is told
        # that the name exists. Two names of our own file mean that the first try succeeded.
        if os.stat(temporary.last, dir_fd=source, follow_symlinks=False).st_nlink != 2:
            raise
    except OSError as exc:
        if exc.errno not in _LINK_UNSUPPORTED:
            raise
        return _rename_create_only(temporary, folder, last)
    return "link"


def _rename_create_only(temporary: _Temporary, folder: Folder, last: str) -> PublishMethod:
    """For file systems without hard links: FAT, some FUSE file systems, object stores."""
    try:
        _renameat2(temporary, folder, last, _RENAME_NOREPLACE)
    except OSError as exc:
        if exc.errno not in _NOREPLACE_UNSUPPORTED:
            raise
    else:
        return "rename-noreplace"
    # Neither is available. Look first, then rename: two writers at once may replace each other's
    # files. Both files are whole and of this key, so that is harmless, but not create-only. The
    # other order (create the name with O_EXCL, then write) would show readers a torn entry.
    with suppress(FileNotFoundError):
        os.stat(last, dir_fd=folder.fd, follow_symlinks=False)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), last)
    _rename(temporary, folder, last)
    return "rename"


def _renameat2(temporary: _Temporary, folder: Folder, last: str, flags: int) -> None:
    # Python has no os.renameat2. Looked up here and not on import: few caches ever need it.
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), last)
    old, new = os.fsencode(temporary.last), os.fsencode(last)
    if renameat2(temporary.folder.fd, old, folder.fd, new, flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), last)


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
