"""The users of a cache directory: its owner, the members of one group, or all who can reach it.

By default directories are 0700 and files 0600. Shared with a group, directories are 02770 with that
group and files 0660: each member may add, replace and evict entries, and so each member can put
code into the processes of the others.

Where a seal is asked for (`ajit._cache.files.trust`), a user who can write to the cache and has no
key cannot put code there. Then directories and files of any
owner and mode are used, and what is made in a directory that others may write to gets its rights:
that is whom its administrator shares it with.

Else no other user may be able to write, and what is used must belong to this user, to root, or to
a member of the group.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from ajit.errors import CacheError

__all__ = ["DirectoryRole", "Sharing", "sharing_with"]

DirectoryRole = Literal["cache", "parent"]

PRIVATE = 0o700
_OPEN_NEW = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who may use a cache directory.

    Attributes:
        gid: The group that what is made is given to, or None.
        allow_unsafe: Whether any user may: owner and mode are then not checked.
        authenticated: The same, because entries are authenticated.
        rights: Mode of the directories that are made in the cache.
    """

    gid: int | None = None
    allow_unsafe: bool = False
    authenticated: bool = False
    rights: int = PRIVATE

    @property
    def file_mode(self) -> int:
        """Mode of its files."""
        return self.rights & 0o666

    def directory_mode(self, place: DirectoryRole = "cache") -> int:
        """Mode of a directory that is created: in the cache, or above it.

        The group may pass through a directory above the cache, and may not write there.
        """
        if place == "cache":
            return self.rights
        return PRIVATE if self.gid is None else 0o710

    def make_directory(
        self, path: str, dir_fd: int | None = None, *, place: DirectoryRole = "cache"
    ) -> None:
        """Create one directory, unless it exists. The caller checks it.

        Raises:
            OSError: It cannot be created, or not be given to the group.
        """
        # Another process may create it just now.
        with suppress(FileExistsError):
            self.make_new_directory(path, dir_fd, place=place)

    def make_new_directory(
        self, path: str, dir_fd: int | None = None, *, place: DirectoryRole = "cache"
    ) -> None:
        """The same, but there must be none: of many callers, one makes it.

        Raises:
            FileExistsError: There is one. It was not touched.
            OSError: It cannot be created, or not be given to the group.
        """
        # Private from the start: otherwise any user could enter between mkdir and chmod.
        os.mkdir(path, PRIVATE, dir_fd=dir_fd)
        # By descriptor: a user who may write here could put a link in its place.
        fd = os.open(path, _OPEN_NEW, dir_fd=dir_fd)
        try:
            self._give(fd, self.directory_mode(place))
        finally:
            os.close(fd)

    def _give(self, fd: int, mode: int) -> None:
        if self.gid is not None:
            # Before the mode: it takes the set-group-ID bit away again.
            os.fchown(fd, -1, self.gid)
        # The umask may have removed permissions that the users who share it need.
        os.fchmod(fd, mode)

    def adopting(self, status: os.stat_result) -> Sharing:
        """Return how a cache is used whose directory is there: see the module's docstring."""
        if not self.authenticated or self.gid is not None or not status.st_mode & _OTHERS_WRITE:
            return self
        rights = status.st_mode & 0o777 | PRIVATE
        if not _is_in(status.st_gid):
            return replace(self, rights=rights)
        # The set-group-ID bit: what is made in it belongs to the group.
        return replace(self, gid=status.st_gid, rights=rights | stat.S_ISGID)

    def objection(self, status: os.stat_result) -> str:
        """Say why a directory or file cannot be trusted, or ""."""
        if status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_WRITE:
            return ""  # almost always, and for every entry that is read
        if self.allow_unsafe or self.authenticated:
            return ""
        mode = f"(mode {stat.S_IMODE(status.st_mode):04o}) and could put code there"
        if status.st_mode & stat.S_IWOTH:
            return f"other users may write to it {mode}"
        if status.st_mode & stat.S_IWGRP and status.st_gid != self.gid:
            return f"other users, of group {status.st_gid}, may write to it {mode}"
        if status.st_uid not in (os.geteuid(), 0) and not self._is_members(status):
            return f"it belongs to user {status.st_uid}, who could put code there"
        return ""

    def may_be_spoilt(self, status: os.stat_result) -> bool:
        """Whether one who may not be trusted can spoil a directory that is used all the same.

        He can put anything there but authentic entries, and remove what is there. Who uses it must
        not fail for that, and goes on without it.
        """
        others_own = status.st_uid not in (os.geteuid(), 0)
        return self.authenticated and (others_own or bool(status.st_mode & _OTHERS_WRITE))

    def _is_members(self, status: os.stat_result) -> bool:
        """Whether it belongs to a member of the group that shares the cache."""
        if self.gid is None:
            return False
        known = _is_member(status.st_uid, self.gid)
        # A user without a name, as containers are given one: nothing but what is his tells. Only a
        # member can have given it to the group.
        return status.st_gid == self.gid if known is None else known


def sharing_with(
    group: str, *, path: str, allow_unsafe: bool = False, authenticated: bool = False
) -> Sharing:
    """Return how a cache is shared with a group, by its name or number; "" is not at all.

    Raises:
        CacheError: There is no such group here, or this user is not in it.
    """
    if not group:
        return Sharing(allow_unsafe=allow_unsafe, authenticated=authenticated)
    try:
        gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise _cannot_share(path, f"there is no group {group!r} on this machine") from None
    if not _is_in(gid):
        raise _cannot_share(path, f"it is shared with group {group}, but this user is not in it")
    # The set-group-ID bit: files that a member creates belong to the group.
    return Sharing(gid, allow_unsafe, authenticated, rights=0o2770)


@lru_cache(maxsize=1024)  # it may ask a server, and is asked for every entry that is read
def _is_member(uid: int, gid: int) -> bool | None:
    """Whether a user is in a group; None for one that is unknown here."""
    try:
        user = pwd.getpwuid(uid)
        return gid in os.getgrouplist(user.pw_name, user.pw_gid)
    except (KeyError, OSError):
        return None


def _is_in(gid: int) -> bool:
    return os.geteuid() == 0 or gid in {os.getegid(), *os.getgroups()}


def _cannot_share(path: str, reason: str) -> CacheError:
    return CacheError(
        path=path, reason=reason, hint="set AJIT_SHARED_GROUP to one of this user's groups"
    )
