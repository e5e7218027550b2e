"""Requests to engines: when the first token came, and all logits."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import numpy as np

from examples.kv_engine.wire import logits_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from examples.kv_engine.weights import Array

__all__ = ["Beats", "Client", "Reply"]

REQUEST_SECONDS = 90.0
"""A request that takes longer hangs. A cold one takes some seconds, more on a busy machine."""
SETTLED_SECONDS = 60.0
BEAT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        loaded: How many tokens of the prompt came from the store.
        first_seconds: Until the first token was here.
        seconds: Until all was here.
        logits: Of each token, [tokens, vocabulary], float32.
    """

    loaded: int
    first_seconds: float
    seconds: float
    logits: Array


class Client:
    """Speaks to one engine."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    @classmethod
    @asynccontextmanager
    async def of(cls, url: str) -> AsyncIterator[Client]:
        """Connect to the engine at a URL, in the body."""
        # Plain HTTP: reading certificates would take 20 ms.
        async with httpx.AsyncClient(
            base_url=url,
            timeout=REQUEST_SECONDS,
            trust_env=False,
            verify=False,  # noqa: S501
        ) as http:
            yield cls(http)

    async def ask(self, prompt: str, count: int, cache: str = "layers") -> Reply:
        """Send a prompt, and read its answer.

        Raises:
            httpx.HTTPError: It was not answered, or not to the end.
        """
        question = {"prompt": prompt, "max_tokens": count, "cache": cache}
        begun, first, lines = perf_counter(), 0.0, []
        async with self._http.stream("POST", "/v1/generate", json=question) as answer:
            if answer.is_error:
                reason = (await answer.aread()).decode(errors="replace")
                raise httpx.RequestError(f"answered {answer.status_code}: {reason}")
            async for line in answer.aiter_lines():
                first = first or perf_counter() - begun
                lines.append(json.loads(line))
        if not lines or "end" not in lines[-1]:
            raise httpx.RequestError("the answer has no end")
        logits = np.stack([logits_in(line) for line in lines[:-1]])
        return Reply(lines[-1]["end"]["loaded"], first, perf_counter() - begun, logits)

    async def stats(self) -> dict[str, Any]:
        """What the engine says of itself."""
        stats: dict[str, Any] = (await self._http.get("/v1/stats")).raise_for_status().json()
        return stats

    async def wait_begun(self, count: int) -> None:
        """Wait until the engine has begun so many requests since it was started.

        Raises:
            TimeoutError: It takes far too long.
        """
        with anyio.fail_after(SETTLED_SECONDS):
            while (await self.stats())["begun"] < count:  # noqa: ASYNC110  # over HTTP
                await anyio.sleep(0.01)

    async def wait_settled(self) -> None:
        """Wait until what was answered is stored.

        Raises:
            TimeoutError: It takes far too long.
        """
        with anyio.fail_after(SETTLED_SECONDS):
            while (await self.stats())["finishing"]:  # noqa: ASYNC110  # over HTTP
                await anyio.sleep(0.02)

    async def wait_store(self, *, there: bool) -> None:
        """Wait until the engine knows that there is a service, or none.

        Raises:
            TimeoutError: It takes far too long.
        """
        with anyio.fail_after(SETTLED_SECONDS):
            while (await self.stats())["connected"] != there:  # noqa: ASYNC110  # over HTTP
                await anyio.sleep(0.02)


@dataclass(slots=True)
class Beats:
    """A short prompt, asked again and again while other things happen.

    Attributes:
        prompt: The prompt.
        expected: Its logits.
        seconds: Of each that was answered.
        loaded: How many of them came from the store.
        problems: Those that failed, or whose logits differ; a line each.
    """

    prompt: str
    expected: Array
    seconds: list[float] = field(default_factory=list)
    loaded: int = 0
    problems: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def at(self, client: Client) -> AsyncIterator[None]:
        """Ask an engine while the body runs; the last answer is waited for."""
        over = anyio.Event()

        async def beat() -> None:
            while not over.is_set():
                await self._ask(client)
                with anyio.move_on_after(BEAT_SECONDS):
                    await over.wait()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beat)
            yield
            over.set()

    async def _ask(self, client: Client) -> None:
        try:
            reply = await client.ask(self.prompt, len(self.expected))
        except httpx.HTTPError as error:
            self.problems.append(f"a request beside it failed: {error!r}")
            return
        self.seconds.append(reply.seconds)
        self.loaded += reply.loaded > 0
        if reply.logits.tobytes() != self.expected.tobytes():
            self.problems.append("a request beside it has other logits")
