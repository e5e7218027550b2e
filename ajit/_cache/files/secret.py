"""The secret that authenticates entries and failure records, from a file or a setting.

A writer to the store that does not know the secret cannot make a process use anything: an entry
without the right HMAC is a miss, and a failure record without it is ignored.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ajit._cache.files.fs import close_unwritten
from ajit.errors import SettingsError
from ajit.settings import HIDDEN

if TYPE_CHECKING:
    from ajit.settings import Settings

__all__ = ["load_secret"]

MINIMUM_BYTES = 16
"""128 bits, if they are random, which cannot be checked here."""

MAXIMUM_BYTES = 4096
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def load_secret(settings: Settings) -> bytes | None:
    """Return ``hmac_key`` or the contents of ``hmac_key_file``; None without either. Blocks.

    White space at the end does not count, so the file may be written with a text editor.

    Raises:
        SettingsError: It cannot be read, is not private, or holds no secret. Nothing was started,
            and nothing was read from the cache.
    """
    if settings.hmac_key:
        return _from_setting(settings)
    if settings.hmac_key_file:
        return _from_file(settings)
    return None


def _from_setting(settings: Settings) -> bytes:
    try:
        # A variable that is not UTF-8 has surrogates, which stand for its bytes.
        secret = settings.hmac_key.encode(errors="surrogateescape").rstrip()
    except UnicodeEncodeError:
        # The exception would show the secret, so it must not be the cause of ours.
        secret, problem = b"", "it has surrogates that stand for no byte"
    else:
        problem = f"it has only {len(secret)} bytes"
    if len(secret) < MINIMUM_BYTES:
        raise SettingsError(
            name="hmac_key",
            value=HIDDEN,
            origin=settings.origins.get("hmac_key", "argument"),
            expected=f"at least {MINIMUM_BYTES} secret bytes, such as `openssl rand -hex 32` "
            f"prints ({problem})",
        )
    return secret


def _from_file(settings: Settings) -> bytes:
    path = settings.hmac_key_file
    try:
        data, problem = _read(Path(path).expanduser())
    except (OSError, RuntimeError) as exc:
        data, problem = b"", getattr(exc, "strerror", None) or str(exc)
    secret = data.rstrip()
    if not problem and len(secret) < MINIMUM_BYTES:
        problem = f"it has only {len(secret)} bytes"
    if problem:
        raise SettingsError(
            name="hmac_key_file",
            value=path,
            origin=settings.origins.get("hmac_key_file", "argument"),
            expected=f"this user's file, mode 0600, with at least {MINIMUM_BYTES} secret bytes, "
            f"such as `head -c 32 /dev/urandom` writes ({problem})",
        )
    return secret


def _read(path: Path) -> tuple[bytes, str]:
    """Return the contents of the file, or why it cannot be used."""
    # A link is followed: secrets are mounted into containers in this way. The checks use the
    # descriptor that is read. O_NONBLOCK: a FIFO must not hang the start.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        problem = _objection(os.fstat(fd))
        return (b"", problem) if problem else (os.read(fd, MAXIMUM_BYTES + 1), "")
    finally:
        close_unwritten(fd)


def _objection(status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    if status.st_uid not in (os.geteuid(), 0):
        return f"it belongs to user {status.st_uid}"
    if status.st_mode & _OTHERS:
        return f"others may use it, mode {stat.S_IMODE(status.st_mode):04o}: chmod 600 it"
    if status.st_size > MAXIMUM_BYTES:
        return f"it has more than {MAXIMUM_BYTES} bytes"
    return ""
