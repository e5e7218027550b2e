"""Warp's modules in ajit's cache: what stands before its compile, and a kernel that is launched."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pytest

import ajit
import ajit.integrations

wp = pytest.importorskip("warp", reason="Warp is not installed: make integrations")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def module() -> Any:
    """Warp's class of modules."""
    return wp._src.context.Module


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Give Warp another cache of its own, with nothing in it."""
    from tests.integrations import warp_kernels

    monkeypatch.setattr(wp.config, "log_level", wp.LOG_ERROR)
    wp.init()
    before = wp.config.kernel_cache_dir

    def folder(name: str) -> Path:
        wp._src.build.init_kernel_cache(str(tmp_path / name))
        for kernel in (warp_kernels.scale, warp_kernels.refused):
            kernel.module.unload()
        return tmp_path / name

    yield folder
    wp.config.kernel_cache_dir = before


def launched() -> list[float]:
    """Launch a kernel on the CPU."""
    from tests.integrations.warp_kernels import scale

    x = wp.zeros(3, dtype=float, device="cpu")
    x.fill_(0.0)
    wp.launch(scale, dim=3, inputs=[x, 2.0], device="cpu")
    return list(x.numpy())


def test_the_hooks_are_what_the_adapter_takes_them_for(module: Any) -> None:
    """Names and signatures of the versions that were tried."""
    assert list(inspect.signature(module._compile).parameters) == [
        "self",
        "device",
        "output_dir",
        "output_name",
        "output_arch",
        "use_ptx",
        "options",
    ]
    assert list(inspect.signature(module._record_build_failure).parameters) == [
        "self",
        "device",
        "is_cpu",
        "active_block_dim",
        "error",
    ]


def test_a_module_is_compiled_once_and_launched(
    rt: ajit.BlockingRuntime, own: Callable[[str], Path]
) -> None:
    """With an empty cache of Warp's own the second time comes from ajit's."""
    with ajit.integrations.install("warp", runtime=rt):
        own("one")
        first = launched()
        counts = rt.statistics()
        own("two")
        second = launched()

    assert first == second == [0.0, 0.0, 0.0]
    assert (counts.compiled, counts.from_disk) == (1, 0)
    assert (rt.statistics().compiled, rt.statistics().from_disk) == (1, 1)


def test_archs_are_told_apart(rt: ajit.BlockingRuntime, own: Callable[[str], Path]) -> None:
    """Each has a binary of its own, in Warp's directory under Warp's name."""
    from tests.integrations.warp_kernels import scale

    made = {}
    with ajit.integrations.install("warp", runtime=rt):
        for name in ("one", "two"):
            own(name)
            for arch in (90, 80):
                (path,) = wp.compile_aot_module(scale.module, arch=arch)
                made[name, arch] = Path(path).read_bytes()

    assert made["one", 90] == made["two", 90] != made["one", 80] == made["two", 80]
    assert (rt.statistics().compiled, rt.statistics().from_disk) == (2, 2)


def test_a_source_that_does_not_compile_is_compiled_once(
    rt: ajit.BlockingRuntime, own: Callable[[str], Path]
) -> None:
    """The error is Warp's own, also the second time."""
    from tests.integrations.warp_kernels import refused

    errors = []
    with ajit.integrations.install("warp", runtime=rt):
        for name in ("one", "two"):
            own(name)
            with pytest.raises(Exception, match="kernel build failed") as error:
                wp.compile_aot_module(refused.module, arch=90)
            errors.append(error.value)

    assert [type(error) for error in errors] == [Exception, Exception]
    assert str(errors[0]) == str(errors[1])
    assert isinstance(errors[1].__cause__, ajit.CompileError)


def test_a_snippet_that_includes_a_file_is_not_kept(
    rt: ajit.BlockingRuntime, own: Callable[[str], Path], tmp_path: Path
) -> None:
    """Warp's hash knows nothing of what is in it."""
    header = tmp_path / "one.h"
    header.write_text("#define ONE 1.0f\n")
    add_one = wp.func_native(f'\n#include "{header}"\nx.data[i] += ONE;\n')(_add_one)

    @wp.kernel(module="unique")
    def add(x: wp.array(dtype=float)):
        add_one(x, wp.tid())

    with ajit.integrations.install("warp", runtime=rt):
        for name in ("one", "two"):
            own(name)
            add.module.unload()
            wp.compile_aot_module(add.module, arch=90)

    assert rt.statistics().from_disk == 0


def _add_one(x: wp.array(dtype=float), i: int): ...


def test_uninstalling_puts_everything_back(module: Any, rt: ajit.BlockingRuntime) -> None:
    """A second adapter is refused."""
    before = dict(vars(module))
    with (
        ajit.integrations.install("warp", runtime=rt),
        pytest.raises(ajit.UsageError, match="already"),
    ):
        ajit.integrations.install("warp", runtime=rt)

    assert dict(vars(module)) == before


def test_a_version_that_was_never_tried_is_left_alone(
    module: Any, rt: ajit.BlockingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, and nothing is changed."""
    monkeypatch.setitem(ajit.integrations.TRIED, "warp-lang", ("0.0.1",))
    before = dict(vars(module))
    with (
        pytest.warns(ajit.AjitWarning, match="never tried"),
        ajit.integrations.install("warp", runtime=rt),
    ):
        assert dict(vars(module)) == before


def test_warp_compiles_alone_after_the_runtime_was_closed(
    options: dict[str, Any], own: Callable[[str], Path]
) -> None:
    """With one warning."""
    own("own")
    with ajit.open_blocking_runtime(**options) as rt:
        installed = ajit.integrations.install("warp", runtime=rt)
    with installed, pytest.warns(ajit.AjitWarning, match="by itself"):
        assert launched() == [0.0, 0.0, 0.0]


@pytest.mark.allow_blocking("importing the peer, and its compile, in a test")
@pytest.mark.anyio
async def test_the_event_loop_does_not_wait_for_itself(
    options: dict[str, Any], own: Callable[[str], Path]
) -> None:
    """It is refused there, and may be made in a thread."""
    own("own")
    async with ajit.open_runtime(**options) as rt:
        with ajit.integrations.install("warp", runtime=rt):
            with pytest.raises(ajit.UsageError, match="event loop"):
                launched()
            made = await anyio.to_thread.run_sync(launched)

    assert made == [0.0, 0.0, 0.0]
