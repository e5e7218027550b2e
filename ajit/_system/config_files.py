"""Configuration files: which are found, which may be used, and what they say.

At most two are read: the *project's*, the nearest above the working directory, and the *user's*.
``AJIT_CONFIG_FILE`` names one that is read in place of both; empty, it means none.

=========  =========================================================================================
project    ``ajit.toml``, else ``pyproject.toml`` with a table ``[tool.ajit]``, in the working
           directory or the nearest one above it that has either
user       ``$XDG_CONFIG_HOME/ajit/ajit.toml``, else ``~/.config/ajit/ajit.toml``
=========  =========================================================================================

Settings say which compilers are run and what is loaded, so a file is code. It must be a regular
file of this user or root that no one else may write to; and so must the directory be in which a
project's file was found, since a server may be started anywhere. Both are checked as they were
opened. What does not pass is a warning and not an error: else anyone could keep servers from
starting with a file in ``/tmp``. A file that was named is meant, and what is wrong with it is an
error.

Everything here reads files, when it is called. Nothing is kept.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ajit._printable import printable_line
from ajit.errors import AjitWarning, SettingsError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

__all__ = ["VARIABLE", "ConfigFile", "read_config_files"]

VARIABLE = "AJIT_CONFIG_FILE"

NAME = "ajit.toml"
PROJECT_NAME = "pyproject.toml"

MAX_BYTES = 1024 * 1024
"""A larger file is not read. Pretty arbitrary: a thousand times what one with every setting has."""

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO in its place does not block
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC  # one that may not be listed has files as well
_TABLE = r"([\"']?)tool\1\s*\.\s*([\"']?)ajit\2\s*"
_HEADER = re.compile(rf"\s*\[\s*{_TABLE}\]")
_ABOUT_US = re.compile(rf"\s*\[*\s*{_TABLE}[\].=]")

Role = Literal["named", "project", "user"]


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file that was read.

    Attributes:
        path: Where it is.
        role: How it was found.
        values: Its settings, as TOML has them.
        text: What is in it.
    """

    path: str
    role: Role
    values: dict[str, Any]
    text: str = field(repr=False)

    def origin(self, name: str) -> str:
        """Return ``path:line`` of a setting, or the path if the line cannot be told. One line."""
        path = printable_line(self.path)
        begun = not self.path.endswith(PROJECT_NAME)
        rest = rf"[\"']?{re.escape(name)}[\"']?\s*="
        key, dotted = re.compile(rf"\s*{rest}"), re.compile(rf"\s*{_TABLE}\.\s*{rest}")
        for number, line in enumerate(self.text.splitlines(), 1):
            if line.lstrip().startswith("["):
                begun = bool(_HEADER.match(line))
            if (begun and key.match(line)) or dotted.match(line):
                return f"{path}:{number}"
        return path


class _Unusable(Exception):
    """A file is there and is not read; the text says why."""


class _NotToml(Exception):
    """The text says why a file is none."""


def read_config_files(environ: Mapping[str, str], *, search: bool) -> list[ConfigFile]:
    """Return the configuration files, the one that counts most first.

    Args:
        environ: The environment, which may name a file.
        search: Whether to look for files that no one has named.

    Raises:
        SettingsError: A file that was named cannot be used, or one is no TOML.
    """
    named = environ.get(VARIABLE)
    if named is not None:
        return [_named(named)] if named else []
    if not search:
        return []
    found = [_project(), _user(environ)]
    return [one for one in found if one is not None]


def _named(path: str) -> ConfigFile:
    path = os.path.expanduser(path)  # noqa: PTH111  # a text
    try:
        path = _absolute(path)
        text, reason = _read(path)
    except FileNotFoundError:
        reason = "there is no such file"
    except (OSError, _Unusable) as exc:
        reason = _reason(exc)
    else:
        if not reason:
            return _named_and_parsed(path, text)
    raise _error(f"configuration file {path} (from {VARIABLE}): {reason}", path, VARIABLE)


def _named_and_parsed(path: str, text: str) -> ConfigFile:
    try:
        found, problem = _parsed(path, "named", text), ": it has no table [tool.ajit]"
    except _NotToml as exc:
        found, problem = None, f" {exc}"
    if found is None:
        raise _error(f"configuration file {path}{problem}", path, VARIABLE)
    return found


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)  # noqa: PTH100  # a text
    except OSError as exc:
        raise _Unusable(f"the working directory: {_reason(exc)}") from None


def _user(environ: Mapping[str, str]) -> ConfigFile | None:
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # noqa: PTH117  # the specification: a relative path is ignored
        home = environ.get("HOME", "")
        if not os.path.isabs(home):  # noqa: PTH117  # a text
            return None
        base = f"{home}/.config"
    return _found(f"{base}/ajit/{NAME}", "user")


def _project() -> ConfigFile | None:
    with closing(_folders()) as folders:
        for folder, fd in folders:
            for name in (NAME, PROJECT_NAME):
                found = _found(f"{folder.rstrip('/')}/{name}", "project", fd)
                if found is not None:
                    return found
    return None


def _found(path: str, role: Role, folder: int | None = None) -> ConfigFile | None:
    """Read a file that no one has named; None if there is none, or it is not for us."""
    try:
        text, objection = _read(path, folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, _Unusable) as exc:
        if not path.endswith(PROJECT_NAME):  # what is not read may be about anything
            _warn(path, _reason(exc))
        return None
    if path.endswith(PROJECT_NAME) and "ajit" not in text:
        return None
    meant = path.endswith(NAME) or any(map(_ABOUT_US.match, text.splitlines()))
    if objection:
        if meant:
            _warn(path, objection)
        return None
    try:
        return _parsed(path, role, text)
    except _NotToml as exc:
        if meant:
            raise _error(f"configuration file {path} {exc}", path, path) from None
        _warn(path, f"it {exc}")
        return None


def _folders() -> Generator[tuple[str, int]]:
    """The working directory and those above it, each open meanwhile; none if it was removed.

    Each is reached from the one below it. By their names others could lead us elsewhere between two
    calls, to a file of ours that they choose.
    """
    try:
        folder = os.getcwd()  # noqa: PTH109  # a text
        fd = os.open(".", _FOLDER)
    except OSError:
        return
    try:
        while True:
            yield folder, fd
            above = folder.rpartition("/")[0] or "/"
            if above == folder:
                return
            folder, below = above, fd
            fd = os.open("..", _FOLDER, dir_fd=below)
            os.close(below)
    except OSError as exc:
        _warn(f"{folder.rstrip('/')}/{NAME}", _reason(exc))
    finally:
        os.close(fd)


def _read(path: str, folder: int | None = None) -> tuple[str, str]:
    """Return the text of a file, and why it must not be used, or "".

    Raises:
        OSError: It cannot be read.
        _Unusable: It is no file of text.
    """
    parent, _, name = path.rpartition("/")
    try:
        fd = os.open(path if folder is None else name, _OPEN, dir_fd=folder)
    except ValueError:  # it has a NUL, or is not of the file system's encoding
        raise _Unusable("there can be no such path") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _Unusable("it is not a regular file")
        if status.st_size > MAX_BYTES:
            raise _Unusable(f"it has {status.st_size} bytes, at most {MAX_BYTES}")
        objection = _objection("it", status)
        if folder is not None and not objection:
            objection = _objection(f"its directory {parent or '/'}", os.fstat(folder))
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1).decode(), objection
    except UnicodeDecodeError:
        raise _Unusable("it is not UTF-8") from None
    finally:
        os.close(fd)


def _objection(what: str, status: os.stat_result) -> str:
    if status.st_uid not in (0, os.geteuid()):
        return f"{what} belongs to another user (uid {status.st_uid})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to {what} (chmod go-w makes it usable)"
    return ""


def _parsed(path: str, role: Role, text: str) -> ConfigFile | None:
    """Return what a file says; None if it is a project's that has no table for ajit.

    Raises:
        _NotToml: It is no TOML.
        SettingsError: It has something else in the table's place.
    """
    import tomllib  # noqa: PLC0415  # 5 ms, which a process without a file does not pay

    try:
        values: Any = tomllib.loads(text)
    except RecursionError:
        raise _NotToml("is nested too deeply") from None
    except ValueError as exc:  # no TOML, or a number that Python does not hold
        raise _NotToml(f"is not TOML: {exc}") from None
    if path.endswith(PROJECT_NAME):
        tool = values.get("tool")
        if not isinstance(tool, dict) or "ajit" not in tool:
            return None
        values = tool["ajit"]
        if not isinstance(values, dict):
            raise _error(f"configuration file {path}: tool.ajit is not a table", path, path)
    return ConfigFile(path, role, values, text)


def _error(problem: str, path: str, origin: str) -> SettingsError:
    expected = "a TOML file of this user that no one else may write to"
    return SettingsError(
        name="config_file",
        value=path,
        origin=printable_line(origin),
        expected=expected,
        problem=printable_line(problem),
    )


def _reason(exc: OSError | _Unusable) -> str:
    return (exc.strerror or str(exc)) if isinstance(exc, OSError) else str(exc)


def _warn(path: str, reason: str) -> None:
    text = printable_line(f"configuration file {path} is not used: {reason}")
    warnings.warn(text, AjitWarning, stacklevel=6)
