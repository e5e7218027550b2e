"""Signatures by Ed25519, through the package ``cryptography``, which is an extra: ``ajit[sign]``.

Who compiles has the signing key; who loads needs only its public half. Keys are files in PEM: PKCS8
without a password, and SubjectPublicKeyInfo, as ``openssl genpkey -algorithm ed25519`` and
``openssl pkey -pubout`` write them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ajit._core.seal import Method, key_id

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

__all__ = ["INSTALL", "NoCryptography", "SigningKey", "make_pair", "parse_public", "parse_signing"]

INSTALL = "pip install 'ajit[sign]'"


class NoCryptography(ImportError):
    """The package is not installed. Internal: a user sees an error that says what to install."""


class SigningKey:
    """A pair of keys, or the public half of one."""

    method: Method = "ed25519"

    def __init__(
        self, public: Ed25519PublicKey, private: Ed25519PrivateKey | None = None, name: str = ""
    ) -> None:
        self._public, self._private = public, private
        self.id = key_id(public.public_bytes_raw())
        self.name = name

    def tag(self, message: bytes) -> bytes:
        """Return the signature of a message."""
        assert self._private is not None  # `Trust` seals with nothing else
        return self._private.sign(message)

    def matches(self, message: bytes, tag: bytes) -> bool:
        """Whether this key made that signature of the message."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # an extra

        try:
            self._public.verify(tag, message)
        except InvalidSignature:
            return False
        return True

    def __repr__(self) -> str:
        return f"<SigningKey {self.name} {self.id.hex()}>"


def parse_signing(pem: bytes, name: str) -> SigningKey:
    """Return the pair of a private key.

    Raises:
        NoCryptography: The package is not installed.
        ValueError: It is no such key.
    """
    serialization, ed25519 = _cryptography()
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except Exception as exc:  # the package has many for a key that it cannot read
        raise ValueError("it holds no private key in PEM without a password") from exc
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise ValueError("its key is not one of Ed25519")  # noqa: TRY004  # what callers catch
    return SigningKey(private.public_key(), private, name)


def parse_public(pem: bytes, name: str) -> SigningKey:
    """Return a public key.

    Raises:
        NoCryptography: The package is not installed.
        ValueError: It is no such key.
    """
    serialization, ed25519 = _cryptography()
    try:
        public = serialization.load_pem_public_key(pem)
    except Exception as exc:  # the package has many for a key that it cannot read
        raise ValueError("it holds no public key in PEM") from exc
    if not isinstance(public, ed25519.Ed25519PublicKey):
        raise ValueError("its key is not one of Ed25519")  # noqa: TRY004  # what callers catch
    return SigningKey(public, None, name)


def make_pair() -> tuple[bytes, bytes, str]:
    """Return a new private key and its public half, in PEM, and their id in hex.

    Raises:
        NoCryptography: The package is not installed.
    """
    serialization, ed25519 = _cryptography()
    private = ed25519.Ed25519PrivateKey.generate()
    secret = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return secret, public, SigningKey(private.public_key()).id.hex()


def _cryptography() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  # an extra
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415  # an extra
    except ImportError as exc:
        raise NoCryptography(f"signatures need the package cryptography: {INSTALL}") from exc
    return serialization, ed25519
