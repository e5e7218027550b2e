"""Fixtures of the launcher's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher.support import Build


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """A project and a launcher with an empty cache."""
    made = Build(tmp_path / "project", tmp_path / "cache")
    yield made
    made.close()


@pytest.fixture(params=["by its memo", pytest.param("by a look-up", marks=pytest.mark.slow)])
def both_ways(request: pytest.FixtureRequest, tmp_path: Path) -> Build:
    """The same; a hit is found in either of the two ways."""
    forgets = request.param == "by a look-up"
    return Build(tmp_path / "project", tmp_path / "cache", forgets=forgets)
