"""QuACK's kernels in ajit's cache: what stands before its lock, and what its key lacks."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pytest

import ajit
import ajit.integrations

pytest.importorskip("quack", reason="QuACK is not installed: make integrations")

from cutlass.cutlass_dsl import CuTeDSL
from quack import cache as state
from quack.cache import jit

from tests.integrations import quack_kernels as kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Give QuACK another cache of its own, with nothing in it, and another arch."""
    settings = CuTeDSL._get_dsl().envar

    def folder(name: str, arch: str = "sm_90a") -> Path:
        settings.arch = arch
        monkeypatch.setattr(state, "CACHE_DIR", str(tmp_path / name))
        for kernel in (kernels.moved, kernels.refused, kernels.unstable):
            kernel.cache_clear()
        return tmp_path / name

    yield folder
    del settings.arch


def moved(folder: Path) -> bytes:
    """Compile a kernel, or find it; return its object file."""
    kernels.moved()
    (path,) = folder.rglob("*.o")
    return path.read_bytes()


def test_the_hooks_are_what_the_adapter_takes_them_for() -> None:
    """Names and signatures of the versions that were tried."""
    lock = inspect.signature(jit.FileLock)

    assert list(lock.parameters) == ["lock_path", "exclusive", "timeout"]
    assert not inspect.signature(jit.get_cache_path).parameters
    assert "arch='" in CuTeDSL._get_dsl().envar.cache_key_str()


def test_a_kernel_is_compiled_once(rt: ajit.BlockingRuntime, own: Callable[..., Path]) -> None:
    """With an empty cache of QuACK's own the second one is a hit of QuACK, as it puts it."""
    with ajit.integrations.install("quack", runtime=rt):
        first = moved(own("one"))
        second = moved(own("two"))
        info = kernels.moved.cache_info()

    assert first == second
    assert (info.hits, info.misses) == (1, 0)
    assert (rt.statistics().compiled, rt.statistics().from_disk) == (1, 1)


def test_archs_are_told_apart(rt: ajit.BlockingRuntime, own: Callable[..., Path]) -> None:
    """In one cache of QuACK, whose own key has no arch."""
    made = {}
    with ajit.integrations.install("quack", runtime=rt):
        for arch in ("sm_90a", "sm_100a", "sm_90a"):
            folder = own("one", arch)
            kernels.moved()
            made[arch] = {path: path.read_bytes() for path in folder.rglob("*.o")}

    assert len(made["sm_90a"]) == 2
    assert len(set(made["sm_90a"].values())) == 2
    assert rt.statistics().compiled == 2


def test_a_variable_that_decides_is_in_the_key(
    rt: ajit.BlockingRuntime, own: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with another ptxas QuACK compiles alone."""
    with ajit.integrations.install("quack", runtime=rt):
        moved(own("one"))
        monkeypatch.setenv("QUACK_ARCH", "90")
        moved(own("two"))
        monkeypatch.setenv("CUTE_DSL_PTXAS_PATH", "/no/ptxas")
        moved(own("three"))

    assert (rt.statistics().compiled, rt.statistics().from_disk) == (2, 0)


@pytest.mark.parametrize("name", ["refused", "unstable"])
def test_an_error_of_the_kernel_is_had_once(
    rt: ajit.BlockingRuntime, own: Callable[..., Path], name: str
) -> None:
    """It is the DSL's own, also the second time, when it has no colours."""
    errors = []
    with ajit.integrations.install("quack", runtime=rt):
        for folder in ("one", "two"):
            own(folder)
            with pytest.raises(Exception, match=r"no-such-flag|Float32") as error:
                getattr(kernels, name)()
            errors.append(error.value)

    assert type(errors[0]) is type(errors[1])
    assert re.sub(r"\x1b\[\d+m", "", str(errors[0])) == str(errors[1])
    assert isinstance(errors[1].__cause__, ajit.CompileError)
    assert getattr(kernels, name).cache_info().misses == 0


def test_a_kernel_that_is_compiled_while_another_error_is_handled_is_kept(
    rt: ajit.BlockingRuntime, own: Callable[..., Path]
) -> None:
    """The error around it is not its own."""
    with ajit.integrations.install("quack", runtime=rt):
        try:
            _ = {}["no kernel yet"]
        except KeyError:
            moved(own("one"))
        moved(own("two"))

    assert (rt.statistics().compiled, rt.statistics().from_disk) == (1, 1)


def test_what_is_not_there_is_forbidden_when_frozen(
    options: dict[str, Any], own: Callable[..., Path]
) -> None:
    """QuACK compiles nothing."""
    own("one")
    with (
        ajit.open_blocking_runtime(mode="frozen", **options) as rt,
        ajit.integrations.install("quack", runtime=rt),
        pytest.raises(ajit.CompileForbidden, match="moved"),
    ):
        kernels.moved()

    assert kernels.moved.cache_info().misses == 0


def test_uninstalling_puts_everything_back(rt: ajit.BlockingRuntime) -> None:
    """A second adapter is refused."""
    before = dict(vars(jit))
    with (
        ajit.integrations.install("quack", runtime=rt),
        pytest.raises(ajit.UsageError, match="already"),
    ):
        ajit.integrations.install("quack", runtime=rt)

    assert dict(vars(jit)) == before


@pytest.mark.parametrize("distribution", ["quack-kernels", "nvidia-cutlass-dsl"])
def test_a_version_that_was_never_tried_is_left_alone(
    rt: ajit.BlockingRuntime, monkeypatch: pytest.MonkeyPatch, distribution: str
) -> None:
    """One warning, and nothing is changed."""
    monkeypatch.setitem(ajit.integrations.TRIED, distribution, ("0.0.1",))
    before = dict(vars(jit))
    with (
        pytest.warns(ajit.AjitWarning, match="never tried"),
        ajit.integrations.install("quack", runtime=rt),
    ):
        assert dict(vars(jit)) == before


def test_quack_compiles_alone_after_the_runtime_was_closed(
    options: dict[str, Any], own: Callable[..., Path]
) -> None:
    """With one warning."""
    with ajit.open_blocking_runtime(**options) as rt:
        installed = ajit.integrations.install("quack", runtime=rt)
    with installed, pytest.warns(ajit.AjitWarning, match="by itself"):
        assert moved(own("one"))


@pytest.mark.allow_blocking("importing the peer, and its compile, in a test")
@pytest.mark.anyio
async def test_the_event_loop_does_not_wait_for_itself(
    options: dict[str, Any], own: Callable[..., Path]
) -> None:
    """It is refused there, and may be made in a thread."""
    folder = own("one")
    async with ajit.open_runtime(**options) as rt:
        with ajit.integrations.install("quack", runtime=rt):
            with pytest.raises(ajit.UsageError, match="event loop"):
                kernels.moved()
            assert await anyio.to_thread.run_sync(moved, folder)
