"""Fixtures of the compile layer's tests."""

from __future__ import annotations

import platform
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from ajit._compile.toolchains.toolchains import Toolchains
from ajit.errors import CompilerNotFound
from tests.compile.gates import GatedCompiler
from tests.compile.support import Bench, fake_compiler, job, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    """A slot whose worker is running, with NVRTC loaded, for all tests that leave it alive."""
    bench = Bench()
    bench.compile(job())
    yield bench
    bench.close()


@pytest.fixture
def own_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A slot of the test's own; indirect parameters are settings."""
    bench = Bench(**getattr(request, "param", {}))
    yield bench
    bench.close()


@pytest.fixture(scope="session")
def toolchains() -> Toolchains:
    """The toolchains of this machine."""
    return Toolchains(settings())


@pytest.fixture(scope="session")
def nvcc(toolchains: Toolchains) -> None:
    """Skip where there is no nvcc."""
    try:
        toolchains.find("nvcc")
    except CompilerNotFound as exc:
        pytest.skip(str(exc))


@pytest.fixture(params=["nvrtc", "nvcc", "host"])
def compiler(request: pytest.FixtureRequest) -> dict[str, str]:
    """Each kind of compiler, with an arch that it builds for: fields of a job."""
    if request.param == "nvcc":
        request.getfixturevalue("nvcc")
    arch = platform.machine() if request.param == "host" else "sm_90a"
    return {"compiler": request.param, "arch": arch}


@pytest.fixture
def gate(tmp_path: Path) -> GatedCompiler:
    """A fake host compiler under the test's control."""
    return GatedCompiler(tmp_path)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which jobs get their private folders."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def faking(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Make a bench whose host compiler misbehaves as told."""
    benches: list[Bench] = []

    def make(behaviour: str, **arguments: Any) -> Bench:
        bench = Bench(host_compiler=fake_compiler(tmp_path, behaviour), **arguments)
        benches.append(bench)
        return bench

    yield make
    for bench in benches:
        bench.close()
