"""``ajit keygen``: make a pair of keys for signatures, or a secret for HMACs."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ajit.cli import exits
from ajit.cli.output import Output, facts, json_option
from ajit.errors import AjitError

if TYPE_CHECKING:
    from ajit._cache.files.key_files import Privacy

__all__ = ["command"]

SECRET_BYTES = 32


class NotWritten(AjitError):
    """A key could not be written. Nothing that was there was touched, and nothing new is left.

    Attributes:
        path: The file.
        reason: Why not.
    """

    def __init__(self, *, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"cannot write {path}: {reason}")


@click.command("keygen", short_help="Make a key that vouches for what is in a cache.")
@click.argument("name", type=click.Path(path_type=Path))
@click.option("--hmac", "as_secret", is_flag=True, help="Make a secret for HMACs, not a pair.")
@json_option
def command(*, name: Path, as_secret: bool, as_json: bool) -> None:
    """Make a pair of Ed25519 keys: NAME.key, which signs, and NAME.pub, which checks.

    Who compiles for others has NAME.key, as AJIT_SIGNING_KEY_FILE, and keeps it to himself. Who
    loads what they compiled needs only NAME.pub, in AJIT_PUBLIC_KEY_FILES. With --hmac it is one
    secret, NAME.key, for AJIT_HMAC_KEY_FILE, which all have who compile or load.

    A file that is there is never replaced: the command then exits with 1. It exits with 4 if the
    package cryptography is not installed, which secrets do not need.
    """
    made = _secret(name) if as_secret else _pair(name)
    payload = {"name": name.name, **made}
    Output(as_json=as_json).result(
        payload, lambda: facts((label, str(value)) for label, value in payload.items() if value)
    )


def _secret(name: Path) -> dict[str, Any]:
    from ajit._core.seal import HmacKey  # noqa: PLC0415  # command-line start-up

    path, secret = _with_ending(name, ".key"), secrets.token_hex(SECRET_BYTES).encode()
    _write(path, secret + b"\n", "private")
    return {"method": "hmac", "key_id": HmacKey(secret).id.hex(), "private": path, "public": None}


def _pair(name: Path) -> dict[str, Any]:
    from ajit._cache.files import signing  # noqa: PLC0415  # command-line start-up

    private, public = _with_ending(name, ".key"), _with_ending(name, ".pub")
    try:
        secret, half, identity = signing.make_pair()
    except signing.NoCryptography as exc:
        raise exits.Lacking(str(exc)) from None
    _write(private, secret, "private")
    try:
        _write(public, half, "public")
    except NotWritten:
        private.unlink()
        raise
    return {"method": "ed25519", "key_id": identity, "private": private, "public": public}


def _with_ending(name: Path, ending: str) -> Path:
    if not name.name:
        raise click.UsageError(f"{str(name)!r} is not a name for a file")
    return name.with_name(name.name + ending)


def _write(path: Path, data: bytes, privacy: Privacy) -> None:
    from ajit._cache.files.key_files import write_key_file  # noqa: PLC0415  # start-up

    try:
        write_key_file(path, data, privacy)
    except OSError as exc:
        raise NotWritten(path=str(path), reason=exc.strerror or str(exc)) from None
