"""The server of one engine: Starlette under uvicorn, with as many such processes as one likes.

    python -m uvicorn examples.kv_engine.server:app --port 8001

They share what `ajit kv serve` keeps, and nothing else. ``KV_ENGINE_MODEL`` is ``small`` or
``toy``, ``KV_ENGINE_PAGES`` how many pages the cache has, ``KV_ENGINE_SOCKET`` the service's.
"""

from __future__ import annotations

import logging
import os
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import ajit
from examples.kv_engine import wire
from examples.kv_engine.blocks import NoRoom
from examples.kv_engine.engine import open_engine
from examples.kv_engine.model import MODELS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from examples.kv_engine.engine import Engine
    from examples.kv_engine.weights import Array

__all__ = ["app"]

logger = logging.getLogger(__name__)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Load the model before the first request; store what is being stored after the last."""
    environ = os.environ
    model = MODELS[environ.get("KV_ENGINE_MODEL", "small")]
    pages, socket = int(environ.get("KV_ENGINE_PAGES", "512")), environ.get("KV_ENGINE_SOCKET")
    async with (
        ajit.open_runtime(device=environ.get("AJIT_DEVICE", "auto")) as runtime,
        open_engine(runtime, model, pages=pages, socket=socket) as app.state.engine,
    ):
        yield


class Generate:
    """``POST /v1/generate``: an answer, token by token. A client that goes away cancels it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as an ASGI application."""
        request, engine = Request(scope, receive), scope["app"].state.engine
        try:
            question = wire.Question.read(await _body(request))
        except wire.BadRequest as error:
            await JSONResponse({"error": str(error)}, 400)(scope, receive, send)
            return
        stream = _Stream(send)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
            refusal = await _answered(engine, question, stream)
            if refusal is not None and not stream.begun:
                await refusal(scope, receive, send)
            elif refusal is None:
                await stream.end()
            tasks.cancel_scope.cancel()


class _Stream:
    """A response that is sent line by line."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def token(self, token: int, logits: Array) -> None:
        await self.line(wire.token_line(token, logits))

    async def line(self, line: bytes) -> None:
        if not self.begun:
            self.begun = True
            headers = [(b"content-type", b"application/x-ndjson")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": line, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _answered(engine: Engine, question: wire.Question, stream: _Stream) -> Response | None:
    """Answer, or return why not. What breaks off in the middle has no last line."""
    try:
        answer = await engine.generate(
            question.prompt, question.max_tokens, stream.token, use=question.cache
        )
        await stream.line(wire.end_line(answer))
    except NoRoom as error:
        return JSONResponse({"error": str(error)}, 413)
    except ajit.AjitError as error:
        logger.exception("a request has failed")
        return JSONResponse({"error": str(error), "type": type(error).__name__}, 503)
    return None


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _body(request: Request) -> bytes:
    """The body, as far as it can be a question: a client cannot fill the memory."""
    body = bytearray()
    async with aclosing(request.stream()) as stream:
        async for piece in stream:
            body += piece
            if len(body) > wire.MOST_BYTES:
                raise wire.BadRequest(f"a question has at most {wire.MOST_BYTES} bytes")
    return bytes(body)


async def healthz(request: Request) -> Response:
    """``GET /healthz``: whether this engine can answer. It can without a store."""
    engine: Engine = request.app.state.engine
    health = engine.decoder.loaded.device.health()
    content: dict[str, Any] = {"ok": bool(health), "store": engine.store.statistics().connected}
    return JSONResponse(content, 200 if health else 503)


async def stats(request: Request) -> Response:
    """``GET /v1/stats``: what this engine has and has done."""
    return JSONResponse({"pid": os.getpid(), **request.app.state.engine.statistics()})


app = Starlette(
    routes=[
        Route("/v1/generate", Generate(), methods=["POST"]),
        Route("/v1/stats", stats),
        Route("/healthz", healthz),
    ],
    lifespan=lifespan,
)
