"""What a configuration file says of a setting, as a value of that setting.

TOML's own numbers, booleans and lists are taken as arguments are; a text for a size or a duration
has a unit, as in a variable. A path is relative to the file that it is in, so that it means the
same wherever a program is started.
"""

from __future__ import annotations

import difflib
import os
import warnings
from typing import TYPE_CHECKING, Any

from ajit._printable import printable_line
from ajit.errors import AjitWarning, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from dataclasses import Field

    from ajit._system.config_files import ConfigFile

__all__ = ["check_names", "value_in"]

PATHS = frozenset(
    [
        "cache_dir",
        "cache_layers",
        "hmac_key_file",
        "host_compiler",
        "nvcc",
        "public_key_files",
        "record",
        "signing_key_file",
        "trace",
        "views_dir",
    ]
)
"""Settings that are paths."""

IN_NO_FILE = frozenset({"hmac_key"})
"""A file of settings is copied, committed and shown; a secret has a file of its own."""

NOT_IN_A_PROJECT = frozenset(
    [
        "allow_unsafe_cache",
        "board",
        "hmac_key_file",
        "host_compiler",
        "nvcc",
        "public_key_files",
        "record",
        "sandbox",
        "sandbox_paths",
        "shared_group",
        "signing_key_file",
        "trace",
        "trust",
        "views_dir",
    ]
)
"""What decides whose code is run or loaded, and which files are written beside the cache.

A project's file is found because a command was started in its directory, which may be a checkout of
something unread: `ajit doctor` there must not run a compiler that it brings, nor
`ajit compile` trust a key of it or write where it says. Who means these settings gives them in his
own file, names the file, or sets a variable.
"""


GUARDS = frozenset({"sandbox", "trust"})
"""Of these: what asks for more care. A process that went on without would be less safe than was
meant, so they are an error there, and not a warning."""

USERS = "~/.config/ajit/ajit.toml or a file that AJIT_CONFIG_FILE names"


def check_names(files: Iterable[ConfigFile], known: Sequence[str], stacklevel: int) -> None:
    """Warn of names that are no settings, and take out those that must not be in their file.

    In a project's file that is a warning, like a project's file that is not used: else a checkout
    could keep servers from starting. Who wrote another file is told by an error, and so are
    `GUARDS` and secrets everywhere.

    Raises:
        SettingsError: A setting is where it must not be; it names file and setting.
    """
    for file in files:
        for name in list(file.values):
            if name not in known:
                near = difflib.get_close_matches(name.replace("-", "_"), known, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                text = f"unknown setting {printable_line(name)} in {file.origin(name)}{hint}"
                warnings.warn(text, AjitWarning, stacklevel=stacklevel)
            elif error := _misplaced(file, name):
                del file.values[name]
                if file.role != "project" or name in GUARDS | IN_NO_FILE:
                    raise error
                warnings.warn(f"{error}; it is not used", AjitWarning, stacklevel=stacklevel)


def value_in(file: ConfigFile, item: Field[Any]) -> Any:
    """Return the value of a setting that a file has, to be checked as an argument is.

    Raises:
        ValueError: It cannot be such a value.
        TypeError: The same.
    """
    value = file.values[item.name]
    if item.name in PATHS:
        if not item.metadata["many"]:
            return _absolute(value, file.path)
        several = value.split(os.pathsep) if isinstance(value, str) else value
        if not isinstance(several, list):
            raise TypeError(value)
        return [_absolute(part, file.path) for part in several]
    if isinstance(value, str) and isinstance(item.default, (int, float)):
        if isinstance(item.default, bool) or not value.strip()[-1:].isalpha():
            raise TypeError(value)  # "4" and "yes" are texts, and no numbers
        return item.metadata["parse"](value)
    return value


def _absolute(path: object, beside: str) -> str:
    if not isinstance(path, str):
        raise TypeError(path)
    if not path or path.startswith("~"):
        return path
    return os.path.join(os.path.dirname(beside), path)  # noqa: PTH118, PTH120  # texts


def _misplaced(file: ConfigFile, name: str) -> SettingsError | None:
    if name in IN_NO_FILE:
        instead = f"use {name}_file, for it is a secret"
    elif file.role == "project" and name in NOT_IN_A_PROJECT:
        instead = f"set AJIT_{name.upper()}, or write it into {USERS}"
    else:
        return None
    origin = file.origin(name)
    problem = f"setting {name} may not be in {origin}: {instead}"
    return SettingsError(name=name, value="", origin=origin, expected=instead, problem=problem)
