"""One kernel cache for the whole corpus, and a probe for a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

import ajit

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def corpus_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that the corpus's tests share: each kernel is compiled once for three loops."""
    return tmp_path_factory.mktemp("corpus") / "cache"


@pytest.fixture(scope="session")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where there is no GPU, and for no other reason."""

    async def probe() -> None:
        cache = tmp_path_factory.mktemp("probe") / "cache"
        async with ajit.open_runtime(device="cuda", cache_dir=cache):
            pass

    try:
        anyio.run(probe)
    except ajit.NoDevice as exc:
        pytest.skip(str(exc))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU driver, and a GPU where there is one."""
    name: str = request.param
    if name == "cuda":
        request.getfixturevalue("gpu")
    return name
