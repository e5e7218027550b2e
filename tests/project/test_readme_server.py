"""The server of the README: it starts, answers, and says when it cannot."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import ajit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

README = (Path(__file__).parents[2] / "README.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
CHANGED = {"device": 'device="auto"', "patience": "timeout=2.0", "body": "x[i] *= 2"}
TRAP = ajit.Spec("__global__ void trap() { __trap(); }", "trap")

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU of this machine, and no cache but the test's."""
    monkeypatch.setenv("AJIT_CACHE_DIR", str(tmp_path / "cache"))


@asynccontextmanager
async def running_server(**changed: str) -> AsyncIterator[tuple[Any, httpx.AsyncClient]]:
    """The server's names, between its start and its end, and a client.

    Args:
        **changed: By the words of `CHANGED`, what stands on the page in another way.
    """
    (text,) = [program for program in PROGRAMS if "Starlette(" in program]
    for word, instead in {"device": 'device="cpu"', **changed}.items():
        assert text.count(CHANGED[word]) == 1
        text = text.replace(CHANGED[word], instead)
    names: dict[str, Any] = {}
    exec(text, names)  # noqa: S102  # the README's own program
    app = names["app"]
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client,
    ):
        yield names, client


async def test_readme_server_answers_and_is_healthy():
    """The request and the answer are those of the page."""
    request, expected = "[1, 2, 3]", "[2.0,4.0,6.0]"
    assert f"`curl -d '{request}' localhost:8000/double` answers `{expected}`" in README

    async with running_server() as (_, client):
        answer = await client.post("/double", content=request)
        health = await client.get("/healthz")

    assert (answer.status_code, answer.text) == (200, expected)
    assert (health.status_code, health.json()["ok"]) == (200, True)


async def test_readme_server_says_503_while_a_kernel_compiles():
    """A request that comes before its kernel is ready is told to come again."""
    async with running_server(patience="timeout=0.0") as (names, client):
        names["TWICE"] = ajit.Spec(names["SOURCE"] + "// not warmed up", "twice")
        answer = await client.post("/double", content="[1]")

    assert answer.status_code == 503
    assert "is not ready after" in answer.json()["error"]


async def test_readme_server_is_unhealthy_once_the_device_is_lost():
    """/healthz is how an operator's probe learns of it."""
    async with running_server() as (names, client):
        runtime = names["app"].state.rt
        trap = await runtime.kernel(TRAP)
        with pytest.raises(ajit.DeviceLost):
            await trap[1, 1]()
        health = await client.get("/healthz")

    assert health.status_code == 503


async def test_readme_server_does_not_start_with_a_source_that_does_not_compile():
    """The warm-up's failure ends the start with the compiler's error."""
    with pytest.raises(ajit.CompileError, match="twice"):
        async with running_server(body="x[i] *= y"):
            pass
