"""Where the socket of a service is, and that no other user can get at it.

The socket has mode 0600 and lies in a directory that only its owner can write, or root: who can
write there could put a socket of its own in its place. Beside it lies a lock file, which the
service locks as long as it runs (the kernel unlocks it when it dies): so a socket that is found is
either served, or was left behind and may be removed. Who has the lock removes its file before it
lets go; who gets a lock looks whether its file is still the one that lies there, else it has locked
nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ajit.errors import KvError

__all__ = ["Claim", "check_folder", "claim", "default_socket"]

MOST_PATH_BYTES = 107
"""The kernel's limit on the path of a socket, without its last NUL."""


BACKLOG = 128

ENDING_SECONDS = 5.0
"""How long a process may take to end after its socket was closed: the kernel frees its memory."""
ENDING_POLL_SECONDS = 0.01

DYING_SECONDS = 1.0
"""How long the connection to a listening socket must last, for its process not to be one that is
being ended: it takes its memory apart before it closes its files."""


def default_socket() -> Path:
    """``$AJIT_KV_SOCKET``, else ``$XDG_RUNTIME_DIR/ajit/kv.sock``.

    Without either, one in a folder of this user's among temporary files. Nothing is made.
    """
    if given := os.environ.get("AJIT_KV_SOCKET", ""):
        return Path(given)
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):  # noqa: PTH117  # a text
        return Path(runtime) / "ajit" / "kv.sock"
    return Path(tempfile.gettempdir()) / f"ajit-kv-{os.getuid()}" / "kv.sock"


def what_is_at(path: Path) -> str:
    """Say in words what is where a socket is looked for, if none listens there."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "there is no socket"
    except OSError as exc:
        return f"it cannot be looked at: {exc.strerror}"
    if not stat.S_ISSOCK(mode):
        return "what is there is no socket"
    return "a socket is there, and none listens: its service was killed"


def check_folder(path: Path) -> None:
    """Refuse a place where another user could put a socket.

    Raises:
        KvError: Others own its folder, or can write to it.
        OSError: There is no such folder.
    """
    folder = path.parent
    found = folder.stat()
    if found.st_uid not in (os.geteuid(), 0):
        raise KvError(path=str(path), reason=f"user {found.st_uid} owns {folder}")
    if stat.S_IMODE(found.st_mode) & 0o022:
        reason = f"other users can write to {folder}"
        raise KvError(path=str(path), reason=reason, hint="take a folder of mode 0700")


@dataclass(slots=True)
class Claim:
    """The place of a service's socket, which is this process's.

    Attributes:
        listener: The socket, which listens.
        lock: The descriptor of the lock; the place is claimed as long as it is open.
    """

    listener: socket.socket
    lock: int
    path: Path

    def give_up(self) -> None:
        """Remove the socket and the lock, and let others listen there. Blocks shortly."""
        # If its lock was removed from outside, another service may listen there by now.
        if _is_at(self.lock, _lock_file(self.path)):
            self.path.unlink(missing_ok=True)
        self.listener.close()
        _unlock(self.path, self.lock)


def claim(path: Path) -> Claim:
    """Listen at a place. Blocks shortly.

    Makes the folder if it is not there, and removes a socket that was left behind.

    Raises:
        KvError: Another service has it, or the place cannot be used.
    """
    if len(os.fsencode(path)) > MOST_PATH_BYTES:
        raise KvError(path=str(path), reason="the path is too long for a socket")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_folder(path)
        lock = _wait_for_lock(path)
    except BlockingIOError as exc:
        raise KvError(path=str(path), reason="another service listens there") from exc
    except OSError as exc:
        raise KvError(path=str(path), reason=str(exc.strerror)) from exc
    try:
        _remove_left_behind(path)
        return Claim(_listen(path), lock, path)
    except OSError as exc:
        _unlock(path, lock)
        raise KvError(path=str(path), reason=str(exc.strerror)) from exc


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _wait_for_lock(path: Path) -> int:
    """Lock it; wait a little for one that is ending, whose socket has no listener any more.

    Raises:
        BlockingIOError: Another service has it.
        OSError: There can be no lock.
    """
    until = time.monotonic() + ENDING_SECONDS
    while True:
        try:
            return _lock(path)
        except BlockingIOError:
            if _is_served(path) or time.monotonic() > until:
                raise
        time.sleep(ENDING_POLL_SECONDS)


def _is_served(path: Path) -> bool:
    """Whether a service listens there that is not just being ended by the kernel.

    A process that is killed closes its files one after the other: its clients may know already, and
    its socket still takes a connection. But then that connection ends.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # noqa: FBT003  # its signature
        answer = probe.connect_ex(str(path))
        if answer != 0:
            return answer == errno.EAGAIN  # its queue is full
        probe.settimeout(DYING_SECONDS)
        try:
            return probe.recv(1) != b""
        except TimeoutError:
            return True
        except OSError:
            return False


def _lock(path: Path) -> int:
    """Lock the place of a socket; the descriptor has the lock until it is closed.

    Raises:
        BlockingIOError: Another process has it.
        OSError: There can be no lock.
    """
    name = _lock_file(path)
    while True:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # Of the open file, and not of the process: it is let go when that is closed.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, name):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # its owner has removed it since it was opened


def _is_at(descriptor: int, name: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), name.lstat())
    except FileNotFoundError:
        return False


def _unlock(path: Path, lock: int) -> None:
    """Remove the file of a lock while it is held, so none is locked that others have opened."""
    if _is_at(lock, _lock_file(path)):
        _lock_file(path).unlink(missing_ok=True)
    os.close(lock)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        # Before it listens: until then none can connect, whatever the mode.
        path.chmod(0o600)
        listener.listen(BACKLOG)
        listener.setblocking(False)  # noqa: FBT003  # its signature
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_left_behind(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(0, "what is there is no socket")
    path.unlink()
