"""What is taken out of a support file: who and where, and whatever looks like a secret.

A text goes through in this order: secrets that are known literally (keys of settings), what has the
form of a token or a key, names of home directories, then the names of this user and this machine.
It is better to take out too much: what is left is read by strangers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["REMOVED", "Redactor", "is_secret_name"]

REMOVED = "(removed)"

LEAST_SECRET = 8
"""Characters of a secret that is looked for literally; a shorter one would be in any text."""

_NAME = re.compile(
    r"(?i)token|secret|passw(?:or)?d|passphrase|[_-]pass(?![a-z])|credential|authorization|cookie"
    r"|(?:access|account|api|auth|encryption|hmac|private|signing)[_-]?key(?![_-]?file)"
)
_WORD = rf"(?=[\w.-]*?(?:{_NAME.pattern.removeprefix('(?i)')}))[\w.-]*+"
_VALUE = r"(?:\"(?:\\.|[^\"\\])*+\"|'(?:\\.|[^'\\])*+')?[^\n]*"  # to the quote, then the line's end
_NAMED = re.compile(
    rf"(?is)((?<![\w.-]){_WORD}[\"']?\s*+[=:][=:>]*\s*+"
    rf"|(?:(?<![\w.-])(?=-)|\#[ \t]*define[ \t]+|\bsetenv[ \t]+){_WORD}[ \t]+"
    rf"|(?<![\w.-])passw(?:or)?d[ \t]+){_VALUE}"
)
"""A name and what is given to it, as an assignment, a field, an option or a macro. A value may have
spaces, and what it ends with differs by language: so the whole rest of its line is taken."""

_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.+/=-]{8,}")
_SHAPES = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)"
    r"|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}|\bhf_\w{20,}|\bsk-[\w-]{20,}"
    r"|\bnvapi-[\w-]{20,}|\bxox[abposr]-[\w-]{10,}|\bA[KS]IA[A-Z0-9]{16}\b"
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*",
    re.DOTALL,
)
_URL = re.compile(r"://\S+")
_HOMES = re.compile(r"/(home|Users|users|scratch\d*)/[^/\s:'\"]+")


class Redactor:
    """Takes out of texts what is not for others.

    Args:
        secrets: Texts that must not be shown, wherever they stand.
        homes: Home directories of this user.
        names: Names of this user and of this machine, each with what stands in its place.
    """

    def __init__(
        self, *, secrets: Iterable[str] = (), homes: Iterable[str] = (), names: dict[str, str]
    ) -> None:
        longest_first = sorted(set(secrets), key=len, reverse=True)
        self._secrets = [secret for secret in longest_first if len(secret) >= LEAST_SECRET]
        self._homes = sorted({home.rstrip("/") for home in homes} - {""}, key=len, reverse=True)
        self._names = [
            (re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"), instead)
            for name, instead in names.items()
            if name
        ]

    def text(self, text: str) -> str:
        """Return a text without them."""
        for secret in self._secrets:
            text = text.replace(secret, REMOVED)
        text = _SHAPES.sub(REMOVED, text)
        text = _NAMED.sub(rf"\1{REMOVED}", text)
        text = _BEARER.sub(rf"\1 {REMOVED}", text)
        text = _URL.sub(_without_user, text)
        for home in self._homes:
            text = re.sub(rf"{re.escape(home)}(?=/|\W|\Z)", "~", text)
        text = _HOMES.sub(r"/\1/USER", text)
        for name, instead in self._names:
            text = name.sub(instead, text)
        return text

    def value(self, value: Any) -> Any:
        """Return plain data (of dicts, lists, texts and numbers) without them."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {
                self.text(str(key)): REMOVED if is_secret_name(str(key)) else self.value(item)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value


def is_secret_name(name: str) -> bool:
    """Whether what has this name is a secret, as far as a name tells."""
    return bool(_NAME.search(name))


def _without_user(url: re.Match[str]) -> str:
    """A password may have ``/`` and ``@`` in it: what counts is the last ``@``."""
    _, at, host = url[0].rpartition("@")
    return f"://{REMOVED}@{host}" if at else url[0]
