"""The model server's application, in this process, with real kernels on the CPU driver."""

from __future__ import annotations

import os
import re
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import numpy as np
import pytest

from examples.model_server import app as app_module
from examples.model_server import pipeline, wire
from examples.model_server.app import app
from examples.model_server.kernels import pipeline_specs
from examples.model_server.model import Weights, reference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

README = Path(app_module.__file__).with_name("README.md")
HIDDEN, FEATURES = 40, 24  # small, and no multiple of a tile

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="session")
def example_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One kernel cache, so that the three loops compile each kernel once."""
    return tmp_path_factory.mktemp("example") / "cache"


@pytest.fixture(autouse=True)
def environment(example_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a deployment."""
    monkeypatch.setenv("AJIT_DEVICE", "cpu")
    monkeypatch.setenv("AJIT_CACHE_DIR", str(example_cache))


@asynccontextmanager
async def running_server() -> AsyncIterator[httpx.AsyncClient]:
    """The application between start-up and shutdown, and a client of it."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://server", timeout=60
        ) as client,
    ):
        yield client


def _tokens(count: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, HIDDEN)).astype(dtype)


async def _infer(client: httpx.AsyncClient, x: np.ndarray) -> httpx.Response:
    body, headers = wire.encode(x)
    return await client.post(f"/v1/infer?features={FEATURES}", content=body, headers=headers)


async def test_the_readmes_client_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's commands run as they stand, but for the server's address."""
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, Any] = {}

    async with running_server() as client:

        def post(url: str, **request: Any) -> httpx.Response:
            path = url.removeprefix("http://127.0.0.1:8000")
            return anyio.from_thread.run(partial(client.post, path, **request))

        monkeypatch.setattr(httpx, "post", post)
        await anyio.to_thread.run_sync(exec, code, names)

    assert names["y"].shape == (320,)
    assert names["y"].sum() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-4), ("float16", 2e-2)])
@pytest.mark.parametrize("tokens", [1, 19])
async def test_the_answer_is_numpys(dtype: str, rtol: float, tokens: int) -> None:
    """One token or several, in both dtypes: shape, dtype and numbers are the reference's."""
    x = _tokens(tokens, dtype)
    expected = reference(x, Weights.seeded(HIDDEN, FEATURES, dtype))

    async with running_server() as client:
        answer = await _infer(client, x)

    assert answer.status_code == 200
    actual = wire.decode(wire.Tensor.announced(answer.headers), answer.content)
    assert expected.dtype == actual.dtype
    np.testing.assert_allclose(actual, expected, rtol=rtol)


async def test_concurrent_first_requests_load_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests for a model that is not there yet load it once, and all get the same answer."""
    x = _tokens(4)
    answers: list[httpx.Response] = []
    loads: list[tuple[int, int, str]] = []

    def seeded(*widths: Any) -> Weights:
        loads.append(widths)
        return Weights.seeded(*widths)

    monkeypatch.setattr(pipeline, "Weights", SimpleNamespace(seeded=seeded))

    async with running_server() as client:

        async def ask() -> None:
            answers.append(await _infer(client, x))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(ask)
        stats = (await client.get("/v1/stats")).json()

    assert [(HIDDEN, FEATURES, "float32")] == loads
    assert {200} == {answer.status_code for answer in answers}
    assert 1 == len({answer.content for answer in answers})
    expected = {spec.name for spec in pipeline_specs(HIDDEN, FEATURES, "float32")}
    assert expected == {line["name"] for line in stats["kernels"].values()}


async def test_a_malformed_request_is_refused() -> None:
    """The client's mistake is a 400 that says what was expected; the next request works."""
    async with running_server() as client:
        refused = await client.post("/v1/infer", headers={"x-shape": "1,40", "x-dtype": "int8"})
        answer = await _infer(client, _tokens(1))

    assert refused.status_code == 400
    assert "expected one of float32, float16" in refused.json()["error"]
    assert answer.status_code == 200


# httpx does not close what it generates the body by when the server stops reading.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
async def test_a_body_that_is_too_long_is_refused() -> None:
    """The body is not read further than its headers announced."""
    _, headers = wire.encode(_tokens(1))

    async with running_server() as client:
        refused = await client.post(
            f"/v1/infer?features={FEATURES}", content=bytes(10_000_000), headers=headers
        )

    assert refused.status_code == 400
    assert "longer than" in refused.json()["error"]


async def test_a_worker_has_a_limit_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client cannot fill a worker with models: the next one is a 503, those it has go on."""
    monkeypatch.setattr(pipeline, "MAX_MODELS", 1)

    async with running_server() as client:
        first = await _infer(client, _tokens(1))
        refused = await _infer(client, _tokens(1, "float16"))
        again = await _infer(client, _tokens(2))

    assert [200, 503, 200] == [it.status_code for it in (first, refused, again)]
    assert "retry-after" in refused.headers


async def test_a_kernel_that_does_not_compile_is_an_error_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client gets a 500 with the compiler's words, and the worker serves on."""
    specs = pipeline_specs(HIDDEN, FEATURES, "float32")
    broken = type(specs)(
        specs.rms_norm,
        specs.matmul.with_(source="#error no product today\n" + specs.matmul.source),
        *list(specs)[2:],
    )
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "pipeline_specs", lambda *_: broken)
        async with running_server() as client:
            failed = await _infer(client, _tokens(1))
            patch.setattr(pipeline, "pipeline_specs", pipeline_specs)
            answer = await _infer(client, _tokens(1))

    assert failed.status_code == 500
    assert "no product today" in failed.json()["error"]
    assert answer.status_code == 200


async def test_healthz_answers_while_kernels_compile(tmp_path: Path, monkeypatch) -> None:
    """With an empty cache, the loop answers health probes until the first answer is there."""
    monkeypatch.setenv("AJIT_CACHE_DIR", str(tmp_path / "cache"))
    probes: list[int] = []

    async with running_server() as client:
        answered = anyio.Event()

        async def ask() -> None:
            assert (await _infer(client, _tokens(1))).status_code == 200
            answered.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            while not answered.is_set():
                probes.append((await client.get("/healthz")).status_code)
                await anyio.sleep(0.01)

    assert {200} == set(probes)
    assert len(probes) >= 5


@pytest.mark.allow_blocking("Starlette opens the record's folder")
async def test_a_server_that_knows_its_models_is_ready_before_the_first_request(
    monkeypatch, tmp_path
):
    """And at the next start it knows those that requests brought."""
    monkeypatch.setenv("MODELS", f"{HIDDEN}x{FEATURES}xfloat32")
    monkeypatch.setenv("AJIT_RECORD", str(tmp_path / "used.ajit"))
    async with running_server() as client:
        await until_ready(client)
        compiled = await compiles(client)
        answer = await client.post(
            f"/v1/infer?features={FEATURES}",
            content=_tokens(3).tobytes(),
            headers={"x-shape": f"3,{HIDDEN}", "x-dtype": "float32"},
        )
        assert answer.status_code == 200
        assert await compiles(client) == compiled

    monkeypatch.delenv("MODELS")
    async with running_server() as client:
        await until_ready(client)
        kernels = (await client.get("/v1/stats")).json()["kernels"]

    assert sorted(line["name"].split()[0] for line in kernels.values()) == [
        "bias_gelu", "matmul", "rms_norm", "softmax",
    ]  # fmt: skip
    assert {line["tier"] for line in kernels.values()} == {"disk"}


async def until_ready(client: httpx.AsyncClient) -> None:
    """Ask as an orchestrator does."""
    with anyio.fail_after(60):
        while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110  # over HTTP
            await anyio.sleep(0.02)


async def compiles(client: httpx.AsyncClient) -> int:
    """How many compiles this worker has started."""
    kernels = (await client.get("/v1/stats")).json()["kernels"]
    return sum(line["compiles"] for line in kernels.values())


async def test_metrics_and_the_live_page_show_this_worker():
    """Mounted in the application, over the cache that it uses."""
    async with running_server() as client:
        with anyio.fail_after(60):
            shown = {"processes": []}
            while not shown["processes"]:  # a thread makes it
                shown = (await client.get("/ajit/snapshot.json")).json()
                await anyio.sleep(0.1)
        page = await client.get("/ajit", follow_redirects=True)
        metrics = (await client.get("/metrics/")).text

    assert os.getpid() in [process["pid"] for process in shown["processes"]]
    assert "Who waits for whom" in page.text
    assert "ajit_requests_total" in metrics
