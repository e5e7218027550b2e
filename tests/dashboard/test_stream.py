"""Server-sent events: a bounded number of clients, none of which can hold up another."""

from __future__ import annotations

import gc
import json
import math
import signal
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import anyio
import anyio.to_thread
import pytest

from ajit import dashboard
from ajit._cache.files.directory import open_cache_directory
from ajit.dashboard import background
from ajit.dashboard import stream as stream_module
from ajit.dashboard.stream import MOST_CLIENTS
from tests.dashboard.hostile import hostile_place
from tests.dashboard.test_app import client, settings  # noqa: F401  # a fixture

pytestmark = pytest.mark.anyio


class Browser:
    """One client of the stream, spoken to over ASGI as a server does it.

    Attributes:
        status: Of the answer.
        body: All that was sent.
    """

    def __init__(self, *, takes: float = math.inf) -> None:
        self.status = 0
        self.body = b""
        self.ended = False
        self._takes = takes  # how many bytes before it takes nothing any more
        self._gone = anyio.Event()
        self._news = anyio.Event()

    async def run(self, app, path="/events"):
        """Ask, and read until the end."""
        scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(),
                 "root_path": "", "query_string": b"", "headers": [(b"host", b"localhost")],
                 "scheme": "http", "server": ("localhost", 80), "http_version": "1.1"}  # fmt: skip
        try:
            await app(scope, self._receive, self._send)
        finally:
            self.ended = True

    def leave(self):
        """Close the connection."""
        self._gone.set()

    async def _receive(self):
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif len(self.body) > self._takes:
            await anyio.sleep_forever()
        else:
            self.body += message["body"]
        self._news.set()
        self._news = anyio.Event()

    async def hear(self, count=1):
        """Return the snapshots when there are so many."""
        with anyio.fail_after(60):
            while len(found := self.snapshots()) < count:
                await self._news.wait()
        return found

    def snapshots(self):
        """Those that came so far."""
        parts = self.body.split(b"event: snapshot\ndata: ")[1:]
        return [json.loads(part.partition(b"\n\n")[0]) for part in parts if b"\n\n" in part]


async def test_snapshots_come_as_long_as_the_client_stays(settings):  # noqa: F811
    """One after the other, and the place is free when it has left."""
    app = dashboard.asgi_app(settings=settings)
    browser = Browser()
    async with anyio.create_task_group() as group:
        group.start_soon(browser.run, app)
        first, second = await browser.hear(2)
        number = app._clients.number
        browser.leave()

    assert browser.body.startswith(b"retry: 250\n\n")
    assert second["unix_seconds"] > first["unix_seconds"]
    assert (1, 0) == (number, app._clients.number)


async def test_a_client_that_takes_nothing_is_dropped_and_holds_up_nobody(
    settings,  # noqa: F811
    monkeypatch,
):
    """Another client gets its snapshots meanwhile."""
    monkeypatch.setattr(stream_module, "SEND_SECONDS", 0.3)
    app = dashboard.asgi_app(settings=settings)
    stuck, well = Browser(takes=1), Browser()
    async with anyio.create_task_group() as group:
        group.start_soon(stuck.run, app)
        group.start_soon(well.run, app)
        await well.hear(3)
        with anyio.fail_after(60):
            while not stuck.ended:  # noqa: ASYNC110  # its server ends it
                await anyio.sleep(0.02)
        number = app._clients.number
        well.leave()

    assert 1 == number


async def test_no_more_than_so_many_clients_are_served(settings):  # noqa: F811
    """The next one gets an answer that says when to come again."""
    app = dashboard.asgi_app(settings=settings)
    browsers = [Browser() for _ in range(MOST_CLIENTS)]
    async with anyio.create_task_group() as group:
        for browser in browsers:
            group.start_soon(browser.run, app)
        for browser in browsers:
            await browser.hear()
        async with client(app) as http:
            refused = await http.get("/events")
        for browser in browsers:
            browser.leave()

    assert (503, "5") == (refused.status_code, refused.headers["retry-after"])
    assert 0 == app._clients.number


async def test_a_cancelled_client_gives_its_place_back(settings):  # noqa: F811
    """A server that ends its tasks."""
    app = dashboard.asgi_app(settings=settings)
    browser = Browser()
    async with anyio.create_task_group() as group:
        group.start_soon(browser.run, app)
        await browser.hear()
        group.cancel_scope.cancel()

    assert 0 == app._clients.number


async def test_a_stream_ends_after_a_while(settings, monkeypatch):  # noqa: F811
    """With its last message: the page connects again."""
    monkeypatch.setattr(stream_module, "STREAM_SECONDS", 0.5)
    browser = Browser()
    with anyio.fail_after(60):
        await browser.run(dashboard.asgi_app(settings=settings))

    assert 200 == browser.status


async def test_a_stream_ends_when_its_server_is_about_to(settings, monkeypatch):  # noqa: F811
    """The server is uvicorn, which waits for connections before it tells its application."""
    server = SimpleNamespace(should_exit=False)
    server.handle_exit = type("Handler", (), {"__self__": server})()
    monkeypatch.setattr(signal, "getsignal", lambda _: server.handle_exit)
    browser = Browser()
    async with anyio.create_task_group() as group:
        group.start_soon(browser.run, dashboard.asgi_app(settings=settings))
        await browser.hear()
        before = browser.ended
        server.should_exit = True

    assert (False, True) == (before, browser.ended)


async def test_what_the_page_cannot_tell_is_told(settings, monkeypatch):  # noqa: F811
    """If not even a snapshot can be made, the client learns why."""

    def fail():
        raise OSError("no <boards> here")

    app = dashboard.asgi_app(settings=settings)
    monkeypatch.setattr(app.feed._encoded, "_function", fail)
    browser = Browser()
    async with anyio.create_task_group() as group:
        group.start_soon(browser.run, app)
        with anyio.fail_after(60):
            while b'data: "no <boards> here"' not in browser.body:  # noqa: ASYNC110  # a thread
                await anyio.sleep(0.02)
        browser.leave()


async def test_without_a_client_nothing_is_read(settings, monkeypatch):  # noqa: F811
    """Neither boards nor the cache: before the first one, and a while after the last."""
    monkeypatch.setattr(background, "LINGER_SECONDS", 0.2)
    app = dashboard.asgi_app(settings=settings)
    looks = [app.feed._encoded, app.feed._leases, app.feed._entries, app.feed._history]
    for one in looks:
        one._every_seconds = 0.02
    before = [one._seen.number for one in looks]
    await anyio.to_thread.run_sync(open_cache_directory, settings.cache_dir)
    browser = Browser()
    async with anyio.create_task_group() as group:
        group.start_soon(browser.run, app)
        with anyio.fail_after(60):
            while not all(one._seen.number for one in looks):  # noqa: ASYNC110  # threads look
                await anyio.sleep(0.02)
        browser.leave()
    with anyio.fail_after(60):
        # Who looks holds this, and nothing but a question begins anew.
        while any(one._looking.locked() for one in looks):  # noqa: ASYNC110  # threads
            await anyio.sleep(0.02)
    gc.collect()

    assert [0] * 4 == before
    assert [] == await anyio.to_thread.run_sync(open_below, settings.cache_dir)


def open_below(place):
    """What this process has open there."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(fd.readlink())
    return [path for path in found if path.is_relative_to(place)]


@pytest.fixture
def hostile(settings, tmp_path):  # noqa: F811
    """A cache and boards with hostile texts."""
    with hostile_place(settings.cache_dir, tmp_path / "boards"):
        yield settings


async def test_a_text_cannot_break_out_of_the_stream(hostile):
    """Line breaks in a log, or in any other text, would begin another event."""
    browser = Browser()
    async with anyio.create_task_group() as group:
        group.start_soon(browser.run, dashboard.asgi_app(settings=hostile))
        found = await browser.hear(3)
        while not found[-1]["cache"]["entries"] or not found[-1]["problems"]:
            found = await browser.hear(len(found) + 1)
        browser.leave()

    assert all(one["schema"] == 1 for one in found)
    assert browser.body.count(b"\nevent:") == len(found)
    assert len(json.dumps(found[-1])) < 200_000
    assert "\u202e" not in json.dumps(found[-1], ensure_ascii=False)
