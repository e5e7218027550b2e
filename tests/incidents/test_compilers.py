"""Public incidents with compilers: the cases that no layer has."""

from __future__ import annotations

import logging
import tempfile

import anyio
import pytest

import ajit
from tests.runtime.sources import ARCH, SAXPY_SOURCE

pytestmark = pytest.mark.anyio

KERNEL = """
#include "shared.cuh"
extern "C" __global__ void scale(float* x) { x[threadIdx.x] *= FACTOR; }
"""


async def test_precompiled_headers_of_concurrent_compiles_do_not_meet(
    options, tmp_path, monkeypatch
):
    """Each NVRTC job has a private directory for them, which is gone after it."""
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    artifacts = {}
    specs = [
        ajit.Spec(
            KERNEL,
            "scale",
            name=f"scale-{number}",
            compiler="nvrtc",
            arch="sm_90a",
            options=["--pch"],
            defines={"NUMBER": number},
            headers={"shared.cuh": f"#pragma once\n#define FACTOR {number}.5f\n"},
        )
        for number in range(4)
    ]

    async with (
        ajit.open_runtime(**{**options, "compile_slots": 4}) as runtime,
        anyio.create_task_group() as group,
    ):

        async def compile_one(number):
            artifacts[number] = await runtime.compile(specs[number])

        for number in range(4):
            group.start_soon(compile_one, number)

    assert sorted(artifacts) == [0, 1, 2, 3]
    assert all("creating precompiled header" in each.log for each in artifacts.values())
    assert all("--pch-dir=<job>" in each.command for each in artifacts.values())
    assert len({artifact.data for artifact in artifacts.values()}) == 4
    assert list(private.iterdir()) == []


@pytest.mark.parametrize(("kind", "arch"), [("host", ARCH), ("nvcc", "sm_90")])
async def test_switches_for_looking_change_neither_key_nor_build(
    options, tmp_path, monkeypatch, caplog, kind, arch
):
    """Verbose environment, debug logging, a listener: the same key, and the same bytes."""
    del options["host_compiler"]  # the system's: the bytes are its own
    spec = ajit.Spec(SAXPY_SOURCE, "saxpy", name="saxpy", compiler=kind)

    async def compiled(place, **more):
        settings = {**options, "cache_dir": str(tmp_path / place)}
        async with ajit.open_runtime(**settings, **more) as runtime:
            return await runtime.compile(spec, arch=arch)

    quiet = await compiled("quiet")
    for name in ("VERBOSE", "V", "DEBUG", "CUDA_LAUNCH_BLOCKING"):
        monkeypatch.setenv(name, "1")
    for name in ("CFLAGS", "CXXFLAGS", "NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS"):
        monkeypatch.setenv(name, "-O0 -G" if name.startswith("NVCC") else "-O0 -g")
    monkeypatch.setenv("AJIT_COMPILER_NICENESS", "3")
    caplog.set_level(logging.DEBUG)
    seen = []
    watched = await compiled("watched", subscribers=[seen.append])

    assert seen
    assert watched.key == quiet.key
    assert watched.data == quiet.data
    assert watched.command == quiet.command
