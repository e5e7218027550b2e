"""What to do about a cache directory that cannot be trusted, or not be read. Decides, does nothing.

To take rights away from a directory (``chmod go-w``) is no advice: what others have put into it
meanwhile stays there.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

__all__ = ["TO_READ", "advice"]

TO_READ = "let this user read it: chmod -R a+rX, or give it to this user"
"""A cache that was copied into an image as its owner had it is for its owner alone."""

_AUTHENTICATE = "set AJIT_HMAC_KEY_FILE, so that it does not matter who can write to it"
_ALLOW = "set AJIT_ALLOW_UNSAFE_CACHE=1 if all who can write to it are trusted"


def advice(path: str, status: os.stat_result, *, layer: bool = False) -> str:
    """Return what to try, the best first.

    Args:
        path: The directory that another user could put code into.
        status: Of the directory.
        layer: Whether it is a layer.
    """
    ways = [_AUTHENTICATE, _ALLOW]
    if layer:
        ways.insert(0, "copy it as root's or this user's, or take it out of AJIT_CACHE_LAYERS")
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        ways.insert(0, f"set AJIT_CACHE_DIR to a new one, such as {path}/ajit, or remove it")
    else:
        ways.insert(0, "set AJIT_CACHE_DIR to a directory of this user, or copy it as root's")
    shared = status.st_mode & stat.S_IWGRP and not status.st_mode & stat.S_IWOTH
    if shared:
        group = status.st_gid
        ways.insert(0, f"set AJIT_SHARED_GROUP={group} if all members of that group are trusted")
    return "; or ".join(ways)
