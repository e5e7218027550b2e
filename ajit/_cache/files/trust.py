"""What this process trusts, and what it seals with, from its settings.

Everything that vouches for something is sealed: entries, failure records, files of digests, and the
records of those who hold leases (`ajit._core.seal`). Reading lists are not: a forged one leads to
no entry.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ajit._cache.files import signing
from ajit._cache.files.key_files import Privacy, name_of, read_key_file
from ajit._core.seal import HmacKey, Required, SealingKey, Trust
from ajit._system.setting_values import HIDDEN
from ajit.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ajit._cache.files.signing import SigningKey
    from ajit.settings import Settings

__all__ = ["MINIMUM_BYTES", "load_trust"]

MINIMUM_BYTES = 16
"""Of a secret: 128 bits, if they are random, which cannot be checked here."""

MOST_KEYS = 64
"""Of one kind. Pretty arbitrary: each is a file that is read at the start."""

_A_SECRET = f"at least {MINIMUM_BYTES} secret bytes, such as `openssl rand -hex 32` prints"


def load_trust(settings: Settings) -> Trust:
    """Read the keys that settings name. Blocks.

    White space at the end of a secret does not count, so it may be written with a text editor.

    Raises:
        SettingsError: A key cannot be read, is not private, or is none; or there is none of the
            kind that ``trust`` asks for; or signatures are asked for and ``cryptography`` is not
            installed. Nothing was started, and nothing was read from the cache.
    """
    secrets = _secrets(settings)
    public = [_public_key(settings, path) for path in _paths(settings, "public_key_files")]
    signing_key = _signing_key(settings) if settings.signing_key_file else None
    pairs = [*([signing_key] if signing_key else []), *public]
    required = _required(settings, secrets, pairs)
    if required == "signed" or (required == "none" and signing_key is not None):
        # With public keys alone it reads, and seals nothing.
        return Trust(required, [*pairs, *secrets], seals=signing_key is not None)
    return Trust(required, [*secrets, *pairs], seals=bool(secrets))


def _required(
    settings: Settings, secrets: Sequence[HmacKey], pairs: Sequence[SigningKey]
) -> Required:
    there: dict[str, Sequence[SealingKey]] = {"hmac": secrets, "signed": pairs}
    match settings.trust:
        case "auto":
            return "signed" if pairs else "hmac" if secrets else "none"
        case "none":
            return "none"
        case "hmac" | "signed" as asked_for if there[asked_for]:
            return asked_for
    names = {"hmac": "hmac_key_file", "signed": "public_key_files or signing_key_file"}
    needs = f"a key to check with: set {names[settings.trust]}"
    raise _unusable(settings, "trust", settings.trust, needs)


def _secrets(settings: Settings) -> list[HmacKey]:
    if settings.hmac_key:
        lines = settings.hmac_key.rstrip("\n").split("\n")
        return [_secret_of_text(settings, line) for line in lines]
    return [_secret_of_file(settings, path) for path in _paths(settings, "hmac_key_file")]


def _secret_of_text(settings: Settings, text: str) -> HmacKey:
    try:
        # A variable that is not UTF-8 has surrogates, which stand for its bytes.
        secret = text.encode(errors="surrogateescape").rstrip()
    except UnicodeEncodeError:
        # The exception would show the secret, so it must not be the cause of ours.
        secret, problem = b"", "it has surrogates that stand for no byte"
    else:
        problem = f"it has only {len(secret)} bytes"
    if len(secret) < MINIMUM_BYTES:
        raise _unusable(settings, "hmac_key", HIDDEN, f"{_A_SECRET} ({problem})")
    return HmacKey(secret, "hmac_key")


def _secret_of_file(settings: Settings, path: str) -> HmacKey:
    secret, problem = read_key_file(path, "private")
    if not problem and len(secret) < MINIMUM_BYTES:
        problem = f"it has only {len(secret)} bytes"
    if problem:
        needs = f"this user's file, mode 0600, with {_A_SECRET} ({problem})"
        raise _unusable(settings, "hmac_key_file", path, needs)
    return HmacKey(secret, name_of(path))


def _public_key(settings: Settings, path: str) -> SigningKey:
    needs = "a file that only this user or root can write, with a public key as `ajit keygen` makes"
    return _key(settings, "public_key_files", path, needs, signing.parse_public)


def _signing_key(settings: Settings) -> SigningKey:
    needs = "this user's file, mode 0600, with a private key as `ajit keygen` makes"
    path = settings.signing_key_file
    return _key(settings, "signing_key_file", path, needs, signing.parse_signing)


def _key(
    settings: Settings,
    name: str,
    path: str,
    needs: str,
    parse: Callable[[bytes, str], SigningKey],
) -> SigningKey:
    privacy: Privacy = "private" if name == "signing_key_file" else "public"
    data, problem = read_key_file(path, privacy)
    if not problem:
        try:
            return parse(data, name_of(path))
        except signing.NoCryptography as exc:
            problem = str(exc)
        except ValueError as exc:
            # Without its cause, whose text may have parts of the key.
            problem = str(exc)
    raise _unusable(settings, name, path, f"{needs} ({problem})") from None


def _paths(settings: Settings, name: str) -> list[str]:
    value = getattr(settings, name)
    paths = [path for path in value.split(os.pathsep) if path]
    if value and not 0 < len(paths) <= MOST_KEYS:
        raise _unusable(settings, name, value, f"1 to {MOST_KEYS} files")
    return paths


def _unusable(settings: Settings, name: str, value: object, expected: str) -> SettingsError:
    origin = settings.origins.get(name, "argument")
    return SettingsError(name=name, value=value, origin=origin, expected=expected)
