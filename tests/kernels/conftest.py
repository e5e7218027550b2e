"""One kernel cache for the whole corpus, so that each kernel is compiled once on three loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def corpus_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the cache that the corpus's tests share."""
    return tmp_path_factory.mktemp("corpus") / "cache"
