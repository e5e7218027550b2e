"""The application over ASGI: what it serves, what it refuses, and with which headers."""

from __future__ import annotations

import json
import os
import threading

import anyio.to_thread
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

import ajit
from ajit import dashboard
from ajit.dashboard import app as application
from ajit.dashboard import background, feed
from ajit.dashboard.app import TYPES
from ajit.dashboard.snapshot import CacheState
from tests.runtime.sources import ARCH, SAXPY, SYNTAX_ERROR, saxpy

pytestmark = pytest.mark.anyio

FILES = [name for name in TYPES if name != "page.html"]


@pytest.fixture
def settings(tmp_path, options):
    """A cache and boards of this test's own."""
    place = tmp_path / "boards"
    place.mkdir()
    options["board"] = str(place)
    return ajit.Settings(cache_dir=options["cache_dir"], board=str(place))


def client(app, base="http://127.0.0.1"):
    """A client of an application in this process."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=base)


async def test_the_page_and_its_files_are_served(settings):
    """Each with its type, and headers that let the browser load nothing else."""
    async with client(dashboard.asgi_app(settings=settings)) as http:
        answers = [await http.get(f"/{name}") for name in ["", *FILES]]

    assert [200] * len(answers) == [answer.status_code for answer in answers]
    assert "text/html; charset=utf-8" == answers[0].headers["content-type"]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "nosniff" == answer.headers["x-content-type-options"]
        assert "no-store" == answer.headers["cache-control"]


async def test_the_page_names_no_other_place(settings):
    """It works without the internet, and no handler or style stands in it."""
    async with client(dashboard.asgi_app(settings=settings)) as http:
        for name in ["", *FILES]:
            text = (await http.get(f"/{name}")).text.replace("http://www.w3.org/", "")
            assert "http:" not in text
            assert "https:" not in text
            assert " onclick" not in text
            assert " style=" not in text
            assert "innerHTML" not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/events", "/snapshot.json", "/page.js"])
async def test_it_can_only_be_read(settings, method, path):
    """No other method is served anywhere."""
    async with client(dashboard.asgi_app(settings=settings)) as http:
        answer = await http.request(method, path)

    assert 405 == answer.status_code
    assert "GET, HEAD" == answer.headers["allow"]


async def test_heads_have_no_body(settings):
    """Of the stream as well: a HEAD is no client."""
    async with client(dashboard.asgi_app(settings=settings)) as http:
        answers = [await http.head(path) for path in ("/", "/events", "/page.css")]

    assert [(200, b"")] * 3 == [(answer.status_code, answer.content) for answer in answers]


@pytest.mark.parametrize("path", ["/app.py", "/../app.py", "/%2e%2e/app.py", "/page/page.js", "/x"])
async def test_nothing_else_is_served(settings, path):
    """No file beside those of the page."""
    async with client(dashboard.asgi_app(settings=settings)) as http:
        answer = await http.get(path)

    assert 404 == answer.status_code


async def test_it_is_mounted_at_any_path(settings):
    """With and without a slash at the end."""
    mounted = Mount("/deep/ajit", dashboard.asgi_app(settings=settings))
    async with client(Starlette(routes=[mounted])) as http:
        bare = await http.get("/deep/ajit", follow_redirects=True)
        script = await http.get("/deep/ajit/page.js")

    assert "http://127.0.0.1/deep/ajit/" == str(bare.url)
    assert (200, 200) == (bare.status_code, script.status_code)


async def test_a_name_of_another_site_is_refused(settings):
    """DNS rebinding: the browser sends the name that leads here."""
    app = dashboard.asgi_app(settings=settings, hosts=["node3"])
    async with client(app, "http://evil.example") as http:
        evil = await http.get("/snapshot.json")
    async with client(app, "http://node3:8731") as http:
        own = await http.get("/")

    assert (421, 200) == (evil.status_code, own.status_code)


async def test_a_stream_for_another_site_is_refused(settings):
    """It could not read it, but would take a place."""
    async with client(dashboard.asgi_app(settings=settings)) as http:
        answer = await http.get("/events", headers={"sec-fetch-site": "cross-site"})

    assert 403 == answer.status_code


async def test_a_snapshot_shows_this_process_and_its_cache(settings, options):
    """A runtime that has compiled a kernel: counters, an entry, no problem."""
    app = dashboard.asgi_app(settings=settings)
    async with ajit.open_runtime(**options) as rt, client(app) as http:
        await rt.resolve(SAXPY, arch=ARCH)
        shown = await _until(http, lambda s: s["processes"] and s["processes"][0]["compiled"]
                             and s["cache"]["entries"])  # fmt: skip

    [process] = shown["processes"]
    assert (os.getpid(), "running", 1) == (process["pid"], process["state"], process["compiled"])
    assert "saxpy" == shown["cache"]["largest"][0]["name"]
    assert "" == shown["cache"]["problem"]
    assert "1 runtime runs; nothing compiles, nothing waits." == shown["headline"]["text"]


@pytest.fixture
def hasty(monkeypatch):
    """Everything is read often, and threads end soon after the last question."""
    monkeypatch.setattr(background, "LINGER_SECONDS", 0.3)
    for name in ("TICK_SECONDS", "HISTORY_SECONDS", "ENTRIES_SECONDS", "SERVICE_SECONDS"):
        monkeypatch.setattr(feed, name, 0.1)


async def test_the_first_snapshot_and_one_after_a_pause_are_of_now(settings, options, hasty):
    """The cache is not taken for empty, nor an old state for today's."""
    app = dashboard.asgi_app(settings=settings)
    threads = [app.feed._encoded, *app.feed._read.values()]
    async with ajit.open_runtime(**options) as rt, client(app) as http:
        await rt.resolve(SAXPY, arch=ARCH)
        first = (await http.get("/snapshot.json")).json()
        with anyio.fail_after(60):
            while any(one._looking.locked() for one in threads):  # noqa: ASYNC110  # they end
                await anyio.sleep(0.02)
        await rt.resolve(saxpy(2), arch=ARCH)
        then = (await http.get("/snapshot.json")).json()

    assert [1, 2] == [shown["cache"]["entries"] for shown in (first, then)]
    assert [[], []] == [shown["not_read"] for shown in (first, then)]


async def test_a_snapshot_says_what_was_not_read_in_time(settings, options, monkeypatch):
    """A cache that takes long is not waited for."""
    monkeypatch.setattr(application, "FRESH_SECONDS", 0.2)
    app, goes_on = dashboard.asgi_app(settings=settings), threading.Event()
    monkeypatch.setattr(
        app.feed._entries, "_function", lambda: goes_on.wait(60) and CacheState(path="")
    )
    async with client(app) as http:
        shown = (await http.get("/snapshot.json")).json()
        goes_on.set()
        await _until(http, lambda s: not s["not_read"])

    assert "entries" in shown["not_read"]
    assert shown["cache"]["looked_seconds"] is None


async def test_failures_are_shown_with_their_log(settings, options):
    """By the history that processes of the cache share."""
    app = dashboard.asgi_app(settings=settings)
    async with ajit.open_runtime(**options) as rt, client(app) as http:
        with pytest.raises(ajit.CompileError):
            await rt.resolve(SYNTAX_ERROR, arch=ARCH)
        shown = await _until(http, lambda s: s["problems"] and s["problems"][0]["log"])

    [problem] = shown["problems"]
    assert ("CompileFailed", "broken") == (problem["kind"], problem["name"])
    assert problem["text"].startswith("broken.cu:3:12: error: expected")
    assert "In function" in problem["log"]
    assert "1 compile has failed" in shown["headline"]["problems"][0]["text"]


async def test_logs_can_be_left_out(settings, options):
    """They quote lines of the source."""
    app = dashboard.asgi_app(settings=settings, logs=False)
    async with ajit.open_runtime(**options) as rt, client(app) as http:
        with app.watching(rt), pytest.raises(ajit.CompileError):
            await rt.resolve(SYNTAX_ERROR, arch=ARCH)
        shown = await _until(http, lambda s: s["problems"])

    assert "In function" not in json.dumps(shown)


async def test_what_a_watched_runtime_tells_is_shown_while_it_is_watched(settings, options):
    """At once, with its log."""
    app = dashboard.asgi_app(settings=settings)
    async with ajit.open_runtime(**options) as rt:
        with app.watching(rt):
            with pytest.raises(ajit.CompileError):
                await rt.resolve(SYNTAX_ERROR, arch=ARCH)
            during = app._problems()
        after = app._problems()

    assert ["broken"] == [problem.name for problem in during]
    assert "In function" in during[0].log
    assert [] == after


async def test_neither_source_nor_environment_nor_arguments_are_shown(
    settings, options, monkeypatch
):
    """Whatever is asked for, of a runtime that has compiled."""
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    app = dashboard.asgi_app(settings=settings)
    async with ajit.open_runtime(**options) as rt, client(app) as http:
        secret = SAXPY.with_(defines={"PASSWORD": "swordfish"})
        await rt.resolve(secret, arch=ARCH)
        await _until(http, lambda s: s["cache"]["entries"])
        text = (await http.get("/snapshot.json")).text

    for hidden in ("hunter2", "swordfish", "blockIdx", "--import-mode", "VARIANT="):
        assert hidden not in text


async def test_a_cache_that_is_not_there_is_told_and_not_made(settings):
    """A mistyped path must not look like an empty cache."""
    async with client(dashboard.asgi_app(settings=settings)) as http:
        shown = await _until(http, lambda s: s["cache"]["problem"])
    made = await anyio.to_thread.run_sync(settings.cache_dir.exists)

    assert "there is no such directory" in shown["cache"]["problem"]
    assert "bad" == shown["headline"]["level"]
    assert not made


async def test_two_event_loops_may_serve_one_page(settings):
    """What is read belongs to none of them."""
    app = dashboard.asgi_app(settings=settings)

    async def look():
        async with client(app) as http:
            return await _until(http, lambda s: s["cache"]["problem"])

    def elsewhere():
        return anyio.run(look, backend="asyncio")

    here = await look()
    there = await anyio.to_thread.run_sync(elsewhere)

    assert here["cache"]["problem"] == there["cache"]["problem"]


async def _until(http, holds):
    """The first snapshot for which something holds."""
    with anyio.fail_after(60):
        while not holds(shown := (await http.get("/snapshot.json")).json()):  # noqa: ASYNC110  # a thread makes it
            await anyio.sleep(0.1)
    return shown
