"""What the demo does, in order, and what came of it."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import anyio
import httpx

from ajit import kv
from examples.kv_engine.demonstration.client import Beats, Client
from examples.kv_engine.demonstration.processes import run_engine, run_service
from examples.kv_engine.model import MODELS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from examples.kv_engine.demonstration.client import Reply
    from examples.kv_engine.demonstration.processes import Running
    from examples.kv_engine.weights import Array

__all__ = ["Result", "Row", "run_scenario"]

COUNT = 4
"""Tokens of an answer."""
ROUNDS = 5
"""Of what is fast enough to be measured more than once."""
MANY = 1000
"""Tokens of an answer that nobody will get to its end."""
BACK_SECONDS = 10.0
"""What a killed engine has held is back long before, or never is."""
LIMIT = "256MiB"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        what: Was asked, and when.
        engine: Its name.
        loaded: Tokens that came from the store.
        first_seconds: Until the first token, the median.
        times: How often it was asked.
        equal: Whether all logits were those of the first answer, to the bit.
    """

    what: str
    engine: str
    loaded: int
    first_seconds: float
    times: int
    equal: bool


@dataclass(slots=True)
class Result:
    """What came of it; a field is empty if the demo broke off before.

    Attributes:
        device: What the driver calls it, and its architecture.
        prompt_tokens: Of the long prompt.
        rows: The table.
        beats: The requests beside the faults.
        problems: All that is not as it should be, a line each.
        seconds: How long it took.
    """

    device: str = ""
    prompt_tokens: int = 0
    rows: list[Row] = field(default_factory=list)
    beats: Beats | None = None
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether all logits were equal, those of requests beside the faults included."""
        beaten = self.beats is not None and not self.beats.problems
        return len(self.rows) > 1 and beaten and all(row.equal for row in self.rows)


class Scenario:
    """Two engines and a service, measured, and killed one by one."""

    def __init__(self, folder: Path, result: Result, say: Callable[[str], None]) -> None:
        """Prepare it.

        Args:
            folder: With mode 0700 and an empty ``tmp``, for everything that is written.
            result: Filled step by step.
            say: Told of each step.
        """
        self._folder, self._result, self._say = folder, result, say
        model = MODELS[os.environ.get("KV_ENGINE_MODEL", "small")]
        self._whole = 6 * model.chunk_tokens
        self._prompt = text(self._whole + 8, "A long prompt")
        self._other = text(self._whole + 8, "Another prompt")
        self._short = text(model.chunk_tokens + 8, "A short prompt")
        self._expected: Array | None = None
        result.prompt_tokens = len(self._prompt)

    async def run(self) -> None:
        """Run all of it.

        Raises:
            Failed: A process did not start or stop.
            httpx.HTTPError: A request failed.
            TimeoutError: Something hung.
        """
        self._say("starting the service and two engines; the first one compiles the kernels")
        async with (
            run_service(self._folder, LIMIT) as service,
            self._engine("A") as a,
            self._engine("B") as b,
        ):
            self._result.device = _device(await b.client.stats())
            await self._measure(a.client, b.client)
            async with self._beats.at(b.client):
                await self._kill_engine(a, b.client)
                async with self._engine("A") as again:
                    await self._kill_service(service, again.client)
                    await self._start_service(again.client, b.client)

    @asynccontextmanager
    async def _engine(self, name: str) -> AsyncIterator[_Engine]:
        async with (
            run_engine(self._folder, name) as running,
            Client.of(running.said) as client,
        ):
            self._say(f"engine {name} answers at {running.said}")
            yield _Engine(running, client)

    # --- what happens ---------------------------------------------------------------------------

    async def _measure(self, a: Client, b: Client) -> None:
        """Cold at one engine; from the store at the other."""
        await self._ask("cold", "A", a, 0)
        await a.wait_settled()
        replies: dict[str, list[Reply]] = {"whole": [], "layers": []}
        for _ in range(ROUNDS):
            for cache, found in replies.items():
                found.append(await b.ask(self._prompt, COUNT, cache))
        self._note("from the store, all layers first", "B", self._whole, replies["whole"])
        self._note("from the store, layer by layer", "B", self._whole, replies["layers"])
        short = await a.ask(self._short, 2, "off")
        self._result.beats = Beats(self._short, short.logits)
        await a.ask(self._short, 2)
        await a.wait_settled()

    async def _kill_engine(self, a: _Engine, b: Client) -> None:
        """In the middle of a request: what it holds of the store comes back."""
        async with anyio.create_task_group() as tasks:
            begun = (await a.client.stats())["begun"]
            tasks.start_soon(_ask_in_vain, a.client, self._other)
            await a.client.wait_begun(begun + 1)
            await a.running.kill()
            self._say("engine A is killed in the middle of a request")
            await self._ask("engine A was killed", "B", b, self._whole)
        await self._check_nothing_is_held()

    async def _kill_service(self, service: Running, a: Client) -> None:
        await self._ask("engine A is back", "A", a, self._whole)
        await a.wait_settled()
        await service.kill()
        self._say("the service is killed")
        await a.wait_store(there=False)
        await self._ask("the service was killed", "A", a, 0)

    async def _start_service(self, a: Client, b: Client) -> None:
        async with run_service(self._folder, LIMIT):
            self._say("the service is started again, and is empty")
            await a.wait_store(there=True)
            await b.wait_store(there=True)
            await self._ask("the service is back, empty", "A", a, 0)
            await a.wait_settled()
            await self._ask("from the new service", "B", b, self._whole)

    # --- what is checked ------------------------------------------------------------------------

    async def _ask(self, what: str, name: str, client: Client, loaded: int) -> None:
        self._note(what, name, loaded, [await client.ask(self._prompt, COUNT)])

    def _note(self, what: str, name: str, loaded: int, replies: list[Reply]) -> None:
        """Write a row, and what is wrong with it."""
        if self._expected is None:
            self._expected = replies[0].logits
        expected = self._expected.tobytes()
        equal = all(reply.logits.tobytes() == expected for reply in replies)
        first = median(reply.first_seconds for reply in replies)
        self._result.rows.append(Row(what, name, replies[0].loaded, first, len(replies), equal))
        self._say(f"{what}: first token after {first:.3f} s, at engine {name}")
        if not equal:
            self._result.problems.append(f"{what}: the logits differ")
        if wrong := {reply.loaded for reply in replies} - {loaded}:
            problem = f"{what}: {wrong} tokens came from the store, not {loaded}"
            self._result.problems.append(problem)

    async def _check_nothing_is_held(self) -> None:
        """What the engine held that was killed is back; the other one holds things for moments."""
        held: Any = None
        async with kv.connect(self._folder / "kv.sock", timeout=10) as store:
            with anyio.move_on_after(BACK_SECONDS):
                while held != (0, 0):
                    await anyio.sleep(0.02)
                    values = await store.service_statistics() or {}
                    held = (values.get("leases"), values.get("reservations"))
        if held != (0, 0):
            self._result.problems.append(f"leases and reservations of a killed engine: {held}")

    @property
    def _beats(self) -> Beats:
        assert self._result.beats is not None  # it is made before anything is killed
        return self._result.beats


@dataclass(frozen=True, slots=True)
class _Engine:
    running: Running
    client: Client


async def run_scenario(folder: Path, result: Result, say: Callable[[str], None]) -> None:
    """Run it; see `Scenario`."""
    await Scenario(folder, result, say).run()
    if result.beats is not None:
        result.problems += result.beats.problems


def text(length: int, title: str) -> str:
    """Return a text of so many bytes, no part of which is like another."""
    lines = (f"{title}, sentence {number}: {number * number % 997}.\n" for number in range(length))
    return "".join(lines)[:length]


async def _ask_in_vain(client: Client, prompt: str) -> None:
    with suppress(httpx.HTTPError):  # it will be killed
        await client.ask(prompt, MANY)


def _device(stats: dict[str, Any]) -> str:
    return f"{stats['device']} ({stats['arch']})"
