"""Two mounts of one network file system, and processes with a cache on it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from ajit.testing import FakeCompiler
from tests.network.weed import Weed, why_impossible
from tests.runtime.processes import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_SECONDS = 8.0


@pytest.fixture
def weed(tmp_path: Path) -> Iterator[Weed]:
    """One server and two mounts, of which each shows what the other one has."""
    if reason := why_impossible():
        pytest.skip(reason)
    folder = tmp_path / "weed"
    folder.mkdir()
    with Weed(folder) as weed:
        yield weed


@pytest.fixture
def compiler(tmp_path: Path) -> FakeCompiler:
    """A host compiler that waits and counts as the test says."""
    answers = tmp_path / "answers"
    answers.mkdir()
    return FakeCompiler(tmp_path / "compiler", answers)


@pytest.fixture
def start(weed: Weed, compiler: FakeCompiler) -> Iterator[Callable[..., list[Peer]]]:
    """Start processes whose cache is on one of the mounts; all have ended when the test has."""
    with contextlib.ExitStack() as stack:

        def start(count: int, mount: int, **changes: Any) -> list[Peer]:
            settings = {
                "cache_dir": str(weed.places[mount] / "cache"),
                "host_compiler": str(compiler.path),
                "device": "none",
                "compile_slots": 2,
                "node_compile_slots": 8,
                "patience_seconds": PATIENCE_SECONDS,
                **changes,
            }
            backends = ("asyncio", "trio")
            return [stack.enter_context(Peer(settings, backends[n % 2])) for n in range(count)]

        yield start
