"""The live page by itself: one process over a cache directory, for ``ajit dash``."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

import uvicorn

from ajit.dashboard.app import Dashboard
from ajit.dashboard.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ajit.settings import Settings

__all__ = ["is_loopback", "listen", "serve", "url_of"]

MOST_CONNECTIONS = 128

ENDING_SECONDS = 3
"""What connections have to end; streams end by themselves within a second."""


def listen(host: str, port: int) -> socket.socket:
    """Listen at an address; port 0: at any.

    Raises:
        OSError: There is no such address here, or it is taken.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return socket.create_server(address[:2], family=family, backlog=MOST_CONNECTIONS)


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def url_of(listening: socket.socket) -> str:
    """Return its URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(
    listening: socket.socket,
    settings: Settings,
    *,
    logs: bool = True,
    names: Sequence[str] = (),
    kv_socket: Path | None = None,
) -> None:
    """Serve until a signal ends it. Blocks; for the main thread.

    Args:
        listening: From `listen`.
        settings: Which cache.
        logs: Whether logs of compilers are shown.
        names: By which browsers may call this server, besides IP addresses and ``localhost``.
        kv_socket: Of the KV service that is shown if it is there.

    Raises:
        KeyboardInterrupt: A signal has ended it, and all is closed.
    """
    app = Dashboard(settings, logs=logs, hosts=names, kv_socket=kv_socket)
    config = uvicorn.Config(
        app,
        http=Connection,
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=ENDING_SECONDS,
    )
    # uvicorn ends, and then raises the signal once more: it decides about the exit code.
    uvicorn.Server(config).run(sockets=[listening])
