"""The live page: over ASGI, in real processes, and in a real browser."""

from __future__ import annotations

from tests.runtime.conftest import (
    cache_dir,
    compiled_answers,
    compiler,
    options,
    with_device,
)

__all__ = ["cache_dir", "compiled_answers", "compiler", "options", "with_device"]
