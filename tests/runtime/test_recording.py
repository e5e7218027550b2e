"""What a runtime uses is written down, survives its processes, and is read together again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

import ajit
from ajit._core.spec_form import spec_of
from ajit._runtime.record_files import read_record
from ajit._runtime.recorder import note_use
from tests.runtime.processes import PROJECT
from tests.runtime.sources import ARCH, SAXPY, SYNTAX_ERROR, saxpy

pytestmark = [pytest.mark.anyio, pytest.mark.allow_blocking("the tests read the record")]


@pytest.fixture
def path(tmp_path):
    """Where the record is; not there yet."""
    return tmp_path / "used.ajit"


def uses(path):
    """The uses of a record by their build's VARIANT, and 0 for none."""
    record = read_record(path)
    found = {}
    for use in record.finished():
        defines = dict(spec_of(use.build, record.texts).defines)
        found[int(defines.get("VARIANT") or 0)] = use
    return found


async def until_written(path, count):
    """Wait until a record has so many kernels."""
    with anyio.fail_after(60):
        while True:
            if path.exists() and len(read_record(path).uses) >= count:
                return
            await anyio.sleep(0.005)


async def test_what_is_used_is_recorded_and_what_is_only_warmed_is_not(with_device, path):
    """Kernels, modules and artifacts that were asked for, each once, with their counts."""
    async with ajit.open_runtime(**with_device, record=path) as rt:
        await rt.warmup([SAXPY, saxpy(9)])
        for _ in range(5):
            await rt.kernel(SAXPY, entry=None)
        await rt.compile(saxpy(1))
        await rt.module(saxpy(2))
        with pytest.raises(ajit.CompileError):
            await rt.kernel(SYNTAX_ERROR)

    found = uses(path)
    assert {variant: use.count for variant, use in found.items()} == {0: 5, 1: 1, 2: 1}
    assert {(use.kind, use.peer, use.arch) for use in found.values()} == {("spec", "", ARCH)}
    assert found[0].first_use_seconds < found[1].first_use_seconds < found[2].first_use_seconds
    assert found[0].wait_seconds < 0.01 < found[1].wait_seconds


async def test_a_kernel_is_written_soon_after_its_first_use(options, path):
    """While the runtime goes on: what is killed then loses nothing."""
    async with ajit.open_runtime(**options, record=path) as rt:
        assert not path.exists(), "nothing was used yet"
        await rt.compile(SAXPY, arch=ARCH)
        await until_written(path, 1)
        await rt.compile(saxpy(1), arch=ARCH)
        await until_written(path, 2)

    assert path.stat().st_mode & 0o777 == 0o700
    assert [file.stat().st_mode & 0o777 for file in path.iterdir()] == [0o600]


async def test_a_second_start_adds_counts_and_no_sources(options, path):
    """What the record has is not written again, or it would grow by all sources at each start."""
    for _ in range(3):
        async with ajit.open_runtime(**options, record=path) as rt:
            await rt.compile(SAXPY, arch=ARCH)
            await rt.compile(SAXPY, arch=ARCH)

    sizes = sorted(file.stat().st_size for file in path.iterdir())
    assert uses(path)[0].count == 6
    assert len(sizes) == 3
    assert sizes[1] < 500 < len(SAXPY.source) + 500 < sizes[2]
    assert sum('"line":"use"' in file.read_text() for file in path.iterdir()) == 1


async def test_variants_share_the_text_of_their_source(options, path):
    """A source that is specialised a hundred times is written once."""
    async with ajit.open_runtime(**options, record=path) as rt:
        for variant in range(4):
            await rt.compile(saxpy(variant), arch=ARCH)

    (file,) = path.iterdir()
    assert file.read_text().count("__global__ void saxpy") == 1
    assert len(uses(path)) == 4


async def serve(options, path):
    """Compile two kernels."""
    async with ajit.open_runtime(**options, record=path) as rt:
        await rt.compile(SAXPY, arch=ARCH)
        await rt.compile(saxpy(1), arch=ARCH)


@pytest.mark.parametrize("wrong", ["a file", "of others"])
async def test_a_record_that_cannot_be_written_is_one_warning_and_no_error(options, path, wrong):
    """The kernels are served."""
    if wrong == "a file":
        path.write_text("")
    else:
        path.mkdir()
        path.chmod(0o777)
    with pytest.warns(ajit.AjitWarning, match="no longer recorded") as told:
        await serve(options, path)

    assert len(told) == 1
    assert path.read_text() == "" if wrong == "a file" else not list(path.iterdir())


async def test_adapters_record_what_they_are_asked_for(options, path):
    """A line of any kind, from any thread; nothing happens where nothing is recorded."""
    note_use("triton", "triton", "softmax", "sm_90a", b'{"n":1}')
    async with ajit.open_runtime(**options, record=path):
        await anyio.to_thread.run_sync(
            note_use, "triton", "triton", "softmax", "sm_90a", b'{"n":2}'
        )

    (use,) = read_record(path).finished()
    assert (use.kind, use.peer, use.name, bytes(use.build)) == (
        "triton", "triton", "softmax", b'{"n":2}',
    )  # fmt: skip


KILLED = """
import json, os, signal, sys
import anyio, ajit
from tests.runtime.sources import ARCH, saxpy
from ajit._runtime.record_files import read_record
from pathlib import Path

async def main():
    settings, variants = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    async with ajit.open_runtime(**settings) as rt:
        for variant in variants:
            await rt.compile(saxpy(variant), arch=ARCH)
        print("used", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


def test_killed_ranks_leave_all_that_they_used(options, path, compiler):
    """Three processes at once, killed without a word: each kernel once, with a count of each."""
    settings = json.dumps({**options, "record": str(path)})
    peers = [
        subprocess.Popen(
            [sys.executable, "-c", KILLED, settings, json.dumps(variants)],
            cwd=PROJECT, stdout=subprocess.PIPE, text=True,
        )
        for variants in ([1, 2], [2, 3], [3, 1])
    ]  # fmt: skip
    for peer in peers:
        assert peer.stdout.readline() == "used\n"
    anyio.run(until_all_written, path, 2)
    for peer in peers:
        os.kill(peer.pid, signal.SIGKILL)
        peer.communicate()

    assert {variant: use.count for variant, use in uses(path).items()} == {1: 2, 2: 2, 3: 2}
    assert compiler.started == 3


async def until_all_written(path: Path, count: int) -> None:
    """Wait until each of three files of a record has so many kernels."""
    with anyio.fail_after(60):
        while True:
            files = list(path.iterdir()) if path.exists() else []
            if len(files) == 3 and sum(use.count for use in read_record(path).finished()) == 6:
                return
            await anyio.sleep(0.005)
