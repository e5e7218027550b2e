"""Fixtures of the tests for stale kernels."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import pytest

import ajit
from ajit._compile.toolchains.toolchains import Toolchains
from ajit.errors import CompilerNotFound
from tests.compile.support import settings
from tests.stale.world import KERNEL, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


# Of one file: tests of other rooms look whether a runtime's threads and workers are gone.
@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose workers run already. Its cache is that of all tests of a file."""
    server = Server(tmp_path_factory.mktemp("cache"))
    server.check(ajit.Spec(KERNEL, "k", defines={"V": 0}, arch="sm_90a", compiler="nvrtc"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def missing() -> dict[str, str]:
    """Why a compiler cannot be tested here."""
    found, toolchains = {}, Toolchains(settings())
    for kind in ("nvrtc", "nvcc", "host"):
        try:
            toolchains.find(kind)  # type: ignore[arg-type]
        except CompilerNotFound as exc:
            found[kind] = str(exc)
    return found


# nvcc takes ten times as long as the others.
@pytest.fixture(params=["nvrtc", pytest.param("nvcc", marks=pytest.mark.slow), "host"])
def compiler(request: pytest.FixtureRequest, missing: dict[str, str]) -> str:
    """Each kind of compiler that is here."""
    if why := missing.get(request.param):
        pytest.skip(why)
    kind: str = request.param
    return kind


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """The user's include directory."""
    made = tmp_path / "user"
    made.mkdir()
    return made


@pytest.fixture
def asking(compiler: str, user: Path, request: pytest.FixtureRequest) -> Callable[..., ajit.Spec]:
    """Make a spec of a kernel that stores ``V``, behind a text that has to define it."""
    # The cache is shared: no other test's kernel may be the answer.
    own = f"\n// {request.node.nodeid}"

    def make(text: str, **fields: object) -> ajit.Spec:
        arch = platform.machine() if compiler == "host" else "sm_90a"
        given = {"arch": arch, "compiler": compiler, "include_dirs": [user], "params": "int* x"}
        return ajit.Spec(f"{text}{own}{KERNEL}", "k", **{**given, **fields})

    return make
