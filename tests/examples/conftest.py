"""What the tests of an example share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kv_engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One kernel cache, so that all files and loops compile each kernel once."""
    return tmp_path_factory.mktemp("kv_engine") / "cache"
