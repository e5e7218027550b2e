"""Metrics over HTTP, for a scraper: one page, in threads beside the service's loop.

The standard library's server answers; the loop only counts what there is when it is asked. A loop
that does not answer in time is said to be so, with status 503. Few connections are served at once,
each for a few seconds at most, and none but from this machine unless an operator says so.
"""

from __future__ import annotations

import ipaddress
import socket
import socketserver
import threading
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import anyio

from ajit._system.in_thread import run_in_thread
from ajit._system.loop import LoopHandle
from ajit.errors import KvError, UsageError
from ajit.kv.metrics import CONTENT_TYPE, metrics_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["METRICS_PATH", "parse_address", "serving_metrics"]

METRICS_PATH = "/metrics"
MOST_SCRAPERS = 4
"""Connections at once; one scraper has one."""
REQUEST_SECONDS = 5.0
"""How long a client may be silent in the middle of its request."""
SERVED_SECONDS = 15.0
"""How long a connection may last, all in all."""
POLL_SECONDS = 0.1
"""How often the thread that listens looks whether it is to end."""
LOOP_SECONDS = 5.0
"""How long the loop may take; scrapers wait for 10 s by default."""


def parse_address(text: str, *, anywhere: bool) -> tuple[str, int]:
    """Return host and port of ``127.0.0.1:9464`` or ``[::1]:9464``.

    Args:
        text: What an operator wrote.
        anywhere: Whether others than this machine may connect.

    Raises:
        UsageError: It is no such thing, or not of this machine only.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        address, number = ipaddress.ip_address(host), int(port)
    except ValueError:
        raise UsageError(f"{text!r} is no address and port, such as 127.0.0.1:9464") from None
    if not 0 <= number < 1 << 16:
        raise UsageError(f"{number} is no port")
    if not address.is_loopback and not anywhere:
        raise UsageError(
            f"{host} can be reached from other machines; give 127.0.0.1, or --metrics-anywhere"
        )
    return str(address), number


@asynccontextmanager
async def serving_metrics(
    address: tuple[str, int], values: Callable[[], dict[str, int | float | str]]
) -> AsyncIterator[str]:
    """Serve metrics as long as the block lasts; yields their URL.

    Args:
        address: Host and port; port 0: any.
        values: Called in the loop of the caller, for each scrape.

    Raises:
        KvError: The address cannot be listened at.
    """
    try:
        server = _Server(address, _Asking(values))
    except OSError as exc:
        where = f"{address[0]}:{address[1]}"
        raise KvError(path=where, reason=f"metrics cannot be served: {exc.strerror}") from exc
    limiter = anyio.CapacityLimiter(2)
    async with anyio.create_task_group() as group:
        serve = partial(server.serve_forever, POLL_SECONDS)
        group.start_soon(partial(run_in_thread, serve, limiter=limiter))
        try:
            yield server.url
        finally:
            with anyio.CancelScope(shield=True):
                await run_in_thread(server.shutdown, limiter=limiter)
                server.server_close()


class _Asking:
    """Asks the loop for values, from any thread."""

    def __init__(self, values: Callable[[], dict[str, int | float | str]]) -> None:
        self._values, self._loop = values, LoopHandle.current()

    def __call__(self) -> str | None:
        """The text; None if the loop does not answer."""
        there, found = threading.Event(), list[dict[str, int | float | str]]()

        def answer() -> None:
            found.append(self._values())
            there.set()

        if not self._loop.call_soon(answer) or not there.wait(LOOP_SECONDS):
            return None
        return metrics_text(found[0])


class _Server(ThreadingHTTPServer):
    """Listens, and answers each connection in a thread of its own; a few at once."""

    def __init__(self, address: tuple[str, int], text: Callable[[], str | None]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.text = text
        self._places = threading.BoundedSemaphore(MOST_SCRAPERS)
        super().__init__(address, _Page)

    @property
    def url(self) -> str:
        """Of the page."""
        host, port = self.server_address[:2]
        name = f"[{host!s}]" if ":" in str(host) else host
        return f"http://{name!s}:{port}{METRICS_PATH}"

    def server_bind(self) -> None:
        """Bind. The base class asks for the host's name as well, which may take long."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection, or end it if there are enough."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread can be started
            self._places.release()
            raise

    def get_request(self) -> tuple[Any, Any]:
        """Take a connection. Without a descriptor for it the thread pauses, and does not spin."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(POLL_SECONDS)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In its own thread; it has its place for so long, whatever is sent, and however slowly."""
        ending = threading.Timer(SERVED_SECONDS, _end, (request,))
        ending.daemon = True
        try:
            with suppress(RuntimeError):  # no thread can be started: then only silence ends it
                ending.start()
            super().process_request_thread(request, client_address)
        finally:
            ending.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that goes away is nothing to talk about."""


def _end(request: socket.socket) -> None:
    with suppress(OSError):  # it has ended by itself
        request.shutdown(socket.SHUT_RDWR)


class _Page(BaseHTTPRequestHandler):
    """One connection: one request, one answer."""

    server: _Server
    timeout = REQUEST_SECONDS
    server_version = "ajit-kv"
    sys_version = ""

    def do_GET(self) -> None:  # its name in the base class
        """Answer with the metrics."""
        if self.path.partition("?")[0] != METRICS_PATH:
            self.send_error(HTTPStatus.NOT_FOUND, f"metrics are at {METRICS_PATH}")
            return
        text = self.server.text()
        if text is None:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "the loop of the service hangs")
            return
        body = text.encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the same
        """Not a line for each scrape."""
