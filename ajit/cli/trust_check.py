"""The check of what vouches for the cache: whether the keys can be used, and which they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ajit._cache.files.trust import load_trust
from ajit.cli.findings import Check
from ajit.errors import SettingsError

if TYPE_CHECKING:
    from ajit._core.seal import SealingKey
    from ajit.settings import Settings

__all__ = ["check_trust"]


def check_trust(settings: Settings) -> Check:
    """Read the keys that settings name, as a runtime would."""
    try:
        trust = load_trust(settings)
    except SettingsError as exc:
        return Check("cache trust", "problem", settings.trust, str(exc))
    taken = ", ".join(map(_called, trust.trusted))
    found = f"{trust.required}: {taken}" if taken else trust.required
    if not trust.can_keep:
        advice = "loads what these keys signed; without a signing key nothing is kept"
        return Check("cache trust", "ok", found, advice)
    return Check(
        "cache trust", "ok", found, f"seals with {_called(trust.own)}" if trust.own else ""
    )


def _called(key: SealingKey) -> str:
    return f"{key.name} ({key.id.hex()})"
