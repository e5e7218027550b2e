"""The pytest plugin: fixtures, a marker and a watch for tests of programs that use ajit.

pytest loads it by itself where ajit is installed (``-p no:ajit`` switches it off). It imports
nothing of ajit until a test asks for something.

Fixtures:

- ``ajit_cache``: a temporary cache, which every runtime of the test and of its children uses.
- ``ajit_runtime``: an open runtime over it, on the CPU driver, in the event loop of the test.
- ``ajit_options``: the settings of that runtime, to be overridden.
- ``ajit_loop_watch``: tells where the test's event loop was blocked.

Marker: ``ajit_no_compile``, a test in which nothing may be compiled.

Ini options: ``ajit_cache`` (``test`` or ``session``), ``ajit_loops`` (event loops on which tests
with ``ajit_runtime`` run), ``ajit_blocked_loop_seconds`` (fail each async test that blocks longer).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    import ajit
    from ajit.testing.loop_watch import LoopWatch

__all__ = ["ajit_cache", "ajit_loop_watch", "ajit_options", "ajit_runtime"]

_BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the ini options."""
    parser.addini(
        "ajit_cache",
        "how long the cache of the fixture ajit_cache lives: test, or session",
        default="test",
    )
    parser.addini(
        "ajit_loops",
        "event loops on which tests with ajit_runtime run: asyncio, uvloop, trio; "
        "none: those of anyio_backend",
        type="args",
        default=[],
    )
    parser.addini(
        "ajit_blocked_loop_seconds",
        "fail each async test whose event loop does not answer for so long; 0: off",
        default="0",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and check the options."""
    config.addinivalue_line(
        "markers", "ajit_no_compile: nothing may be compiled in this test; its fixtures may"
    )
    if config.getini("ajit_cache") not in ("test", "session"):
        raise pytest.UsageError("ajit_cache must be test or session")
    unknown = set(config.getini("ajit_loops")) - set(_BACKENDS)
    if unknown:
        raise pytest.UsageError(f"ajit_loops takes {', '.join(_BACKENDS)}; got {sorted(unknown)}")
    _limit_seconds(config)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests with a runtime on each event loop that ``ajit_loops`` names."""
    loops = metafunc.config.getini("ajit_loops")
    if not loops or not {"ajit_runtime", "anyio_backend"} <= set(metafunc.fixturenames):
        return
    test = metafunc.definition
    if not any("anyio_backend" in mark.args[0] for mark in test.iter_markers("parametrize")):
        # As a mark: it takes the place of the parameters that the fixture itself has.
        backends = [_BACKENDS[name] for name in loops]
        test.add_marker(pytest.mark.parametrize("anyio_backend", backends, ids=loops))


@pytest.fixture(scope="session")
def _ajit_session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # one for all workers of pytest-xdist: each kernel compiles once
    return base / "ajit-cache"


@pytest.fixture
def ajit_cache(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A cache directory for this test, or with ``ajit_cache = session`` for all of them.

    ``AJIT_CACHE_DIR`` names it meanwhile, so that every runtime that the test or a child process
    of it opens uses it, unless it is told otherwise.
    """
    if request.config.getini("ajit_cache") == "session":
        path: Path = request.getfixturevalue("_ajit_session_cache")
    else:
        path = tmp_path_factory.mktemp("ajit") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AJIT_CACHE_DIR", str(path))
        yield path


@pytest.fixture
def ajit_options() -> dict[str, Any]:
    """Settings of ``ajit_runtime``; override this fixture to change them.

    The CPU driver, unless ``AJIT_DEVICE`` names another device: so the same tests run on a GPU.
    """
    return {"device": os.environ.get("AJIT_DEVICE") or "cpu"}


@pytest.fixture
async def ajit_runtime(
    request: pytest.FixtureRequest,
    anyio_backend: object,  # noqa: ARG001 - makes anyio's plugin run this, in the test's own loop
    ajit_cache: Path,
    ajit_options: dict[str, Any],
) -> AsyncIterator[ajit.Runtime]:
    """An open runtime in the event loop of the test, which is an async test of anyio's plugin."""
    if request.node.get_closest_marker("asyncio") is not None:
        pytest.fail(
            "ajit_runtime runs in the event loop of anyio's pytest plugin: mark this test with "
            "pytest.mark.anyio, or open a runtime with ajit.open_runtime in it",
            pytrace=False,
        )
    import ajit  # noqa: PLC0415 - not at pytest's start

    async with ajit.open_runtime(**{"cache_dir": ajit_cache, **ajit_options}) as runtime:
        yield runtime


@pytest.fixture
async def ajit_loop_watch(
    request: pytest.FixtureRequest,
    anyio_backend: object,  # noqa: ARG001 - as above
) -> AsyncIterator[LoopWatch]:
    """A watch over the event loop of the test; it fails the test that blocks it for too long.

    The limit is ``ajit_blocked_loop_seconds``, or 0.25 s.
    """
    from ajit.testing import loop_watch  # noqa: PLC0415 - not at pytest's start

    limit = _limit_seconds(request.config) or loop_watch.LIMIT_SECONDS
    with loop_watch.watch_loop(limit) as watch:
        request.node.stash[_WATCH] = watch
        yield watch


@pytest.fixture(autouse=True)
def _ajit_blocked_loop(request: pytest.FixtureRequest) -> None:
    if _limit_seconds(request.config) and "anyio_backend" in request.fixturenames:
        request.getfixturevalue("ajit_loop_watch")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Refuse compiles where a test is marked so, and tell where its loop was blocked."""
    marked = item.get_closest_marker("ajit_no_compile") is not None
    try:
        result = (yield from _without_compiles()) if marked else (yield)
    except BaseException:
        item.add_report_section("call", "event loop", _blocks_of(item))
        raise
    if blocks := _blocks_of(item):
        pytest.fail(blocks, pytrace=False)
    return result


def _blocks_of(item: pytest.Item) -> str:
    watch = item.stash.get(_WATCH, None)
    return "" if watch is None else "\n".join(map(str, watch.blocks))


def _without_compiles() -> Generator[None, object, object]:
    from ajit.testing import compiles  # noqa: PLC0415 - not at pytest's start

    with pytest.MonkeyPatch.context() as patch, compiles.no_compiles() as refused:
        patch.setenv("AJIT_MODE", "frozen")  # for child processes
        try:
            return (yield)
        finally:
            if refused:
                pytest.fail(compiles.told(refused), pytrace=False)


def _limit_seconds(config: pytest.Config) -> float:
    text = config.getini("ajit_blocked_loop_seconds")
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if limit < 0:
        raise pytest.UsageError(
            f"ajit_blocked_loop_seconds must be a number of seconds, got {text!r}"
        )
    return limit


_WATCH: pytest.StashKey[LoopWatch] = pytest.StashKey()
