"""The kernels: their specs, and how they are loaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ajit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from examples.kv_engine.model import Model

__all__ = ["COLUMNS", "ROWS", "Kernels", "load_kernels", "sources_digest", "specs_of"]

ROWS, COLUMNS = 4, 8
"""What a thread of a matrix product computes."""

_FOLDER = Path(__file__).resolve().parent / "kernels"
# Read once, when the engine starts: no request waits for a file.
_SOURCES = {path.stem: path.read_text() for path in sorted(_FOLDER.glob("*.cu"))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """The loaded kernels of a model, by the names of their entry points."""

    embed: ajit.Kernel
    rms_norm: ajit.Kernel
    silu_gate: ajit.Kernel
    matmul: ajit.Kernel
    matmul_add: ajit.Kernel
    rotate_and_store: ajit.Kernel
    attention: ajit.Kernel


def specs_of(model: Model) -> list[ajit.Spec]:
    """Return the specs of a model; each source is one, whatever entry points it has."""
    heads = {
        "DIM": model.dim,
        "HEADS": model.heads,
        "KV_HEADS": model.kv_heads,
        "PAGE_TOKENS": model.page_tokens,
    }
    tile = {"ROWS": ROWS, "COLUMNS": COLUMNS}
    return [
        ajit.Spec(_SOURCES["pointwise"], ["embed", "rms_norm", "silu_gate"], name="pointwise"),
        ajit.Spec(_SOURCES["matmul"], ["matmul", "matmul_add"], name="matmul", defines=tile),
        ajit.Spec(_SOURCES["rotary"], "rotate_and_store", name="rotary", defines=heads),
        ajit.Spec(_SOURCES["attention"], "attention", name="attention", defines=heads),
    ]


def sources_digest() -> str:
    """Stands for the sources of all kernels: others may round in another way."""
    return hashlib.blake2b("\0".join(_SOURCES.values()).encode(), digest_size=16).hexdigest()


async def load_kernels(runtime: ajit.Runtime, model: Model) -> Kernels:
    """Load them, or compile them first.

    Raises:
        AjitError: The first one that a kernel could not be had for, in no exception group.
    """
    specs = specs_of(model)
    report = await runtime.warmup(specs)
    if report.failures:
        raise report.failures[0].error
    loaded: dict[str, ajit.Kernel] = {}
    for spec, entry in _entries(specs):
        loaded[entry] = await runtime.kernel(spec, entry=entry)
    return Kernels(**loaded)


def _entries(specs: list[ajit.Spec]) -> Iterator[tuple[ajit.Spec, str]]:
    return ((spec, entry) for spec in specs for entry in spec.entry_names)
