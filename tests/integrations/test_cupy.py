"""CuPy's backend for kernels over ajit's cache. Its compiles need a GPU; its hook does not."""

from __future__ import annotations

import inspect

import pytest

import ajit
import ajit.integrations

compiler = pytest.importorskip(
    "cupy.cuda.compiler", reason="CuPy is not installed: make integrations"
)


def test_the_hook_is_what_the_adapter_takes_it_for() -> None:
    """Names and signatures of the versions that were tried."""
    backend = compiler._KernelCacheBackend

    assert list(inspect.signature(backend.load).parameters) == ["self", "name"]
    assert list(inspect.signature(backend.save).parameters) == ["self", "name", "cubin", "source"]
    assert backend.__abstractmethods__ == {"load", "save"}
    assert list(inspect.signature(compiler._set_kernel_cache_backend).parameters) == ["backend"]


def test_what_cupy_saves_is_kept(rt: ajit.BlockingRuntime) -> None:
    """A miss is the turn to compile, and the save ends it."""
    with ajit.integrations.install("cupy", runtime=rt):
        backend = compiler._kernel_cache_backend
        before = backend.load("a.cubin")
        backend.save("a.cubin", b"cubin", "source")
        after = backend.load("a.cubin")

    assert (before, after) == (None, b"cubin")
    assert isinstance(backend, compiler._KernelCacheBackend)


def test_uninstalling_puts_back_what_was_there(rt: ajit.BlockingRuntime) -> None:
    """And a second adapter is refused."""
    before = compiler._kernel_cache_backend
    with (
        ajit.integrations.install("cupy", runtime=rt),
        pytest.raises(ajit.UsageError, match="already"),
    ):
        ajit.integrations.install("cupy", runtime=rt)

    assert compiler._kernel_cache_backend is before


def test_a_version_that_was_never_tried_is_left_alone(
    rt: ajit.BlockingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, and nothing is changed."""
    monkeypatch.setitem(ajit.integrations.TRIED, "cupy-cuda13x", ("0.0.1",))
    before = compiler._kernel_cache_backend
    with (
        pytest.warns(ajit.AjitWarning, match="never tried"),
        ajit.integrations.install("cupy", runtime=rt),
    ):
        assert compiler._kernel_cache_backend is before
