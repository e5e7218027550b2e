"""A pool under a test's control: compilers that end when they are told to."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import anyio

from ajit._compile.pool.pool import CompilePool
from ajit._compile.toolchains.toolchains import Toolchains
from tests.compile.support import fake_compiler, settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ajit._compile.pool.admission import Gate

LIMIT_SECONDS = 60.0


class GatedCompiler:
    """A fake compiler that says it has begun, and ends when the gate is opened."""

    def __init__(self, folder: Path) -> None:
        self._open = folder / "open"
        self._begun = folder / "begun"
        self.compiler = fake_compiler(
            folder,
            f'echo "$$" >> "{self._begun}"\n'
            f'while [ ! -e "{self._open}" ]; do sleep 0.01; done; cp "$whole" "$out"',
        )

    def open(self) -> None:
        """Let every compiler end, now and later."""
        self._open.touch()

    def pids(self) -> list[int]:
        """Process ids of the compilers that have begun, in order."""
        return [int(pid) for pid in self._begun.read_text().split()] if self._begun.exists() else []


@contextlib.asynccontextmanager
async def opened(admission: Gate | None = None, **arguments: Any) -> AsyncIterator[CompilePool]:
    """A pool, closed at the end."""
    given = settings(**{"compile_slots": 2, **arguments})
    pool = CompilePool(given, Toolchains(given), admission=admission)
    try:
        yield pool
    finally:
        await pool.aclose()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait, without blocking the loop, until a condition holds."""
    with anyio.fail_after(LIMIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - processes and threads set no event of anyio's
            await anyio.sleep(0.005)


def ignore(_phase: str, _cpu_seconds: float) -> None:
    """A beat without a listener."""
