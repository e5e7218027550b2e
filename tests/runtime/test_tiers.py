"""Where a request is answered from: compiled once, then disk, then memory."""

from __future__ import annotations

import os
import time
from functools import partial

import anyio
import anyio.to_thread
import pytest

import ajit
from tests.runtime.sources import ARCH, SAXPY, SAXPY_SOURCE, saxpy

pytestmark = pytest.mark.anyio


async def test_first_request_compiles_and_the_next_runtime_reads_the_disk(options, compiler):
    """A compiled artifact is found by the next runtime, byte for byte."""
    async with ajit.open_runtime(**options) as rt:
        first = await rt.resolve(SAXPY, arch=ARCH)
    async with ajit.open_runtime(**options) as rt:
        second = await rt.resolve(SAXPY, arch=ARCH)

    assert first.tier == "compiled"
    assert second.tier == "disk"
    assert second.artifact == first.artifact
    assert compiler.started == 1


async def test_many_tasks_that_want_one_key_start_one_compile(options, compiler):
    """Requests for the same spec join the one that is under way."""
    answers = []

    async def want(rt):
        answers.append(await rt.compile(SAXPY, arch=ARCH))

    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(want, rt)

    assert compiler.started == 1
    assert len(answers) == 20
    assert all(answer is answers[0] for answer in answers)


async def test_label_and_parameter_types_are_not_part_of_the_key(options, compiler):
    """Two specs that differ only in what the compiler does not see share one compile."""
    relabelled = ajit.Spec(SAXPY_SOURCE, "saxpy", name="another label")

    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as group:
        group.start_soon(lambda: rt.compile(SAXPY, arch=ARCH))
        group.start_soon(lambda: rt.compile(relabelled, arch=ARCH))

    assert compiler.started == 1


async def test_different_keys_compile_at_the_same_time(options, compiler):
    """With two slots, two compiles run at once: the second does not wait for the first."""
    compiler.hold()

    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as group:
        group.start_soon(lambda: rt.compile(saxpy(1), arch=ARCH))
        group.start_soon(lambda: rt.compile(saxpy(2), arch=ARCH))
        await compiler.wait_started(2)
        running = rt.statistics().pool.running
        compiler.let_go()

    assert running == 2


async def test_statistics_count_each_tier(with_device, compiler):
    """Every request that is answered is counted under the tier that answered it."""
    async with ajit.open_runtime(**with_device) as rt:
        await rt.kernel(saxpy(1))
        await rt.kernel(saxpy(1))
        await rt.kernel(saxpy(1))
        statistics = rt.statistics()
    async with ajit.open_runtime(**with_device) as rt:
        await rt.kernel(saxpy(1))
        later = rt.statistics()

    assert (statistics.compiled, statistics.from_disk, statistics.from_memory) == (1, 0, 2)
    assert (later.compiled, later.from_disk, later.from_memory) == (0, 1, 0)
    assert statistics.failed == later.failed == 0
    assert statistics.in_progress == later.in_progress == 0
    assert statistics.loaded_modules == 1
    assert statistics.disk.published == 1


async def test_compile_for_a_gpu_needs_no_device(options):
    """Without any GPU, a cubin for Hopper comes out, and it says what it is."""
    async with ajit.open_runtime(**options) as rt:
        artifact = await rt.compile(SAXPY, arch="sm_90a")

    assert (artifact.kind, artifact.arch, artifact.compiler) == ("cubin", "sm_90a", "nvrtc")
    assert artifact.data[:4] == b"\x7fELF"
    assert artifact.lowered["saxpy"] == "saxpy"


async def test_settings_and_arguments_together_are_refused(options):
    """Which of the two would win is not guessed."""
    settings = await anyio.to_thread.run_sync(partial(ajit.Settings, **options))

    with pytest.raises(TypeError, match="not both"):
        async with ajit.open_runtime(settings, device="none"):
            pass


async def test_exception_of_the_body_comes_out_as_it_is(options):
    """The body's exception is not wrapped in an ExceptionGroup by the runtime's task group."""
    error = LookupError("of the caller")

    with pytest.raises(LookupError) as caught:
        async with ajit.open_runtime(**options):
            raise error

    assert caught.value is error


async def test_template_keeps_its_lowered_name_on_a_disk_hit(options):
    """A kernel picked by a name expression is found by its mangled name, from the disk as well."""
    spec = ajit.Spec(
        "template <typename T, int N> __global__ void scale(T* x) { x[threadIdx.x] *= N; }\n",
        "scale<float, 4>",
        name="template",
    )
    names = []
    for _ in range(2):
        async with ajit.open_runtime(**options) as rt:
            resolution = await rt.resolve(spec, arch="sm_90a")
        names.append((resolution.tier, resolution.artifact.lowered))

    assert names == [
        ("compiled", {"scale<float, 4>": "_Z5scaleIfLi4EEvPT_"}),
        ("disk", {"scale<float, 4>": "_Z5scaleIfLi4EEvPT_"}),
    ]


async def test_file_times_decide_nothing(options, compiler, cache_dir, tmp_path):
    """A file system whose clock is years off costs no compile: contents are looked at."""
    header = tmp_path / "values.cuh"
    header.write_text("#define VALUE 1\n")
    spec = saxpy(1, source='#include "values.cuh"\n' + SAXPY_SOURCE, include_dirs=(str(tmp_path),))
    async with ajit.open_runtime(**options) as rt:
        await rt.compile(spec, arch=ARCH)
    later = time.time() + 10 * 365 * 24 * 3600
    for path in [header, compiler.path, *cache_dir.glob("entries/*/*")]:
        os.utime(path, (later, later))

    async with ajit.open_runtime(**options) as rt:
        resolution = await rt.resolve(spec, arch=ARCH)

    assert resolution.tier == "disk"
    assert compiler.started == 1
