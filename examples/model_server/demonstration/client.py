"""Connections that know their worker.

All workers accept on one socket, and which of them gets a connection is the kernel's choice. A
connection stays with its worker, though, and every answer names the worker's process: so the demo
opens connections until it has some to each worker, and then speaks to each as it likes.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx

from examples.model_server import wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from examples.model_server.demonstration.process import Server
    from examples.model_server.demonstration.workload import Query
    from examples.model_server.model import Array

__all__ = ["Connection", "connect_to_all_workers"]

BURST = 16
"""Connections opened at once: a worker that is busy accepting leaves some to the others."""
CONNECT_SECONDS = 30.0
"""For all workers to start, which takes them a second or two, and to be reached."""
REQUEST_SECONDS = 60.0


class Connection:
    """One keep-alive connection to one worker. It sends one request at a time.

    Attributes:
        pid: The worker's process; 0 until the first answer.
    """

    def __init__(self, url: str) -> None:
        self.pid = 0
        self._turn = anyio.Lock()
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=REQUEST_SECONDS,
            limits=httpx.Limits(max_connections=1),
            verify=False,  # noqa: S501  # plain HTTP; reading certificates takes 20 ms a client
            trust_env=False,
        )

    async def infer(self, query: Query) -> tuple[Array, float]:
        """Send one batch of tokens; return the answer, and the seconds until it was there."""
        body, headers = wire.encode(query.x)
        parameters = {"features": query.features}
        answer = await self._request("POST", "/v1/infer", parameters, body, headers)
        tensor = wire.Tensor.announced(answer.headers)
        return wire.decode(tensor, answer.content), answer.elapsed.total_seconds()

    async def healthz(self) -> None:
        """Probe the worker; raises if it is not well."""
        await self._request("GET", "/healthz")

    async def stats(self) -> dict[str, Any]:
        """The worker's own account of its kernels."""
        stats: dict[str, Any] = (await self._request("GET", "/v1/stats")).json()
        return stats

    async def aclose(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    async def _request(
        self,
        method: str,
        path: str,
        parameters: dict[str, int] | None = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        async with self._turn:
            answer = await self._http.request(
                method, path, params=parameters, content=body, headers=headers
            )
        if answer.is_error:
            message = f"{path} answered {answer.status_code}: {_reason(answer)}"
            raise httpx.HTTPStatusError(message, request=answer.request, response=answer)
        self.pid = int(answer.headers["x-worker-pid"])
        return answer


def _reason(answer: httpx.Response) -> str:
    """What the server says went wrong; anything else than its own errors as it is."""
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:1000]


@asynccontextmanager
async def connect_to_all_workers(
    server: Server, workers: int, each: int
) -> AsyncIterator[dict[int, list[Connection]]]:
    """Open connections until every worker has `each` of them.

    Raises:
        TimeoutError: Some worker never got one, or the server ended.
    """
    async with AsyncExitStack() as stack:
        found: dict[int, list[Connection]] = {}
        with anyio.move_on_after(CONNECT_SECONDS):
            while not server.ended and not _enough(found, workers, each):
                for connection in await _burst(server.url, stack):
                    found.setdefault(connection.pid, []).append(connection)
        if len(found) < workers:
            raise TimeoutError(f"only {len(found)} of {workers} workers accepted a connection")
        yield {pid: connections[:each] for pid, connections in sorted(found.items())}


def _enough(found: dict[int, list[Connection]], workers: int, each: int) -> bool:
    return len(found) == workers and min(map(len, found.values())) >= each


async def _burst(url: str, stack: AsyncExitStack) -> list[Connection]:
    """Open some connections at once; those that the server does not accept yet are left out."""
    opened: list[Connection] = []

    async def open_one() -> None:
        connection = Connection(url)
        stack.push_async_callback(connection.aclose)
        try:
            await connection.healthz()
        except httpx.TransportError:
            await anyio.sleep(0.05)  # the worker is still starting
        else:
            opened.append(connection)

    async with anyio.create_task_group() as tasks:
        for _ in range(BURST):
            tasks.start_soon(open_one)
    return opened
