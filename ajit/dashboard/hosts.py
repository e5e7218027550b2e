"""Which names a browser may call a server by.

A page of another site can be made to talk to this machine by a name of its own that leads here (DNS
rebinding). The browser then sends that name. It cannot do so with an IP address, nor with a name
that is not its own.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["is_allowed"]


def is_allowed(header: str, names: Iterable[str]) -> bool:
    """Whether a Host header names an IP address, ``localhost``, or one of some names."""
    name = _without_port(header).lower().rstrip(".")
    if not name:
        return False
    if name == "localhost" or name in {one.lower().rstrip(".") for one in names}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _without_port(header: str) -> str:
    if header.startswith("["):
        name, end, port = header[1:].partition("]")
        return name if end and (not port or port.startswith(":")) else ""
    name, colon, port = header.partition(":")
    return name if not colon or port.isdecimal() else ""
