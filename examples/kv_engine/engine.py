"""The engine: requests, their pages, and the store that all engines share."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import anyio
import anyio.to_thread

import ajit
from ajit import kv
from examples.kv_engine.blocks import Blocks, NoRoom
from examples.kv_engine.decoder import Decoder
from examples.kv_engine.kernels import sources_digest
from examples.kv_engine.loaded import STEP_TOKENS, load_model
from examples.kv_engine.prefix import PrefixCache
from examples.kv_engine.weights import Weights

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anyio.abc import TaskGroup

    from examples.kv_engine.decoder import Sequence
    from examples.kv_engine.model import Model
    from examples.kv_engine.weights import Array

__all__ = ["Answer", "Engine", "Use", "open_engine"]

logger = logging.getLogger(__name__)

Use: TypeAlias = Literal["layers", "whole", "off"]
"""How a request may use the store: layers are waited for one by one, or all at first; or not."""


@dataclass(slots=True)
class Answer:
    """What a request came to.

    Attributes:
        tokens: That were decoded.
        loaded: How many tokens of the prompt came from the store.
        first_seconds: Until the first token was there.
        seconds: Until the last one was.
    """

    tokens: list[int] = field(default_factory=list)
    loaded: int = 0
    first_seconds: float = 0.0
    seconds: float = 0.0


class Engine:
    """Answers requests, several at once. Get it with `open_engine`.

    Attributes:
        decoder: The model.
        blocks: Its pages.
        store: The client of the service.
        prefix: What it finds and keeps there.
        begun: How many requests have got their pages so far.
        finishing: Requests whose answer is there and whose pages are being saved, or still used.
    """

    def __init__(
        self, decoder: Decoder, store: kv.StoreClient, prefix: PrefixCache, tasks: TaskGroup
    ) -> None:
        self.decoder, self.store, self.prefix = decoder, store, prefix
        self.blocks = Blocks(decoder.loaded.pages)
        self._tasks = tasks
        self.begun = self.finishing = 0

    async def generate(
        self,
        prompt: list[int],
        count: int,
        tell: Callable[[int, Array], Awaitable[None]],
        *,
        use: Use = "layers",
    ) -> Answer:
        """Answer a prompt.

        Args:
            prompt: Its tokens, at least one.
            count: How many to decode, at least one: the likeliest each time.
            tell: Awaited with each token and its logits, [vocabulary], float32.
            use: How it may use the store.

        Raises:
            NoRoom: It is longer than a request may be. Nothing was done.
            AjitError: The device failed.

        Cancelling ends it after the step that the device is at. Its pages come back after that.
        """
        total, model = len(prompt) + count, self.decoder.loaded.model
        if total > model.positions:
            raise NoRoom(f"{total} tokens with the answer; a request may have {model.positions}")
        begun, answer = perf_counter(), Answer()
        blocks = await self.blocks.take(-(-total // model.page_tokens))
        self.begun += 1
        sequence: Sequence | None = None
        computed: list[int] = []
        try:
            sequence = await self.decoder.open_sequence(prompt, total, blocks)
            await self._answer(prompt, count, sequence, answer, use, begun, tell)
            # The last token was never fed: the pages have no keys and values of it.
            computed = [*prompt, *answer.tokens[:-1]] if use != "off" else []
        finally:
            self.finishing += 1
            self._tasks.start_soon(self._finish, sequence, blocks, computed)
        return answer

    async def _answer(
        self, prompt: list[int], count: int, sequence: Sequence, answer: Answer, use: Use,
        begun: float, tell: Callable[[int, Array], Awaitable[None]],
    ) -> None:  # fmt: skip
        answer.loaded = await self._prefill(prompt, sequence, use)
        while True:
            logits = await self.decoder.logits(sequence)
            token = int(logits.argmax())
            answer.tokens.append(token)
            answer.seconds = perf_counter() - begun
            answer.first_seconds = answer.first_seconds or answer.seconds
            await tell(token, logits)
            if len(answer.tokens) == count:
                return
            position = len(prompt) + len(answer.tokens) - 1
            for ticket in await self.decoder.decode(sequence, position, token):
                await ticket

    async def _prefill(self, prompt: list[int], sequence: Sequence, use: Use) -> int:
        """Load what there is, compute the rest; how many tokens were loaded."""
        found, gates = None, use == "layers"
        if use != "off":
            found = await self.prefix.load(prompt, sequence, gates=gates)
        if found is None:
            await self._compute(prompt, sequence, 0)
            return 0
        try:
            if use == "whole":
                await found.transfer
            await self._compute(prompt, sequence, found.tokens, found.transfer if gates else None)
            await found.transfer  # done; raises if it has failed
        except ajit.DeviceLost:
            raise
        except ajit.DeviceError as error:
            logger.warning("a load has failed, its tokens are computed: %s", error)
            await self._compute(prompt, sequence, 0)
            return 0
        return found.tokens

    async def _compute(
        self, prompt: list[int], sequence: Sequence, first: int, load: kv.Transfer | None = None
    ) -> None:
        for begin in range(first, len(prompt), STEP_TOKENS):
            rows = min(STEP_TOKENS, len(prompt) - begin)
            # Each step is waited for: so others get their turn, and cancelling takes effect.
            for ticket in await self.decoder.step(sequence, begin, rows, load=load):
                await ticket
            load = None

    async def _finish(
        self, sequence: Sequence | None, blocks: list[int], computed: list[int]
    ) -> None:
        """Save what was computed, and give the pages back when nothing uses them any more."""
        try:
            if sequence is not None and computed:
                await self.prefix.save(computed, sequence, self.decoder.stream)
        except ajit.AjitError as error:
            logger.warning("a prompt is not stored: %s", error)
        finally:
            if sequence is None or await self.decoder.wait_unused(sequence):
                self.blocks.give_back(blocks)
            self.finishing -= 1

    def statistics(self) -> dict[str, Any]:
        """What it has and has done, ready for JSON."""
        store = self.store.statistics()
        return {
            "device": self.decoder.loaded.device.name,
            "arch": self.decoder.loaded.device.arch,
            "pages": self.blocks.count,
            "free_pages": self.blocks.free,
            "begun": self.begun,
            "finishing": self.finishing,
            "chunks": dict(self.prefix.counts),
            "connected": store.connected,
            "connections": store.connections,
            "held": store.held,
        }


@asynccontextmanager
async def open_engine(
    runtime: ajit.Runtime,
    model: Model,
    *,
    pages: int,
    socket: str | os.PathLike[str] | None = None,
) -> AsyncIterator[Engine]:
    """Load a model, and connect to the service; it need not be there.

    Args:
        runtime: With a device.
        model: What to load.
        pages: Of its cache on the device.
        socket: Of the service; None: that of `ajit kv serve`.

    Leaving the block waits until what was answered is stored, and all pages are back.

    Raises:
        AjitError: The model cannot be loaded, or the socket's folder is not safe.
    """
    weights = await anyio.to_thread.run_sync(Weights.seeded, model)
    loaded = await load_model(runtime, model, weights, pages)
    decoder = Decoder(loaded, await runtime.device.create_stream())
    namespace = model.namespace(weights.digest, f"{runtime.device.arch} {sources_digest()}")
    async with (
        kv.connect(socket) as store,
        kv.open_pages(runtime, model.layout, loaded.cache, store=store) as opened,
        anyio.create_task_group() as tasks,
    ):
        yield Engine(decoder, store, PrefixCache(store, opened, namespace), tasks)
