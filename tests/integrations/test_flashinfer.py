"""FlashInfer's modules as builds: what they are made of, and what stands before its own."""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

import ajit
import ajit.integrations
from ajit.integrations import flashinfer as adapter
from tests.integrations.peers import FlashInfer

NEEDED = ("flashinfer", "torch", "tvm_ffi", "nvidia.cu13")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name.partition(".")[0]) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed: make integrations"
)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """FlashInfer, imported with a workspace of the test's own: importing it makes directories."""
    before = dict(os.environ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield FlashInfer(str(tmp_path_factory.mktemp("flashinfer") / "own"))
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def core(peer: Any) -> Any:
    """Its module of builds."""
    return peer._flashinfer.jit.core


def test_the_hooks_are_what_the_adapter_takes_them_for(core: Any) -> None:
    """Names and signatures of the versions that were tried."""
    spec = core.JitSpecNvcc
    generate = core.generate_ninja_build_for_op

    assert list(inspect.signature(spec.build_and_load).parameters) == ["self"]
    assert list(inspect.signature(spec._build_and_load_jit_fallback).parameters) == ["self"]
    assert list(inspect.signature(spec.load).parameters) == ["self", "so_path"]
    assert list(inspect.signature(generate).parameters) == [
        "name",
        "sources",
        "extra_cflags",
        "extra_cuda_cflags",
        "extra_ldflags",
        "extra_include_dirs",
        "needs_device_linking",
        "embedded_cubins",
        "extra_cuda_cflags_by_source",
    ]


def test_no_directory_of_the_machine_is_in_the_key(peer: Any, core: Any) -> None:
    """The ninja file has names in their place."""
    build = adapter.build_of(peer.spec("good"))
    ((_, text),) = build.run.templates

    assert "{dir:flashinfer}/data/csrc" in text
    assert ": cuda_compile generated/silu_and_mul.cu\n" in text
    assert [name for name, _ in build.run.files] == ["generated/silu_and_mul.cu"]
    assert not build.run.copies
    assert "cuda_home = {dir:cuda}" in text
    assert "nvcc = {dir:other0}/nvcc" in text
    assert not [line for line in text.splitlines() if " /" in line]
    assert dict(build.dirs)["other0"] == str(Path(os.environ["FLASHINFER_NVCC"]).parent)
    assert build.outputs == ("silu_and_mul.so",)


def test_jobs_are_as_many_as_sources(peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more than FlashInfer's own limit says."""
    spec = peer.spec("good")
    monkeypatch.setattr(spec, "sources", spec.sources * 5)
    five = adapter.build_of(spec).jobs
    monkeypatch.setenv("MAX_JOBS", "2")

    assert (five, adapter.build_of(spec).jobs) == (5, 2)


def test_modules_with_cubins_are_left_to_flashinfer(peer: Any, rt: ajit.BlockingRuntime) -> None:
    """What makes them cannot be asked of another process."""
    spec = peer.spec("good")
    spec.embedded_cubin_factory = lambda folder: {}
    built = []
    spec.build = lambda: built.append("alone")
    spec.load = lambda path=None: path
    with ajit.integrations.install("flashinfer", runtime=rt):
        spec.build_and_load()

    assert built == ["alone"]


def test_a_module_of_an_aot_package_is_loaded_as_ever(
    peer: Any, rt: ajit.BlockingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is asked of the runtime."""
    spec = peer.spec("good")
    monkeypatch.setattr(type(spec), "try_load", lambda self: "from the package")
    with ajit.integrations.install("flashinfer", runtime=rt):
        loaded = spec.build_and_load()

    assert loaded == "from the package"
    assert rt.statistics().compiled == 0


def test_uninstalling_puts_everything_back(core: Any, rt: ajit.BlockingRuntime) -> None:
    """The method is the base class's again; a second adapter is refused."""
    before = dict(vars(core.JitSpecNvcc))
    with (
        ajit.integrations.install("flashinfer", runtime=rt),
        pytest.raises(ajit.UsageError, match="already"),
    ):
        ajit.integrations.install("flashinfer", runtime=rt)

    assert dict(vars(core.JitSpecNvcc)) == before


def test_a_version_that_was_never_tried_is_left_alone(
    core: Any, rt: ajit.BlockingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, and nothing is changed."""
    monkeypatch.setitem(ajit.integrations.TRIED, "flashinfer-python", ("0.0.1",))
    before = dict(vars(core.JitSpecNvcc))
    with (
        pytest.warns(ajit.AjitWarning, match="never tried"),
        ajit.integrations.install("flashinfer", runtime=rt),
    ):
        assert dict(vars(core.JitSpecNvcc)) == before


def test_errors_are_flashinfers(peer: Any, rt: ajit.BlockingRuntime) -> None:
    """What the compiler said stands first; the second time nothing is built."""
    errors = []
    with ajit.integrations.install("flashinfer", runtime=rt):
        for _ in range(2):
            with pytest.raises(RuntimeError, match="nonstatic member") as error:
                peer.spec("bad").build_and_load()
            errors.append(str(error.value))

    assert errors[0] == errors[1]
    assert isinstance(error.value.__cause__, ajit.CompileError)
    assert rt.statistics().pool.failed == 1


@pytest.mark.slow
def test_a_record_is_replayed_without_the_workspace(
    peer: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    """Generated sources are in it: another user, or container, has no such folder."""
    record = str(tmp_path / "used")
    with (
        ajit.open_blocking_runtime(record=record, **options) as rt,
        ajit.integrations.install("flashinfer", runtime=rt),
    ):
        peer.spec("good").build_and_load()
    shutil.rmtree(os.environ["FLASHINFER_WORKSPACE_BASE"])
    cold = {**options, "cache_dir": str(tmp_path / "another"), "views_dir": str(tmp_path / "v")}
    reports = []
    for given in (options, cold):
        with ajit.open_blocking_runtime(**given) as rt:
            reports.append((rt.warmup(ajit.replay(record)), rt.statistics().compiled))

    assert [(report.unresolved, report.failures) for report, _ in reports] == [((), ())] * 2
    assert [compiled for _, compiled in reports] == [0, 1]


@pytest.mark.slow
def test_module_is_built_once_and_loaded_from_its_view(
    peer: Any, rt: ajit.BlockingRuntime, tmp_path: Path
) -> None:
    """The second time comes from the cache; FlashInfer's own folder stays empty."""
    loaded = []
    spec = peer.spec("good")
    monkeyed = spec.load
    spec.load = lambda path: loaded.append(path) or monkeyed(path)
    with ajit.integrations.install("flashinfer", runtime=rt):
        spec.build_and_load()
        spec.build_and_load()

    assert rt.statistics().compiled == 1
    assert loaded[0] == loaded[1]
    assert loaded[0].is_relative_to(tmp_path / "views")
    assert not spec.jit_library_path.exists()


@pytest.mark.allow_blocking("importing the peer, and making the build, in a test")
@pytest.mark.anyio
async def test_warm_up_builds_off_the_loop(peer: Any, options: dict[str, Any]) -> None:
    """A failure is one of the results, and on the loop's own thread a build is refused."""
    async with ajit.open_runtime(**options) as rt:
        with ajit.integrations.install("flashinfer", runtime=rt):
            with pytest.raises(ajit.UsageError, match="event loop"):
                peer.spec("bad").build_and_load()
            (failed,) = await adapter.warmup([peer.spec("bad")])

    assert isinstance(failed, ajit.CompileError)
