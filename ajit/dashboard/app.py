"""The ASGI application of the live page: a page, its two files, and a stream of events.

Only GET and HEAD, and nothing that is asked for changes anything. The page may load its own script
and style sheet, connect to where it came from, and nothing else; no other site may frame it or read
what it shows.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from ajit.dashboard.feed import Feed
from ajit.dashboard.hosts import is_allowed
from ajit.dashboard.problems import MOST_PROBLEMS, Heard
from ajit.dashboard.stores import store_row
from ajit.dashboard.stream import Clients, EventStream
from ajit.settings import Settings

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence

    from starlette.requests import Request

    from ajit import Runtime
    from ajit.dashboard.snapshot import KvRow, Problem
    from ajit.dashboard.stores import Countable

__all__ = ["Dashboard", "asgi_app"]

SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}

FRESH_SECONDS = 3.0
"""A cache that has not been read by then is said not to be, and the rest is shown."""

TYPES = {
    "page.html": "text/html",
    "page.js": "text/javascript",
    "draw.js": "text/javascript",
    "charts.js": "text/javascript",
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
}


def asgi_app(
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    settings: Settings | None = None,
    logs: bool = True,
    hosts: Sequence[str] | None = None,
    kv_socket: str | os.PathLike[str] | None = None,
) -> Dashboard:
    """Return the live page, to be mounted at any path or to be served by itself.

    It shows every runtime of this machine and user that uses the cache, those of other processes as
    well. Making it reads no file and starts nothing.

    Args:
        cache_dir: The cache; None for the one that settings name.
        settings: Which cache it is and how it is opened; None for those of the runtime that it
            watches (`Dashboard.watching`), else those of this process at the first request.
        logs: Whether to show the logs of compiles that failed. They quote lines of the source.
        hosts: Names by which a browser may call this server, besides IP addresses and
            ``localhost``; None for any name, as behind a proxy that has looked. With names, a
            site whose name leads to this machine (DNS rebinding) cannot read the page.
        kv_socket: Of the KV service that is to be shown if it is there; None for none.
    """
    if settings is None and cache_dir is not None:
        settings = Settings(cache_dir=cache_dir)
    place = None if kv_socket is None else Path(kv_socket)
    return Dashboard(settings, logs=logs, hosts=hosts, kv_socket=place)


class Dashboard:
    """The live page as an ASGI application. Made by `asgi_app`.

    Any event loop may serve it; several at once, too.
    """

    def __init__(
        self,
        settings: Settings | None,
        *,
        logs: bool,
        hosts: Sequence[str] | None,
        kv_socket: Path | None = None,
    ) -> None:
        self._given = settings
        self._logs = logs
        self._hosts = hosts
        self._heard: tuple[Heard, ...] = ()
        self._stores: tuple[tuple[str, Countable], ...] = ()
        self._clients = Clients()
        self.feed = Feed(
            self._settings, logs=logs, heard=self._problems, stores=self._kv, kv_socket=kv_socket
        )
        self._app = Starlette(routes=[
            Route("/", self._page),
            Route("/events", self._events),
            Route("/snapshot.json", self._snapshot),
            Route("/{name}", self._file),
        ])  # fmt: skip

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Serve a request."""
        if scope["type"] == "http":
            refused = self._refusal(scope)
            await (refused or self._app)(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:  # no websocket is served here
            await send({"type": "websocket.close", "code": 1000})

    @contextmanager
    def watching(self, rt: Runtime | None = None, **stores: Countable) -> Iterator[None]:
        """Show more of this process while the block runs: logs of failures as they happen, stores.

        Args:
            rt: A runtime; of the calling event loop.
            stores: KV stores of this process by the name that is shown: what has ``statistics()``.
        """
        heard = Heard(logs=self._logs)
        if rt is not None and self._given is None:
            self._given = rt.settings
        stop = rt.subscribe(heard) if rt is not None else None
        named = tuple(stores.items())
        self._heard, self._stores = (*self._heard, heard), (*self._stores, *named)
        try:
            yield
        finally:
            if stop is not None:
                stop()
            self._heard = tuple(one for one in self._heard if one is not heard)
            self._stores = tuple(one for one in self._stores if one not in named)

    def _settings(self) -> Settings:
        if self._given is None:
            self._given = Settings()
        return self._given

    def _problems(self) -> list[Problem]:
        return [one for heard in self._heard for one in heard.problems][:MOST_PROBLEMS]

    def _kv(self) -> list[KvRow]:
        return [store_row(name, store) for name, store in self._stores]

    def _refusal(self, scope: MutableMapping[str, Any]) -> Response | None:
        """Why a request is not served; None if it is."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if scope["method"] not in ("GET", "HEAD"):
            return _plain("this page is to be read only", 405, allow="GET, HEAD")
        if self._hosts is not None and not is_allowed(headers.get(b"host", ""), self._hosts):
            return _plain("this server is not called so; give its name with --host", 421)
        if headers.get(b"sec-fetch-site") == "cross-site" and scope["path"].endswith("/events"):
            return _plain("another site may not read this", 403)
        return None

    async def _page(self, request: Request) -> Response:
        if not request.url.path.endswith("/"):  # the page's files are named relative to it
            return RedirectResponse(f"{request.url.path}/", 308, SECURITY)
        return await _static("page.html")

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in TYPES:
            return _plain("there is no such thing here", 404)
        return await _static(name)

    async def _snapshot(self, _request: Request) -> Response:
        """A snapshot of now, for programs. After a pause it waits for a fresh look."""
        with anyio.move_on_after(FRESH_SECONDS):
            while not self.feed.is_fresh():  # noqa: ASYNC110  # threads look
                await anyio.sleep(0.02)
        with anyio.move_on_after(10.0):
            while not (seen := self.feed.latest()).number:  # noqa: ASYNC110  # a thread makes it
                await anyio.sleep(0.05)
        if seen.problem or seen.value is None:  # what was found before is not of now
            return _plain(seen.problem or "nothing is known yet", 503)
        return Response(seen.value, 200, SECURITY, "application/json")

    async def _events(self, request: Request) -> Response | EventStream:
        if self._clients.full:
            return _plain("enough browsers look at this", 503, **{"retry-after": "5"})
        headers = [(name.encode(), value.encode()) for name, value in SECURITY.items()]
        if request.method == "HEAD":
            return Response(None, 200, SECURITY, "text/event-stream")
        return EventStream(self.feed, self._clients, headers)


def _plain(text: str, status: int, **headers: str) -> Response:
    return PlainTextResponse(f"{text}\n", status, SECURITY | headers)


async def _static(name: str) -> Response:
    content = await anyio.to_thread.run_sync(_read, name)
    return Response(content, 200, SECURITY, TYPES[name])


@functools.cache
def _read(name: str) -> bytes:
    return (files("ajit.dashboard") / "page" / name).read_bytes()
