"""The pipeline on the device: RMSNorm, matrix product, bias and GELU, softmax.

The first request for a pair of widths and a dtype loads a model: its weights and its four kernels,
all at once. Every later one finds them in a dictionary, submits six pieces of device work without
waiting in between, and awaits the answer.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import numpy as np

import ajit
from examples.model_server.kernels import EPSILON, THREADS, TILE, pipeline_specs
from examples.model_server.model import Array, Weights

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["MAX_MODELS", "Pipeline", "TooManyModels"]

MAX_MODELS = 64
"""Models that one worker keeps on the device. Arbitrary; a client must not be able to fill it."""

Widths: TypeAlias = tuple[int, int, str]
"""Hidden width, features and dtype: what a model is specialised by."""


class TooManyModels(RuntimeError):
    """This worker has all the models that it may have. Nothing was compiled or launched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """One model on the device: weights and loaded kernels."""

    norm: ajit.DeviceBuffer
    projection: ajit.DeviceBuffer
    bias: ajit.DeviceBuffer
    rms_norm: ajit.Kernel
    matmul: ajit.Kernel
    bias_gelu: ajit.Kernel
    softmax: ajit.Kernel


class Pipeline:
    """Runs batches of tokens through models that it loads when they are asked for.

    It belongs to the event loop of its runtime. Cancelling a request leaves what it started: the
    kernel is compiled for the next one, and the device finishes its work and frees the buffers.
    """

    def __init__(self, runtime: ajit.Runtime) -> None:
        self._runtime = runtime
        self._device = runtime.device
        self._models: dict[Widths, _Model] = {}
        self._loading: defaultdict[Widths, anyio.Lock] = defaultdict(anyio.Lock)

    @property
    def device_name(self) -> str:
        """What the driver calls the device."""
        return str(self._device.name)

    async def infer(self, x: Array, features: int) -> Array:
        """Run one batch.

        Args:
            x: Tokens, [tokens, hidden], float32 or float16.
            features: Width of the result.

        Returns:
            The softmax over the features, [tokens, features], in the dtype of `x`.

        Raises:
            TooManyModels: It would need one model more than this worker keeps.
            AjitError: A kernel could not be compiled or loaded, or the device failed.
        """
        tokens, hidden = x.shape
        model = await self._model((hidden, features, x.dtype.name))
        answer = np.empty((tokens, features), x.dtype)
        device = self._device
        with (
            await device.upload(x) as x_on_device,
            await device.alloc(x.shape, x.dtype) as normal,
            await device.alloc(answer.shape, answer.dtype) as logits,
            await device.alloc(answer.shape, answer.dtype) as probabilities,
        ):
            rows, columns = -(-tokens // TILE), -(-features // TILE)
            # Device work runs in the order of submission, so nothing waits between the stages.
            launched = (
                model.rms_norm.launch(tokens, THREADS, normal, x_on_device, model.norm, EPSILON),
                model.matmul.launch(
                    (columns, rows), (TILE, TILE), logits, normal, model.projection, tokens
                ),
                model.bias_gelu.launch(
                    -(-answer.size // THREADS), THREADS, logits, model.bias, answer.size
                ),
                model.softmax.launch(tokens, THREADS, probabilities, logits),
            )
            await device.download(probabilities, answer)
            for ticket in launched:
                await ticket  # done by now; raises if the driver refused one of them
        return answer

    async def _model(self, widths: Widths) -> _Model:
        """Return the model, loading it if this is the first request for it."""
        if (model := self._models.get(widths)) is not None:
            return model
        if widths not in self._loading and len(self._loading) >= MAX_MODELS:
            raise TooManyModels(f"this worker has {MAX_MODELS} models already")
        async with self._loading[widths]:  # the second request waits here for the first
            if widths not in self._models:
                self._models[widths] = await self._load(widths)
        return self._models[widths]

    async def _load(self, widths: Widths) -> _Model:
        specs = pipeline_specs(*widths)
        weights = await anyio.to_thread.run_sync(Weights.seeded, *widths)
        device, runtime = self._device, self._runtime
        parts = await _all_of(
            norm=lambda: device.upload(weights.norm),
            projection=lambda: device.upload(weights.projection),
            bias=lambda: device.upload(weights.bias),
            rms_norm=lambda: runtime.kernel(specs.rms_norm),
            matmul=lambda: runtime.kernel(specs.matmul),
            bias_gelu=lambda: runtime.kernel(specs.bias_gelu),
            softmax=lambda: runtime.kernel(specs.softmax),
        )
        return _Model(**parts)


async def _all_of(**calls: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
    """Await everything at the same time, and return the results by name.

    Raises:
        AjitError: The first one, itself and not in an exception group; the others were cancelled.
    """
    results: dict[str, Any] = {}
    errors: list[ajit.AjitError] = []

    async def call(name: str, function: Callable[[], Awaitable[Any]]) -> None:
        try:
            results[name] = await function()
        except ajit.AjitError as exc:
            errors.append(exc)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for name, function in calls.items():
            tasks.start_soon(call, name, function)
    if errors:
        raise errors[0]
    return results
