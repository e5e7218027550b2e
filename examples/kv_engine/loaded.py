"""What an engine has on its device: kernels, weights, pages, and memory to compute in."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import ajit
from examples.kv_engine.kernels import Kernels, load_kernels
from examples.kv_engine.weights import LayerWeights, turns_of

if TYPE_CHECKING:
    from examples.kv_engine.model import Model
    from examples.kv_engine.weights import Weights

__all__ = ["STEP_TOKENS", "LoadedLayer", "LoadedModel", "Scratch", "load_model"]

STEP_TOKENS = 256
"""Most tokens of a step. Between steps others get to the device, and a request can be cancelled."""


@dataclass(frozen=True, slots=True)
class LoadedLayer:
    """The weights of a layer, as `LayerWeights` has them, and its pages."""

    norm: ajit.DeviceBuffer
    qkv: ajit.DeviceBuffer
    out: ajit.DeviceBuffer
    mlp_norm: ajit.DeviceBuffer
    gate_up: ajit.DeviceBuffer
    down: ajit.DeviceBuffer
    cache: ajit.DeviceBuffer


@dataclass(frozen=True, slots=True)
class Scratch:
    """What a step computes in, with a row for each of its tokens; `row` is for the last one."""

    x: ajit.DeviceBuffer
    normal: ajit.DeviceBuffer
    qkv: ajit.DeviceBuffer
    mixed: ajit.DeviceBuffer
    gate_up: ajit.DeviceBuffer
    inner: ajit.DeviceBuffer
    row: ajit.DeviceBuffer


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model on a device.

    Attributes:
        device: The device.
        model: Its sizes.
        pages: How many its cache has.
        kernels: Loaded.
        layers: Weights and pages, layer by layer.
        embedding: As `Weights` has it.
        norm: The same.
        head: The same.
        turns: Of the rotary embedding.
        scratch: Memory that all steps share.
    """

    device: ajit.Device
    model: Model
    pages: int
    kernels: Kernels
    layers: tuple[LoadedLayer, ...]
    embedding: ajit.DeviceBuffer
    norm: ajit.DeviceBuffer
    head: ajit.DeviceBuffer
    turns: ajit.DeviceBuffer
    scratch: Scratch

    @property
    def cache(self) -> list[ajit.DeviceBuffer]:
        """The tensors of the cache, as the model's layout has them."""
        return [layer.cache for layer in self.layers]


async def load_model(
    runtime: ajit.Runtime, model: Model, weights: Weights, pages: int
) -> LoadedModel:
    """Put a model onto the device, with pages for its cache.

    Raises:
        AjitError: A kernel could not be had, or the device has too little memory.
    """
    upload = runtime.device.upload
    return LoadedModel(
        device=runtime.device,
        model=model,
        pages=pages,
        kernels=await load_kernels(runtime, model),
        layers=tuple([
            await _load_layer(runtime.device, model, layer, pages) for layer in weights.layers
        ]),
        embedding=await upload(weights.embedding),
        norm=await upload(weights.norm),
        head=await upload(weights.head),
        turns=await upload(turns_of(model)),
        scratch=await _make_scratch(runtime.device, model),
    )  # fmt: skip


async def _load_layer(
    device: ajit.Device, model: Model, weights: LayerWeights, pages: int
) -> LoadedLayer:
    parts = {
        part.name: await device.upload(getattr(weights, part.name)) for part in fields(LayerWeights)
    }
    return LoadedLayer(**parts, cache=await device.alloc(model.layout.shape(pages), "float32"))


async def _make_scratch(device: ajit.Device, model: Model) -> Scratch:
    widths = {
        "x": model.hidden,
        "normal": model.hidden,
        "qkv": model.qkv_heads * model.dim,
        "mixed": model.heads * model.dim,
        "gate_up": 2 * model.inner,
        "inner": model.inner,
    }
    rows = {
        name: await device.alloc((STEP_TOKENS, width), "float32") for name, width in widths.items()
    }
    return Scratch(**rows, row=await device.alloc(model.hidden, "float32"))
