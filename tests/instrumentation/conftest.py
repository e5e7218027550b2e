"""The runtime's tests have what is needed: a compiler under control and a cache of one's own."""

from __future__ import annotations

from tests.runtime.conftest import (
    cache_dir,
    compiled_answers,
    compiler,
    options,
    with_device,
)

__all__ = ["cache_dir", "compiled_answers", "compiler", "options", "with_device"]
