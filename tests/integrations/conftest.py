"""Shared by the adapters' tests: an open runtime without a device, over a cache of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import ajit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Arguments of a runtime; its patience is longer than any test may take."""
    return {
        "cache_dir": str(tmp_path / "cache"),
        "views_dir": str(tmp_path / "views"),
        "device": "none",
        "patience_seconds": 300.0,
    }


@pytest.fixture
def rt(options: dict[str, Any]) -> Iterator[ajit.BlockingRuntime]:
    """An open runtime whose calls block."""
    with ajit.open_blocking_runtime(**options) as runtime:
        yield runtime
