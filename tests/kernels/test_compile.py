"""Every kernel of the corpus compiles for three GPU architectures, with both of NVIDIA's compilers.

No device is needed. Slow, because NVCC takes half a second a kernel and CUB's headers two; the
kernels of one compiler and architecture share a runtime, which compiles as many at once as there
are CPUs.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import anyio
import pytest

import ajit
from ajit._compile.toolchains.toolchains import Toolchains
from ajit.errors import CompilerNotFound
from ajit.settings import Settings
from tests.kernels.corpus import CASES

if TYPE_CHECKING:
    from pathlib import Path

    from ajit._core.job import CompilerName
    from tests.kernels.corpus import Case

EM_CUDA = 190
"""The machine of a cubin in its ELF header."""


@pytest.fixture(scope="session", params=["nvrtc", "nvcc"])
def compiler(request: pytest.FixtureRequest) -> str:
    """Each of NVIDIA's compilers, where ajit finds it: on PATH, in a toolkit or in a wheel."""
    name: CompilerName = request.param
    try:
        Toolchains(Settings()).find(name)
    except CompilerNotFound as exc:
        pytest.skip(str(exc))  # says where it was sought and what to install
    return name


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100"])
async def test_the_corpus_compiles(compiler: str, arch: str, corpus_cache: Path) -> None:
    """Each kernel becomes a cubin in which its entry point has a symbol."""
    found: dict[str, ajit.Artifact | ajit.AjitError] = {}

    async def compile_one(case: Case) -> None:
        try:
            found[case.name] = await runtime.compile(case.spec(compiler=compiler), arch=arch)
        except ajit.AjitError as exc:
            found[case.name] = exc

    async with (
        ajit.open_runtime(device="none", cache_dir=corpus_cache) as runtime,
        anyio.create_task_group() as tasks,
    ):
        for case in CASES:
            tasks.start_soon(compile_one, case)

    assert {} == {name: str(it) for name, it in found.items() if not isinstance(it, ajit.Artifact)}
    for case in CASES:
        artifact = found[case.name]
        assert ("cubin", arch, compiler) == (artifact.kind, artifact.arch, artifact.compiler)
        assert EM_CUDA == _elf_machine(artifact.data)
        assert artifact.lowered[case.entry].encode() in artifact.data


def _elf_machine(image: bytes) -> int:
    assert image.startswith(b"\x7fELF")
    machine: int = struct.unpack_from("<H", image, 18)[0]
    return machine
