"""Public incidents in publishing and reading artifacts: the cases that no layer has."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

import ajit
from ajit._cache.entries.disk import DiskStore, Published
from ajit._cache.files.directory import open_cache_directory
from tests.cache.artifacts import a_key, an_artifact
from tests.runtime.sources import ARCH, saxpy

PROJECT = Path(__file__).parents[2]
LONG_AGO, FAR_AHEAD = 1.0, 4e9
"""1970 and 2096: clocks of a file system, as wrong as they can be."""

UNTIL_SECONDS = 60.0

TEMPLATE = ajit.Spec(
    "template <class T> __global__ void scale(T* x, T a) { x[threadIdx.x] *= a; }",
    "scale<float>",
    name="scale",
    compiler="nvrtc",
    arch="sm_90a",
)


def entries(cache_dir):
    """The files of all entries."""
    return list(cache_dir.glob("entries/*/*.ajit"))


def until(condition):
    """Return what a condition gives as soon as it is true."""
    deadline = time.monotonic() + UNTIL_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.005)
    return found


def pids_of_compilers(compiler):
    """Process ids of the compilers that were started."""
    return (compiler.path.parent / "started").read_text().split()


def test_processes_that_compile_one_kernel_at_once_meet_nowhere(start, compiler, cache_dir):
    """Without locks four compile the same key: each in a private folder, and all are served."""
    (cache_dir / "locks").mkdir(mode=0o700, parents=True)
    cache_dir.chmod(0o700)
    for shard in range(256):
        (cache_dir / "locks" / f"{shard:02x}").write_text("a file where a directory should be")
    compiler.hold()
    peers = start(4, node_compile_slots=4)
    for peer in peers:
        peer.hear("ready")
        peer.go()

    until(lambda: compiler.started == 4)  # all at the gate at once
    folders = {Path(f"/proc/{pid}/cwd").readlink() for pid in pids_of_compilers(compiler)}
    sources = {(folder / "source.cpp").read_text() for folder in folders}
    compiler.let_go()
    answers = [peer.answer() for peer in peers]

    assert [answer["answer"] for answer in answers] == ["compiled"] * 4
    assert len({answer["key"] for answer in answers}) == 1
    assert len(folders) == 4
    assert len(sources) == 1
    assert not any(folder.is_relative_to(cache_dir) for folder in folders)
    assert len(entries(cache_dir)) == 1
    assert list((cache_dir / "tmp").iterdir()) == []


def test_temporary_names_do_not_meet_between_nodes_and_threads(tmp_path, monkeypatch):
    """They carry the host and random bits: the same process and thread never uses one twice."""
    names = []
    link = os.link

    def noting(source, target, **directories):
        names.append(source)
        link(source, target, **directories)

    monkeypatch.setattr(os, "link", noting)
    store = DiskStore(open_cache_directory(tmp_path / "cache"))
    threads = [
        threading.Thread(target=store.publish, args=(an_artifact(a_key(number)),))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert isinstance(store.publish(an_artifact(a_key(8))), Published)
    assert len(set(names)) == 9
    assert all(name.startswith(f"{os.uname().nodename}.") for name in names)
    assert all(f".{os.getpid()}." in name for name in names)


@pytest.mark.anyio
@pytest.mark.parametrize("lost", ["reads", "entries"])
async def test_half_of_a_cache_costs_one_compile_and_is_whole_again(
    options, cache_dir, compiler, lost
):
    """An entry without its reading list, or a list without its entry, disturbs nothing."""
    async with ajit.open_runtime(**options) as runtime:
        made = await runtime.compile(saxpy(1), arch=ARCH)
    shutil.rmtree(cache_dir / lost)

    tiers = []
    for _ in range(2):
        async with ajit.open_runtime(**options) as runtime:
            found = await runtime.resolve(saxpy(1), arch=ARCH)
        tiers.append(found.tier)

    assert tiers == ["compiled", "disk"]
    assert found.artifact.data == made.data
    assert compiler.started == 2


@pytest.mark.anyio
@pytest.mark.parametrize("skewed", [LONG_AGO, FAR_AHEAD], ids=["1970", "2096"])
async def test_times_of_files_decide_nothing(options, cache_dir, tmp_path, compiler, skewed):
    """Times of entries, lock files and headers may be skewed by decades: it is a hit."""
    header = tmp_path / "include" / "value.cuh"
    header.parent.mkdir()
    header.write_text("#define VALUE 1\n")
    spec = saxpy(1, include_dirs=(str(header.parent),))
    spec = spec.with_(source='#include "value.cuh"\n' + spec.source)
    async with ajit.open_runtime(**options) as runtime:
        await runtime.compile(spec, arch=ARCH)
    for path in (header, *cache_dir.rglob("*")):
        os.utime(path, (skewed, skewed))

    async with ajit.open_runtime(**options) as runtime:
        found = await runtime.resolve(spec, arch=ARCH)

    assert found.tier == "disk"
    assert compiler.started == 1


@pytest.mark.anyio
async def test_no_path_of_the_machine_is_in_an_entry(options, cache_dir, tmp_path):
    """Neither of the user's headers, nor of the project, nor of the compile's private folder."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "value.cuh").write_text("#define VALUE __FILE__\n")
    spec = saxpy(1, include_dirs=(str(tmp_path / "include"),))
    spec = spec.with_(
        source='#include "value.cuh"\n__device__ const char* where = VALUE;\n' + spec.source
    )
    del options["host_compiler"]  # the system's, where a user's compiler is

    async with ajit.open_runtime(**options) as runtime:
        artifact = await runtime.compile(spec, arch=ARCH)
    (entry,) = entries(cache_dir)

    for data in (entry.read_bytes(), artifact.data, " ".join(artifact.command).encode()):
        assert str(tmp_path).encode() not in data
        assert str(PROJECT).encode() not in data
        assert b"/tmp/" not in data


@pytest.mark.anyio
async def test_lowered_names_of_a_template_survive_a_cache_hit(options):
    """A kernel that comes from the disk is found under the name that was asked for."""
    async with ajit.open_runtime(**options) as runtime:
        made = await runtime.resolve(TEMPLATE)
    async with ajit.open_runtime(**options) as runtime:
        found = await runtime.resolve(TEMPLATE)

    assert (made.tier, found.tier) == ("compiled", "disk")
    assert made.artifact.lowered == found.artifact.lowered
    assert found.artifact.lowered["scale<float>"].startswith("_Z")
    assert found.artifact.lowered["scale<float>"].encode() in found.artifact.data
