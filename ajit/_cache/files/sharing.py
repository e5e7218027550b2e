"""The users of a cache directory: its owner, or, with a setting, the members of one group.

By default directories are 0700 and files 0600. Shared with a group, directories are 02770 with that
group and files 0660: each member may add, replace and evict entries, and so each member can put
code into the processes of the others. To share without that trust, set an HMAC secret as well
(`ajit._cache.files.secret`).

No other user may be able to write, and a directory must belong to a member of the group.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from ajit.errors import CacheError

__all__ = ["DirectoryRole", "Sharing", "sharing_with"]

DirectoryRole = Literal["cache", "parent"]


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who may use a cache directory.

    Attributes:
        gid: The group that shares it, or None.
        allow_unsafe: Whether any user may: owner and mode are then not checked.
    """

    gid: int | None = None
    allow_unsafe: bool = False

    @property
    def file_mode(self) -> int:
        """Mode of its files."""
        return 0o600 if self.gid is None else 0o660

    def directory_mode(self, place: DirectoryRole = "cache") -> int:
        """Mode of a directory that is created: in the cache, or above it.

        The group may pass through a directory above the cache, and may not write there.
        """
        if self.gid is None:
            return 0o700
        # The set-group-ID bit: files that a member creates in it belong to the group.
        return 0o2770 if place == "cache" else 0o710

    def make_directory(
        self, path: str, dir_fd: int | None = None, *, place: DirectoryRole = "cache"
    ) -> None:
        """Create one directory, unless it exists.

        Raises:
            OSError: It cannot be created, or not be given to the group.
        """
        try:
            # Private from the start: otherwise any user could enter between mkdir and chmod.
            os.mkdir(path, 0o700, dir_fd=dir_fd)
        except FileExistsError:
            # Another process created it just now; the caller checks it.
            return
        if self.gid is not None:
            # Before the mode: it takes the set-group-ID bit away again.
            os.chown(path, -1, self.gid, dir_fd=dir_fd)
        # The umask may have removed permissions that the users who share it need.
        os.chmod(path, self.directory_mode(place), dir_fd=dir_fd)

    def objection(self, status: os.stat_result) -> str:
        """Say why a directory cannot be trusted, or ""."""
        if self.allow_unsafe:
            return ""
        mode = f"(mode {stat.S_IMODE(status.st_mode):04o}) and could put code there"
        if status.st_mode & stat.S_IWOTH:
            return f"other users may write to it {mode}"
        if status.st_mode & stat.S_IWGRP and status.st_gid != self.gid:
            return f"other users, of group {status.st_gid}, may write to it {mode}"
        if status.st_uid not in (os.geteuid(), 0) and not self._is_member(status.st_uid):
            return f"it belongs to user {status.st_uid}, who could put code there"
        return ""

    def _is_member(self, uid: int) -> bool:
        if self.gid is None:
            return False
        with suppress(KeyError, OSError):  # no such user here: then no member either
            user = pwd.getpwuid(uid)
            return self.gid in os.getgrouplist(user.pw_name, user.pw_gid)
        return False


def sharing_with(group: str, *, path: str, allow_unsafe: bool = False) -> Sharing:
    """Return how a cache is shared with a group, by its name or number; "" is not at all.

    Raises:
        CacheError: There is no such group here, or this user is not in it.
    """
    if not group:
        return Sharing(allow_unsafe=allow_unsafe)
    try:
        gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise _cannot_share(path, f"there is no group {group!r} on this machine") from None
    if os.geteuid() != 0 and gid not in {os.getegid(), *os.getgroups()}:
        raise _cannot_share(path, f"it is shared with group {group}, but this user is not in it")
    return Sharing(gid, allow_unsafe)


def _cannot_share(path: str, reason: str) -> CacheError:
    return CacheError(
        path=path, reason=reason, hint="set AJIT_SHARED_GROUP to one of this user's groups"
    )
