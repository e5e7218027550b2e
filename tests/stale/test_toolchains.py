"""Headers of CUDA, of CCCL and of ajit that change under a running server."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ajit._compile.toolchains import cuda_headers, discovery
from ajit._compile.toolchains.toolchains import Toolchains
from tests.compile.support import settings
from tests.stale.world import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import ajit

HEADERS = {
    "nvrtc": [("include", "cuda_fp16.h"), ("include/cccl", "cub/version.cuh")],
    # A toolkit's nvcc prefers its own headers to those that it is given.
    "nvcc": [("include", "ajit_only.h"), ("include/cccl", "cub/ajit_only.cuh")],
    "host": [(".", "cuda_cxx/bits.hpp"), ("cuda_cxx/include", "cuda_fp16.h")],
}
"""An include directory of the toolchain, and a header in it."""


@pytest.fixture
def toolkit(compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation of the headers that a compiler is given, which may be written to."""
    root = tmp_path / "toolkit"
    if compiler == "host":
        shutil.copytree(Path(discovery.NATIVE_DIR) / "cuda_cxx", root / "cuda_cxx")
        monkeypatch.setattr(discovery, "NATIVE_DIR", str(root))
        return root
    given = Toolchains(settings()).find(compiler).include_dirs  # type: ignore[arg-type]
    if not any(path.endswith("cccl") for path in given):
        pytest.skip("no CUDA headers with CCCL in a directory of its own")
    shutil.copytree(given[0], root / "include", copy_function=os.symlink)
    monkeypatch.setattr(cuda_headers, "cuda_roots", lambda: [str(root)])
    return root


@pytest.fixture
def own_server(toolkit: Path, tmp_path: Path) -> Iterator[Server]:
    """A server that finds these headers."""
    assert toolkit.exists()
    server = Server(tmp_path / "cache")
    yield server
    server.close()


@pytest.mark.parametrize("which", [0, 1], ids=["runtime", "library"])
def test_a_header_of_the_toolchain_is_patched_and_upgraded_under_a_running_server(
    own_server: Server,
    toolkit: Path,
    compiler: str,
    asking: Callable[..., ajit.Spec],
    which: int,
) -> None:
    """In place; then by a new directory with the old name; then it goes back."""
    folder, header = HEADERS[compiler][which]
    path = toolkit / folder / header
    original = path.read_text() if path.exists() else ""
    spec = asking(f"#include <{header}>\n#define V PATCHED")

    def patch(number: int) -> None:
        path.unlink(missing_ok=True)
        path.write_text(f"{original}\n#define PATCHED {number}\n")

    patch(1)
    first = own_server.check(spec)
    with path.open("r+") as file:
        file.write(f"{original}\n#define PATCHED 2\n")
    second = own_server.check(spec)
    older = path.parent.rename(path.parent.with_name("older"))
    shutil.copytree(older, path.parent, symlinks=True)
    patch(3)
    third = own_server.check(spec)
    patch(1)

    assert own_server.check(spec) == first
    assert len({first, second, third}) == 3
    assert first.code
