"""Where the values of `Settings` come from, and which of them can be used.

Each function is about one field of `Settings`, whose metadata `ajit._system.setting_fields` made.
"""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ajit._printable import printable_line
from ajit._system.config_values import value_in
from ajit._system.setting_fields import absolute_directory, joined_paths
from ajit.errors import AjitWarning, SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from dataclasses import Field

    from ajit._system.config_files import ConfigFile

__all__ = [
    "HIDDEN",
    "check_environ",
    "check_value",
    "default_cache_dir",
    "refuse_unknown",
    "shown_value",
    "unusable",
    "value_of",
    "warn_unknown",
]

HIDDEN = "(hidden)"
"""Shown instead of a secret."""

SHOWN_LENGTH = 60
"""Characters of a value in a representation."""


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """``$XDG_CACHE_HOME/ajit``, else ``~/.cache/ajit``.

    Raises:
        SettingsError: This user has no home directory, as happens in containers.
    """
    base = environ.get("XDG_CACHE_HOME", "")
    if not Path(base).is_absolute():  # the XDG specification: a relative path is to be ignored
        base = os.path.join(environ.get("HOME") or "~", ".cache")  # noqa: PTH118  # ~ stays
    try:
        return absolute_directory(base) / "ajit"
    except ValueError:
        raise SettingsError(
            name="cache_dir",
            value=None,
            origin="default",
            expected="a directory; this user has no home directory, so set AJIT_CACHE_DIR",
        ) from None


def value_of(
    item: Field[Any], argument: Any, environ: Mapping[str, str], files: Sequence[ConfigFile]
) -> tuple[Any, str]:
    """Return the value of a setting and its origin. What does not count is not even parsed.

    Raises:
        SettingsError: It is no value of this setting.
    """
    name = item.name
    variable = f"AJIT_{name.upper()}"
    file = next((file for file in files if name in file.values), None)
    given, origin = argument, "argument"
    try:
        if argument is not None:
            return _taken(argument, item), origin
        if given := environ.get(variable):
            origin = variable
            return item.metadata["parse"](given), origin
        if file is not None:
            given, origin = file.values[name], file.origin(name)
            return _taken(value_in(file, item), item), origin
    except (ValueError, TypeError, OverflowError):  # no float is as large as an int may be
        raise unusable(item, given, origin) from None
    return (default_cache_dir(environ) if name == "cache_dir" else item.default), "default"


def _taken(argument: Any, item: Field[Any]) -> Any:
    """An argument has its setting's type: the text "0" must not pass for true."""
    kind = type(item.default)
    if item.name == "cache_dir":
        return absolute_directory(argument)
    if item.metadata["many"] and isinstance(argument, (list, tuple)):
        argument = joined_paths(argument)
    if kind is str and isinstance(argument, os.PathLike):
        argument = os.fspath(argument)
    if kind is float and isinstance(argument, int) and not isinstance(argument, bool):
        argument = float(argument)
    if not isinstance(argument, kind) or isinstance(argument, bool) is not (kind is bool):
        raise TypeError(argument)
    return argument


def check_value(item: Field[Any], value: Any, origin: str) -> None:
    """Refuse what a setting cannot be.

    Raises:
        SettingsError: It cannot be that.
    """
    if not item.metadata["holds"](value):
        raise unusable(item, value, origin)


def unusable(item: Field[Any], value: Any, origin: str) -> SettingsError:
    """Return the error for a value. It shows no secret."""
    shown = HIDDEN if item.metadata["secret"] else value
    expected = item.metadata["expected"]
    return SettingsError(name=item.name, value=shown, origin=origin, expected=expected)


def shown_value(item: Field[Any], value: object) -> str:
    """Return a value as a representation has it: short, and without a secret."""
    if item.metadata["secret"]:
        return HIDDEN
    text = repr(str(value) if isinstance(value, Path) else value)
    half = SHOWN_LENGTH // 2
    return text if len(text) <= SHOWN_LENGTH else f"{text[:half]}...{text[-half:]}"


# --- names ---


def refuse_unknown(given: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse arguments that are no settings.

    Raises:
        SettingsError: One is not; it names the nearest one.
    """
    for name, value in given.items():
        if name not in names:
            near = _close_names(name, names)
            problem = f"there is no setting {name}" + (f"; did you mean {near[0]}?" if near else "")
            raise SettingsError(
                name=name,
                value=value,
                origin="argument",
                expected="a setting's name",
                problem=problem,
            )


def check_environ(environ: object) -> None:
    """Refuse what is no environment. The error shows no text of it: one may be a secret.

    Raises:
        SettingsError: It is none.
    """
    wrong: object = environ
    if isinstance(environ, Mapping):
        pairs = environ.items()
        wrong = [
            name for name, text in pairs if not isinstance(name, str) or not isinstance(text, str)
        ]
        if not wrong:
            return
    raise SettingsError(
        name="environ",
        value=wrong,
        origin="argument",
        expected="a mapping of variables to texts, such as os.environ",
    )


def warn_unknown(
    environ: Mapping[str, str], known: Collection[str], names: Sequence[str], stacklevel: int
) -> None:
    """Warn of ``AJIT_*`` variables that are not read.

    Args:
        environ: The environment.
        known: The variables that are.
        names: Of the settings, for a hint.
        stacklevel: Of the warning, from here.
    """
    for variable in environ:
        if variable.startswith("AJIT_") and variable not in known:
            near = _close_names(variable.removeprefix("AJIT_").lower(), names)
            hint = f"; did you mean AJIT_{near[0].upper()}?" if near else ""
            text = f"unknown variable {printable_line(variable)}{hint}"
            warnings.warn(text, AjitWarning, stacklevel=stacklevel + 1)


def _close_names(name: str, names: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(name, names, 1)
