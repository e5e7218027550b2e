"""Triton's compiler from its first IR on, as a build calls it: in a process that can be killed.

What a kernel is made of, its Python function, does not leave the caller. Its IR does, as text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["FUNCTION", "compile_ir"]

FUNCTION = f"{__name__}:compile_ir"
SOURCE = "source"


def compile_ir(
    *,
    text: str,
    name: str,
    first: str,
    language: str,
    target: tuple[str, Any, int],
    options: dict[str, Any],
    metadata: dict[str, Any],
) -> None:
    """Write the files of a kernel's group into the working directory, as Triton's compile does.

    Args:
        text: The module that the function was made into.
        name: Of the kernel; files are called by it.
        first: The stage that takes the module.
        language: Of the module: ``TRITON`` or ``GLUON``.
        target: Backend, arch and size of a warp.
        options: The backend's, parsed.
        metadata: What else the metadata begin with.
    """
    from triton._C.libtriton import ir  # noqa: PLC0415  # a peer
    from triton.backends.compiler import GPUTarget, Language  # noqa: PLC0415  # likewise
    from triton.compiler.compiler import make_backend  # noqa: PLC0415  # likewise

    gpu = GPUTarget(*target)
    backend = make_backend(gpu)
    parsed = backend.parse_options({key: _frozen(value) for key, value in options.items()})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    source = Path(f"{name}.{SOURCE}")
    source.write_text(text, encoding="utf-8")
    module = ir.parse_mlir_module(str(source), context)
    module.context = context
    facts = {"hash": metadata.pop("hash"), "target": gpu, **parsed.__dict__, **metadata}
    stages: dict[str, Any] = {}
    backend.add_stages(stages, parsed, Language[language])
    for stage in list(stages)[list(stages).index(first) :]:
        module = stages[stage](module, facts)
        data = module if isinstance(module, bytes) else str(module).encode()
        Path(f"{name}.{stage}").write_bytes(data)
    Path(f"{name}.json").write_text(json.dumps(facts, default=vars), encoding="utf-8")


def _frozen(value: Any) -> Any:
    """Lists are what tuples have become on the way."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
