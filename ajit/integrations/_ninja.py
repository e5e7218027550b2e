"""Build files without the directories of a machine: each gets the name of what it is."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["place_names", "renamed", "searched"]

_SEARCHED = re.compile(r"(?:-I|-L|-isystem|-idirafter)\s*(/[^\s$]+)")


def place_names(known: Mapping[str, str], others: Iterable[str]) -> dict[str, str]:
    """Return directories by name, as real paths, with names for others that lie in none of them.

    Args:
        known: Name to directory.
        others: More directories; they are called ``other0``, ``other1``, ... in this order.
    """
    dirs = {name: os.path.realpath(path) for name, path in known.items()}
    for path in others:
        real = os.path.realpath(path)
        if not any(_is_in(real, folder) for folder in dirs.values()):
            dirs[f"other{len(dirs) - len(known)}"] = real
    return dirs


def searched(text: str) -> list[str]:
    """Return the directories that a text has compilers and linkers search, in order."""
    return list(dict.fromkeys(_SEARCHED.findall(text)))


def renamed(text: str, dirs: Mapping[str, str]) -> str:
    """Return a text with the placeholder of each directory in place of its path."""
    # The longest first: one may lie in another. A path may be spelt in more than one way.
    spelt = {path: name for name, path in dirs.items()}
    for path in searched(text):
        name = spelt.get(os.path.realpath(path))
        if name is not None:
            spelt[path] = name
    for path in sorted(spelt, key=len, reverse=True):
        text = re.sub(rf"{re.escape(path)}(?=[/\s]|$)", f"{{dir:{spelt[path]}}}", text)
    return text


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
