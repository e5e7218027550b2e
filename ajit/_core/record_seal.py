"""Who vouches for a build of a record: a build is a command, and is run as it stands there.

So is the recipe of what a peer has made: a function of a module that is imported.

Without seals, the record's owner and mode do, as those of a cache do for its entries. Where seals
are asked for (`ajit._core.seal`), each line of a build has one, over all that its id is made of;
the texts that it names are named by their digests. What has none is not run.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING

import msgspec

from ajit._core.record import MOST_SEALS, use_head
from ajit._core.seal import CannotSeal, NotAuthentic

if TYPE_CHECKING:
    from ajit._core.record import Use
    from ajit._core.seal import Trust

__all__ = ["objection_to", "sealed"]


def sealed(use: Use, trust: Trust) -> Use:
    """Return a use with the seal of this process; as it is, if it has no key to seal with."""
    try:
        seal = trust.seal("record", _digest(use))
    except CannotSeal:
        return use
    if not seal:
        return use
    seals = (base64.b64encode(seal).decode(), *use.seals)[:MOST_SEALS]
    return msgspec.structs.replace(use, seals=seals)


def objection_to(use: Use, trust: Trust, *, doubtful: bool) -> str:
    """Say why a use must not be run, or "".

    Args:
        use: The line.
        trust: Which seal is asked for.
        doubtful: Whether other users may have put it there.
    """
    if trust.required == "none":
        return "other users may write to the record, which says what is run" if doubtful else ""
    reasons = [_objection(use, seal, trust) for seal in use.seals]
    if "" in reasons:
        return ""
    return (
        f"a build of a record is run only with a seal that is trusted: "
        f"{reasons[0] if reasons else 'it has none'}"
    )


def _objection(use: Use, seal: str, trust: Trust) -> str:
    try:
        trust.check("record", _digest(use), base64.b64decode(seal, validate=True))
    except (NotAuthentic, binascii.Error, ValueError) as exc:
        return str(exc)
    return ""


def _digest(use: Use) -> bytes:
    head = use_head(use.kind, use.peer, use.arch)
    return hashlib.sha256(head + bytes(use.build)).digest()
