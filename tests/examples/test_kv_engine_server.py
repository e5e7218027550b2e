"""The server of an engine: its application in this process, with the toy model."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from ajit import kv
from examples.kv_engine import server, wire
from examples.kv_engine.server import app
from tests.gpu.conftest import faults
from tests.gpu.support import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["faults"]

README = Path(server.__file__).with_name("README.md")
ROOM = kv.StoreOptions(limit_bytes=2 << 20, slab_bytes=64 << 10)

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def socket(kv_engine_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a deployment; where its service may listen."""
    tmp_path.chmod(0o700)
    path = tmp_path / "kv.sock"
    monkeypatch.setenv("AJIT_DEVICE", "cpu")
    monkeypatch.setenv("AJIT_CACHE_DIR", str(kv_engine_cache))
    monkeypatch.setenv("KV_ENGINE_MODEL", "toy")
    monkeypatch.setenv("KV_ENGINE_SOCKET", str(path))
    return path


@asynccontextmanager
async def running_server() -> AsyncIterator[httpx.AsyncClient]:
    """The application between start-up and shutdown, and a client of it."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client,
    ):
        yield client


async def settled() -> None:
    """Wait until what was answered is stored and all pages are back."""
    engine = app.state.engine
    await until(lambda: not engine.finishing and engine.blocks.free == engine.blocks.count)


async def test_the_readmes_client_works(monkeypatch: pytest.MonkeyPatch, socket: Path) -> None:
    """As it stands, but for the servers' addresses: the second answer comes from the store."""
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    answers: list[list[dict[str, Any]]] = []

    async with kv.open_service(ROOM, socket), running_server() as client:

        async def asked(path: str, request: dict[str, Any]) -> httpx.Response:
            answer = await client.post(path, **request)
            answers.append([json.loads(line) for line in answer.text.splitlines()])
            await settled()
            return answer

        def post(url: str, **request: Any) -> httpx.Response:
            path = re.sub(r"http://127.0.0.1:\d+", "", url)
            return anyio.from_thread.run(partial(asked, path, request))

        monkeypatch.setattr(httpx, "post", post)
        await anyio.to_thread.run_sync(exec, code, {})

    first, second = answers
    assert first[:-1] == second[:-1]  # the logits as well
    assert len(first) == 5
    assert wire.logits_in(first[0]).argmax() == first[0]["token"]
    assert (first[-1]["end"]["loaded"], second[-1]["end"]["loaded"]) == (0, 1072)


# httpx does not close what it generates the body by when the server stops reading.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
async def test_a_question_that_is_none_is_refused() -> None:
    """The client's mistakes are told, a prompt that is too long as such; others are answered."""
    wrong = [
        *(b"", b"{}", b"[1]", b'{"prompt": ""}', b'{"prompt": 3}'),
        b'{"prompt": "a", "max_tokens": 0}',
        b'{"prompt": "a", "cache": "all"}',
        b" " * (wire.MOST_BYTES + 1),
    ]
    async with running_server() as client:
        codes = [(await client.post("/v1/generate", content=body)).status_code for body in wrong]
        long = await client.post("/v1/generate", json={"prompt": "a" * 2048})
        short = await client.post("/v1/generate", json={"prompt": "a", "max_tokens": 1})

    assert codes == [400] * len(wrong)
    assert (long.status_code, short.status_code) == (413, 200)
    assert "2048" in long.json()["error"]


async def test_it_says_how_it_is_with_and_without_a_service(socket: Path) -> None:
    """It is well without a store, and says that there is none."""
    async with running_server() as client:
        without = await client.get("/healthz")
        async with kv.open_service(ROOM, socket):
            await app.state.engine.store.wait_connected()
            with_one = await client.get("/healthz")
            await client.post("/v1/generate", json={"prompt": "b" * 33, "max_tokens": 1})
            await settled()
            stats = (await client.get("/v1/stats")).json()

    assert (without.status_code, without.json()) == (200, {"ok": True, "store": False})
    assert with_one.json() == {"ok": True, "store": True}
    assert stats["chunks"] == {"saved": 2}
    assert (stats["free_pages"], stats["held"]) == (stats["pages"], 0)


async def test_a_client_that_goes_away_cancels_its_request(faults) -> None:
    """It is not computed to its end, and its pages come back."""
    body = json.dumps({"prompt": "c" * 40, "max_tokens": 2000}).encode()
    sent: list[dict[str, Any]] = []
    gone, begun = anyio.Event(), anyio.Event()

    async def receive() -> dict[str, Any]:
        if not begun.is_set():
            begun.set()
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if len(sent) == 3:
            gone.set()
        await anyio.lowlevel.checkpoint()

    scope = {"type": "http", "method": "POST", "path": "/v1/generate", "headers": [],
             "query_string": b"", "app": app}  # fmt: skip
    async with running_server():
        with anyio.fail_after(30):
            await app(scope, receive, send)
        await settled()

    assert 3 <= len(sent) < 100
    assert "http.response.start" == sent[0]["type"]
