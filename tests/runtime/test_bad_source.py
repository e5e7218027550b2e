"""Sources and specs that cannot be compiled: which waiters hear of it, and what stays."""

from __future__ import annotations

import sys

import anyio
import pytest

import ajit
from tests.runtime.sources import ARCH, SAXPY, SAXPY_SOURCE, SYNTAX_ERROR

pytestmark = pytest.mark.anyio


def entries(cache_dir):
    """Return the entries that were published."""
    return list(cache_dir.glob("entries/*/*"))


async def test_syntax_error_reaches_every_waiter_with_log_and_line(options, cache_dir):
    """One compile, one error for each of the waiters, nothing published."""
    errors = []

    async def want(rt):
        with pytest.raises(ajit.CompileError) as caught:
            await rt.compile(SYNTAX_ERROR, arch=ARCH)
        errors.append(caught.value)

    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(want, rt)

    assert rt.statistics().pool.failed == 1
    assert len(errors) == 5
    assert all(":3:" in error.log for error in errors)
    assert "broken" in str(errors[0])
    assert entries(cache_dir) == []


@pytest.mark.parametrize(
    ("kind", "arch", "option"),
    [("nvrtc", "sm_90a", "-dlto"), ("nvcc", "sm_90a", "-E"), ("host", ARCH, "-S")],
)
async def test_an_option_that_contradicts_the_request_is_refused(options, kind, arch, option):
    """Before anything starts, with the option and the reason."""
    spec = SAXPY.with_(compiler=kind, options=["-O3", option])
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.SpecError, match=rf"'{option}': .*makes"):
            await rt.compile(spec, arch=arch)

        assert rt.statistics().pool.workers_started == 0


@pytest.mark.parametrize(
    ("kind", "arch"), [("nvrtc", "sm_90a"), ("nvcc", "sm_90a"), ("host", ARCH)]
)
async def test_a_source_with_a_byte_order_mark_compiles(options, kind, arch):
    """Some editors begin files with one. A virtual header may have it as well."""
    spec = ajit.Spec(
        b'\xef\xbb\xbf#include "value.h"\n__global__ void k(int* out) { *out = VALUE; }',
        "k",
        compiler=kind,
        headers={"value.h": "\ufeff#define VALUE 1\n"},
    )
    async with ajit.open_runtime(**options | {"host_compiler": ""}) as rt:
        artifact = await rt.compile(spec, arch=arch)

    assert artifact.entries == ("k",)


async def test_each_waiter_raises_its_own_copy(options):
    """A note that one task adds to its exception is not seen by another."""
    errors = []

    async def want(rt):
        try:
            await rt.compile(SYNTAX_ERROR, arch=ARCH)
        except ajit.CompileError as exc:
            exc.add_note(f"task {len(errors)}")
            errors.append(exc)

    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(want, rt)

    assert len({id(error) for error in errors}) == 3
    notes = [[note for note in error.__notes__ if note.startswith("task")] for error in errors]
    assert notes == [["task 0"], ["task 1"], ["task 2"]]
    assert len({error.key for error in errors}) == 1


@pytest.mark.parametrize(("failure_seconds", "compiles"), [(0.0, 2), (300.0, 1)])
async def test_failure_is_remembered_for_as_long_as_the_setting_says(
    with_device, failure_seconds, compiles
):
    """Within the time the next request gets the same error, after it the source is tried again."""
    errors = []

    async with ajit.open_runtime(**with_device, failure_seconds=failure_seconds) as rt:
        for _ in range(2):
            with pytest.raises(ajit.CompileError) as caught:
                await rt.kernel(SYNTAX_ERROR)
            errors.append(caught.value)
        statistics = rt.statistics()

    assert statistics.pool.failed == compiles
    assert statistics.failed == 2
    assert statistics.in_progress == 0
    assert errors[0].log == errors[1].log


async def test_remembered_failure_is_of_one_source_only(options):
    """The corrected source has another key: it is compiled at once."""
    corrected = SYNTAX_ERROR.with_(source=SYNTAX_ERROR.source.replace("= ;", "= 1;"))

    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.CompileError):
            await rt.compile(SYNTAX_ERROR, arch=ARCH)
        resolution = await rt.resolve(corrected, arch=ARCH)

    assert resolution.tier == "compiled"


async def test_remembered_failure_keeps_its_type_and_entry_point(options):
    """Another runtime reads the record: the error is as typed as the compiler's own."""
    spec = ajit.Spec(SAXPY_SOURCE + "// no saxpi", "saxpi", name="misspelt")
    errors = []

    for _ in range(2):
        async with ajit.open_runtime(**options) as rt:
            with pytest.raises(ajit.UnknownEntryPoint) as caught:
                await rt.compile(spec, arch=ARCH)
        errors.append(caught.value)

    first, remembered = errors
    assert remembered.entry == first.entry == "saxpi"
    assert remembered.kernels == first.kernels == ("saxpy", "scale")
    assert str(remembered) == str(first)
    assert (remembered.key, remembered.log) == (first.key, first.log)
    assert rt.statistics().pool.failed == 0


async def test_unknown_entry_point_is_named(options, cache_dir):
    """The source compiles, but has no such kernel: the error says which, and what there is."""
    spec = ajit.Spec(SAXPY_SOURCE + "// no saxpi", "saxpi", name="misspelt")

    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.UnknownEntryPoint) as caught:
            await rt.compile(spec, arch=ARCH)

    assert caught.value.entry == "saxpi"
    assert "did you mean 'saxpy'?" in str(caught.value)
    assert "its kernels: saxpy, scale" in str(caught.value)
    assert entries(cache_dir) == []


async def test_entry_point_that_the_spec_does_not_declare_is_refused(with_device, compiler):
    """Asking for another entry point of a spec starts nothing."""
    async with ajit.open_runtime(**with_device) as rt:
        with pytest.raises(ajit.SpecError, match="declares no entry point 'other'"):
            await rt.kernel(SAXPY, entry="other")

    assert compiler.started == 0


async def test_missing_include_says_where_was_searched(options, tmp_path):
    """The compiler's error for a missing header carries ajit's own search as a note."""
    spec = ajit.Spec(
        '#include "no_such_header.cuh"\n' + SAXPY_SOURCE, "saxpy", include_dirs=[tmp_path]
    )

    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.CompileError) as caught:
            await rt.compile(spec, arch=ARCH)

    notes = "\n".join(caught.value.__notes__)
    assert "no_such_header.cuh" in caught.value.log
    assert "no_such_header.cuh" in notes
    assert str(tmp_path) in notes


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "empty source"),
        (" \n\t ", "empty source"),
        (b"__global__ void f() {}\n// \xe9t\xe9\n", "not UTF-8: byte 26, line 2"),
        ("__global__ void f() {} // \0", "NUL"),
        ("__global__ void f() {} // \udce9", "UTF-8"),
    ],
    ids=["empty", "blank", "not-utf-8", "nul", "surrogate"],
)
async def test_source_that_is_no_text_is_refused(source, message):
    """No spec is made of it, so nothing can be started."""
    with pytest.raises(ajit.SpecError, match=message):
        ajit.Spec(source, "f")


async def test_source_of_ten_megabytes_compiles(options):
    """Size alone is no reason to refuse: generated kernels are large."""
    padding = "// " + "x" * 96 + "\n"
    spec = ajit.Spec(padding * 105_000 + SAXPY_SOURCE, "saxpy")

    async with ajit.open_runtime(**options) as rt:
        artifact = await rt.compile(spec, arch=ARCH)

    assert len(spec.source) > 10_000_000
    assert artifact.lowered.keys() == {"saxpy"}


@pytest.mark.parametrize("arch", ["gfx90a", "sm_0", "sm_90b", "", "../x86_64"])
async def test_arch_that_does_not_exist_is_refused(options, compiler, arch):
    """Nothing is started for an arch that has not the form of one."""
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.SpecError):
            await rt.compile(SAXPY, arch=arch)

    assert compiler.started == 0


async def test_spec_without_arch_and_a_runtime_without_device_is_refused(options, compiler):
    """No arch is given and there is no device: the error says so, and how to give one."""
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.SpecError, match=r"names no arch.*give arch="):
            await rt.compile(SAXPY)

    assert compiler.started == 0


async def test_arch_of_another_cpu_is_refused(options, compiler):
    """The host compiler builds for this machine only."""
    other = "aarch64" if ARCH == "x86_64" else "x86_64"

    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.UnknownArch) as caught:
            await rt.compile(SAXPY, arch=other)

    assert caught.value.arch == other
    assert compiler.started == 0


async def test_arch_that_the_compiler_dropped_is_refused_with_those_it_knows(options):
    """NVRTC of CUDA 13 does not build for Maxwell any more; it says what it builds for."""
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.UnknownArch) as caught:
            await rt.compile(SAXPY, arch="sm_52")

    assert caught.value.arch == "sm_52"
    assert "sm_90" in caught.value.known


async def test_compiler_that_was_set_but_is_not_there(options, tmp_path):
    """The error names the place that the setting points to."""
    missing = str(tmp_path / "no-such-compiler")

    async with ajit.open_runtime(**{**options, "host_compiler": missing}) as rt:
        with pytest.raises(ajit.CompilerNotFound) as caught:
            await rt.compile(SAXPY, arch=ARCH)

    assert missing in caught.value.searched
    assert "install" in str(caught.value)


async def test_no_compiler_anywhere_says_what_was_searched_and_what_to_install(
    options, monkeypatch, tmp_path
):
    """With an empty PATH and no ziglang wheel, every place that was looked at is listed."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setitem(sys.modules, "ziglang", None)

    async with ajit.open_runtime(**{**options, "host_compiler": ""}) as rt:
        with pytest.raises(ajit.CompilerNotFound) as caught:
            await rt.compile(SAXPY, arch=ARCH)

    assert caught.value.compiler == "host"
    assert {"c++ on PATH", "g++ on PATH", "clang++ on PATH"} <= set(caught.value.searched)
    assert "ziglang" in caught.value.install


async def test_compiler_killed_by_a_signal_is_named_and_tried_again(options, compiler, cache_dir):
    """A crash is not the source's fault: it is named by its signal, and the next request works."""
    compiler.die_by("SEGV")

    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.CompilerCrashed) as caught:
            await rt.compile(SAXPY, arch=ARCH)
        published = entries(cache_dir)
        compiler.recover()
        resolution = await rt.resolve(SAXPY, arch=ARCH)

    assert caught.value.signal == "SIGSEGV"
    assert published == []
    assert resolution.tier == "compiled"
