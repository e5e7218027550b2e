"""The application: a Starlette server whose handlers await kernels.

Every worker process has its own runtime; all of them share one kernel cache on disk. The
event loop never waits for a compiler or the device: while a kernel compiles, ``/healthz`` and the
requests whose kernels are there go on.

A deployment that wants no compile while it serves sets two variables: ``AJIT_RECORD``, where the
kernels that are used are written down, to be ready at the next start; and ``MODELS``, such as
``256x320xfloat16``, for those that it knows beforehand. ``/readyz`` is 200 when all are ready; from
then on a compile is a warning in the log.

``/metrics`` is for Prometheus, and ``/ajit`` is a page that shows live what all workers do. Neither
asks for a password: a proxy in front of it should let only operators there.
"""

from __future__ import annotations

import logging
import os
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

import ajit
from ajit import dashboard
from ajit.instrumentation import prometheus
from examples.model_server import wire
from examples.model_server.kernels import FAMILIES
from examples.model_server.pipeline import Pipeline, TooManyModels
from examples.model_server.record import KernelRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

__all__ = ["app"]

logger = logging.getLogger(__name__)

WORKER = {"x-worker-pid": str(os.getpid())}
"""Sent with every answer: which process gave it."""


live_page = dashboard.asgi_app()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the runtime before the first request, and close it after the last."""
    async with (
        ajit.open_runtime(device=os.environ.get("AJIT_DEVICE", "auto")) as runtime,
        prometheus.instrument(runtime),
    ):
        app.state.record = KernelRecord()
        runtime.subscribe(app.state.record)
        app.state.pipeline = Pipeline(runtime)
        app.state.readiness = ajit.ready(runtime, wanted(runtime.settings))
        async with AsyncExitStack() as stack:
            stack.enter_context(live_page.watching(runtime))
            tasks = await stack.enter_async_context(anyio.create_task_group())
            tasks.start_soon(freeze_when_ready, runtime, app.state.readiness)
            yield
            tasks.cancel_scope.cancel()


def wanted(settings: ajit.Settings) -> list[ajit.Replay | ajit.FamilyWork]:
    """What is to be ready before the first request: what was used before, and what is known."""
    models = [
        (int(hidden), int(features), dtype)
        for model in filter(None, os.environ.get("MODELS", "").split(","))
        for hidden, features, dtype in [model.split("x")]
    ]
    work: list[ajit.Replay | ajit.FamilyWork] = [ajit.families(FAMILIES, config=models)]
    if settings.record:
        work.append(ajit.replay(settings.record))
    return work


async def freeze_when_ready(runtime: ajit.Runtime, readiness: ajit.Readiness) -> None:
    """From when it is warm, a compile is a warning; a server with nothing to warm compiles on."""
    try:
        report = await readiness.wait()
    except ajit.AjitError as error:
        logger.error("not ready: %s", error)  # noqa: TRY400  # the endpoint says so, too
        return
    if report.total:
        runtime.freeze("warn")


async def infer(request: Request) -> Response:
    """``POST /v1/infer``: the pipeline's answer for a batch of tokens, as raw bytes."""
    tensor = wire.Tensor.announced(request.headers)
    features = wire.features_of(request.query_params)
    x = wire.decode(tensor, await _body(request, tensor.size_bytes))
    y = await request.app.state.pipeline.infer(x, features)
    body, headers = wire.encode(y)
    return Response(body, headers=headers | WORKER)


async def healthz(_request: Request) -> Response:
    """``GET /healthz``: whether this worker's event loop turns."""
    return JSONResponse({"status": "ok"}, headers=WORKER)


class Readyz:
    """``GET /readyz``: 200 when the kernels are ready; until then 503, and who is missing."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask the readiness of this worker's runtime, an ASGI application like any other."""
        await scope["app"].state.readiness(scope, receive, send)


async def stats(request: Request) -> Response:
    """``GET /v1/stats``: the kernels of this worker, and where each of them came from."""
    state = request.app.state
    content = {
        "pid": os.getpid(),
        "device": state.pipeline.device_name,
        "kernels": state.record.as_dict(),
    }
    return JSONResponse(content, headers=WORKER)


async def _body(request: Request, size_bytes: int) -> bytes:
    """The body, read only as far as it was announced: a client cannot fill the memory."""
    chunks, received = [], 0
    async with aclosing(request.stream()) as stream:
        async for chunk in stream:
            chunks.append(chunk)
            received += len(chunk)
            if received > size_bytes:
                raise wire.BadRequest(f"the body is longer than the {size_bytes} bytes of x-shape")
    return b"".join(chunks)


async def refuse(_request: Request, error: Exception) -> Response:
    """The client's mistake."""
    return JSONResponse({"error": str(error)}, 400, headers=WORKER)


async def unavailable(_request: Request, error: Exception) -> Response:
    """This worker cannot serve the request now; another one, or a later time, may."""
    return JSONResponse({"error": str(error)}, 503, headers=WORKER | {"retry-after": "1"})


async def failed(_request: Request, error: Exception) -> Response:
    """A kernel could not be compiled, loaded or run. The client gets an excerpt of the log."""
    logger.error("%s\n%s", error, getattr(error, "log", ""))
    return JSONResponse({"error": str(error), "type": type(error).__name__}, 500, headers=WORKER)


app = Starlette(
    routes=[
        Route("/v1/infer", infer, methods=["POST"]),
        Route("/v1/stats", stats),
        Route("/healthz", healthz),
        Route("/readyz", Readyz()),
        Mount("/metrics", prometheus.asgi_app()),
        Mount("/ajit", live_page),
    ],
    exception_handlers={
        wire.BadRequest: refuse,
        TooManyModels: unavailable,
        ajit.DeviceLost: unavailable,
        ajit.RuntimeClosed: unavailable,
        ajit.OutOfMemory: unavailable,
        ajit.WouldBlock: unavailable,
        ajit.AjitError: failed,
    },
    lifespan=lifespan,
)
