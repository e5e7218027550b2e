"""The steps of the model: what is launched for some tokens of a sequence, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import numpy as np

import ajit
from examples.kv_engine.kernels import COLUMNS, ROWS

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ajit import kv
    from examples.kv_engine.loaded import LoadedLayer, LoadedModel
    from examples.kv_engine.weights import Array

__all__ = ["Decoder", "Sequence"]

THREADS = 64
"""Threads of a block. Arbitrary."""


@dataclass(slots=True)
class Sequence:
    """A request on the device.

    Attributes:
        blocks: Its pages, enough for the answer as well.
        tokens: Its tokens, int32.
        table: `blocks`, int32.
        logits: Of its last token, float32.
        transfers: Loads into its pages, and saves out of them.
    """

    blocks: list[int]
    tokens: ajit.DeviceBuffer
    table: ajit.DeviceBuffer
    logits: ajit.DeviceBuffer
    transfers: list[kv.Transfer] = field(default_factory=list)


class Decoder:
    """Submits the steps of sequences. Belongs to one event loop.

    All steps run in one stream, so they may share their scratch memory.

    Attributes:
        loaded: The model on the device.
        stream: In which all is computed.
    """

    def __init__(self, loaded: LoadedModel, stream: ajit.Stream) -> None:
        self.loaded, self.stream = loaded, stream
        self._device, self._model, self._scratch = loaded.device, loaded.model, loaded.scratch
        self._turn = anyio.Lock()

    async def open_sequence(self, tokens: list[int], total: int, blocks: list[int]) -> Sequence:
        """Make what a sequence needs on the device.

        Args:
            tokens: That are known.
            total: How many there will be.
            blocks: Pages for all of them.
        """
        device = self._device
        known = np.zeros(total, np.int32)
        known[: len(tokens)] = tokens
        return Sequence(
            blocks,
            await device.upload(known),
            await device.upload(np.array(blocks, np.int32)),
            await device.alloc(self._model.vocabulary, "float32"),
        )

    async def step(
        self, sequence: Sequence, first: int, rows: int, *, load: kv.Transfer | None = None
    ) -> list[ajit.Ticket[None]]:
        """Submit the layers for some tokens of a sequence, and the logits of the last one.

        Args:
            sequence: Whose keys and values are in its pages, before `first`.
            first: Position of the first token.
            rows: How many, at most `STEP_TOKENS`.
            load: What the attention of each layer waits for, on the device: a load with gates.

        Returns:
            The tickets of all of it: any of them may say that the driver has refused its part.

        Cancelling may leave a part of it submitted.
        """
        device, stream = self._device, self.stream
        tickets: list[ajit.Ticket[None]] = []
        async with self._turn:  # the scratch memory is this step's until all is submitted
            batch = device.batch(stream=stream)
            self._add_embedding(batch, sequence, first, rows)
            for index, layer in enumerate(self.loaded.layers):
                self._add_projections(batch, layer, sequence, first, rows)
                if load is not None:
                    tickets.append(await device.submit(batch.submit))
                    tickets.append(await device.submit(load.gate, stream, index))
                self._add_attention(batch, layer, sequence, first, rows)
                self._add_mlp(batch, layer, rows)
            self._add_logits(batch, sequence, rows)
            tickets.append(await device.submit(batch.submit))
        return tickets

    async def decode(
        self, sequence: Sequence, position: int, token: int
    ) -> list[ajit.Ticket[None]]:
        """Submit a token that was decoded, and the step that reads it; returns what `step` does."""
        target, source = sequence.tokens[position : position + 1], np.array([token], np.int32)
        copy = self._device.copy
        copied = await self._device.submit(copy, target, source, stream=self.stream)
        return [copied, *await self.step(sequence, position, 1)]

    async def logits(self, sequence: Sequence) -> Array:
        """Wait for the logits of the last step, [vocabulary], float32."""
        return np.asarray(await self._device.download(sequence.logits, stream=self.stream))

    async def wait_unused(self, sequence: Sequence) -> bool:
        """Wait until the device does nothing more with the pages of a sequence; whether that is so.

        It is not, where work has run past its time and the device may be at it still.
        """
        over = await _is_over(self.stream.synchronize())
        for transfer in sequence.transfers:
            over &= await _is_over(transfer)
        return over

    # --- parts of a step ------------------------------------------------------------------------

    def _add_embedding(self, batch: ajit.Batch, sequence: Sequence, first: int, rows: int) -> None:
        width, loaded = self._model.hidden, self.loaded
        batch.add_launch(
            loaded.kernels.embed, ajit.cover(rows * width, THREADS), THREADS, self._scratch.x,
            loaded.embedding, sequence.tokens[first : first + rows], rows, width,
        )  # fmt: skip

    def _add_projections(
        self, batch: ajit.Batch, layer: LoadedLayer, sequence: Sequence, first: int, rows: int
    ) -> None:
        model, scratch, loaded = self._model, self._scratch, self.loaded
        self._add_norm(batch, scratch.normal, scratch.x, layer.norm, rows)
        self._add_product(batch, scratch.qkv, scratch.normal, layer.qkv, rows)
        pairs = rows * model.qkv_heads * model.dim // 2
        batch.add_launch(
            loaded.kernels.rotate_and_store, ajit.cover(pairs, THREADS), THREADS, scratch.qkv,
            layer.cache, sequence.table, loaded.turns, rows, first, loaded.pages,
        )  # fmt: skip

    def _add_attention(
        self, batch: ajit.Batch, layer: LoadedLayer, sequence: Sequence, first: int, rows: int
    ) -> None:
        model, scratch = self._model, self._scratch
        grid = (ajit.cover(rows, THREADS), model.heads)
        batch.add_launch(
            self.loaded.kernels.attention, grid, THREADS, scratch.mixed, scratch.qkv, layer.cache,
            sequence.table, rows, first, self.loaded.pages, model.dim**-0.5,
        )  # fmt: skip
        self._add_product(batch, scratch.x, scratch.mixed, layer.out, rows, add=True)

    def _add_mlp(self, batch: ajit.Batch, layer: LoadedLayer, rows: int) -> None:
        scratch, inner = self._scratch, self._model.inner
        self._add_norm(batch, scratch.normal, scratch.x, layer.mlp_norm, rows)
        self._add_product(batch, scratch.gate_up, scratch.normal, layer.gate_up, rows)
        batch.add_launch(
            self.loaded.kernels.silu_gate, ajit.cover(rows * inner, THREADS), THREADS,
            scratch.inner, scratch.gate_up, rows, inner,
        )  # fmt: skip
        self._add_product(batch, scratch.x, scratch.inner, layer.down, rows, add=True)

    def _add_logits(self, batch: ajit.Batch, sequence: Sequence, rows: int) -> None:
        last, row = self._scratch.x[rows - 1 : rows], self._scratch.row
        self._add_norm(batch, row, last, self.loaded.norm, 1)
        self._add_product(batch, sequence.logits, row, self.loaded.head, 1)

    def _add_norm(self, batch: ajit.Batch, y: object, x: object, weight: object, rows: int) -> None:
        kernel, model = self.loaded.kernels.rms_norm, self._model
        grid = ajit.cover(rows, THREADS)
        batch.add_launch(
            kernel, grid, THREADS, y, x, weight, rows, model.hidden, model.epsilon
        )  # fmt: skip

    def _add_product(
        self, batch: ajit.Batch, out: object, x: object, weight: ajit.DeviceBuffer, rows: int,
        *, add: bool = False,
    ) -> None:  # fmt: skip
        kernels = self.loaded.kernels
        inner, columns = weight.shape
        grid = (ajit.cover(columns // COLUMNS, THREADS), ajit.cover(rows, ROWS))
        batch.add_launch(
            kernels.matmul_add if add else kernels.matmul, grid, THREADS, out, x, weight, rows,
            inner, columns,
        )  # fmt: skip


async def _is_over(work: Awaitable[object]) -> bool:
    """Wait for work of the device; whether it is over, done or failed. Not to be cancelled."""
    with anyio.CancelScope(shield=True):
        try:
            await work
        except ajit.TicketTimeout:
            return False
        except ajit.AjitError:
            pass  # that is another one's business: it does not go on
    return True
