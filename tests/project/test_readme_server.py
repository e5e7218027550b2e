"""The server of the README: it starts, answers, and says when it cannot."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import ajit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
CHANGED = {"device": 'device="auto"', "patience": "timeout=2.0", "body": "x[i] *= 2"}
TRAP = ajit.Spec("__global__ void trap() { __trap(); }", "trap")


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


@pytest.mark.anyio
async def test_readme_server_answers_and_is_healthy():
    """The request and the answer are those of the page."""
    request, expected = "[1, 2, 3]", "[2.0,4.0,6.0]"
    assert f"`curl -d '{request}' localhost:8000/double` answers `{expected}`" in README

    async with running_server() as (_, client):
        answer = await client.post("/double", content=request)
        health = await client.get("/healthz")

        bad = [await client.post("/double", content=text) for text in ('{"a": 1}', "x", '["x"]')]

    assert (answer.status_code, answer.text) == (200, expected)
    assert [one.status_code for one in bad] == [400] * 3
    assert (health.status_code, health.json()["ok"]) == (200, True)


@pytest.mark.anyio
async def test_readme_server_says_503_while_a_kernel_compiles():
    """A request that comes before its kernel is ready is told to come again."""
    async with running_server(patience="timeout=0.0") as (names, client):
        names["TWICE"] = ajit.Spec(names["SOURCE"] + "// not warmed up", "twice")
        answer = await client.post("/double", content="[1]")

    assert answer.status_code == 503
    assert "is not ready after" in answer.json()["error"]


UNHEALTHY = """
import sys
import anyio
import pytest
import ajit
from tests.project.test_readme_server import TRAP, running_server

async def main():
    async with running_server() as (names, client):
        trap = await names["app"].state.rt.kernel(TRAP)
        with pytest.raises(ajit.DeviceLost):
            await trap[1, 1]()
        print((await client.get("/healthz")).status_code)

backend, uvloop = sys.argv[1], sys.argv[2] == "True"
anyio.run(main, backend=backend, backend_options={"use_uvloop": True} if uvloop else {})
"""


def test_readme_server_is_unhealthy_once_the_device_is_lost(anyio_backend, tmp_path):
    """/healthz is how an operator's probe learns of it. The process has to end, so: another one."""
    backend, options = anyio_backend
    done = subprocess.run(
        [sys.executable, "-c", UNHEALTHY, backend, str(options.get("use_uvloop", False))],
        cwd=PROJECT, check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    assert (done.stdout, done.returncode) == ("503\n", 0), done.stderr


@pytest.mark.anyio
async def test_readme_server_does_not_start_with_a_source_that_does_not_compile():
    """The warm-up's failure ends the start with the compiler's error."""
    with pytest.raises(ajit.CompileError, match="twice"):
        async with running_server(body="x[i] *= y"):
            pass
