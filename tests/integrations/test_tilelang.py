"""TileLang's kernels in ajit's cache: what stands before its own."""

from __future__ import annotations

import importlib.util
import inspect
import os
from typing import TYPE_CHECKING, Any

import pytest

import ajit
import ajit.integrations
from tests.integrations.peers import TileLang

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDED = ("tilelang", "torch", "nvidia")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} not installed: make integrations"),
]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TileLang]:
    """TileLang, imported with a cache of the test's own: importing it makes directories."""
    before = dict(os.environ)
    yield TileLang(str(tmp_path_factory.mktemp("tilelang") / "own"))
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def cache(peer: TileLang) -> Any:
    """Its cache, with nothing in it."""
    from tilelang.cache import _dispatch_map

    _dispatch_map["tvm_ffi"].clear_cache()
    return type(_dispatch_map["tvm_ffi"]).__mro__[1]


def test_the_hooks_are_what_the_adapter_takes_them_for(cache: Any) -> None:
    """Names and signatures of the versions that were tried."""
    load, save = cache._load_kernel_from_disk, cache._save_kernel_to_disk

    assert list(inspect.signature(load).parameters) == [
        *("self", "key", "backend_context"),
        *("out_idx", "pass_configs", "compile_flags", "func", "verbose"),
    ]
    assert list(inspect.signature(save).parameters) == ["self", "key", "kernel", "func", "verbose"]
    assert list(inspect.signature(cache._build_kernel).parameters) == [
        *("self", "func", "host_kernel_source", "device_kernel_source", "kernel_lib_path"),
        *("kernel_params", "backend_context", "out_idx", "pass_configs", "compile_flags"),
    ]


def test_a_kernel_is_compiled_once(peer: TileLang, cache: Any, rt: ajit.BlockingRuntime) -> None:
    """With an empty cache of TileLang's own the second one comes from the view, and is whole."""
    from tilelang.cache import _dispatch_map

    with ajit.integrations.install("tilelang", runtime=rt):
        first = peer.compile("good")
        _dispatch_map["tvm_ffi"].clear_cache()
        second = peer.compile("good")
        kernel = next(iter(_dispatch_map["tvm_ffi"]._memory_cache.values()))

    assert first == second
    assert (rt.statistics().compiled, rt.statistics().from_disk) == (1, 1)
    assert "__global__" in kernel.get_kernel_source()
    assert len(kernel.params) == 2


def test_an_error_of_nvcc_is_had_once(peer: TileLang, cache: Any, rt: ajit.BlockingRuntime) -> None:
    """And is TileLang's own."""
    errors, before = [], peer.compiles
    with ajit.integrations.install("tilelang", runtime=rt):
        for _ in range(2):
            with pytest.raises(RuntimeError, match="there-is-no-such-flag") as error:
                peer.compile("bad")
            errors.append(error.value)

    assert str(errors[0]) == str(errors[1])
    assert isinstance(errors[1].__cause__, ajit.CompileError)
    assert peer.compiles == before + 1


def test_uninstalling_puts_everything_back(cache: Any, rt: ajit.BlockingRuntime) -> None:
    """A second adapter is refused."""
    before = dict(vars(cache))
    with (
        ajit.integrations.install("tilelang", runtime=rt),
        pytest.raises(ajit.UsageError, match="already"),
    ):
        ajit.integrations.install("tilelang", runtime=rt)

    assert dict(vars(cache)) == before


def test_a_version_that_was_never_tried_is_left_alone(
    cache: Any, rt: ajit.BlockingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, and nothing is changed."""
    monkeypatch.setitem(ajit.integrations.TRIED, "tilelang", ("0.0.1",))
    before = dict(vars(cache))
    with (
        pytest.warns(ajit.AjitWarning, match="never tried"),
        ajit.integrations.install("tilelang", runtime=rt),
    ):
        assert dict(vars(cache)) == before


def test_tilelang_compiles_alone_after_the_runtime_was_closed(
    peer: TileLang, cache: Any, options: dict[str, Any]
) -> None:
    """With one warning."""
    with ajit.open_blocking_runtime(**options) as rt:
        installed = ajit.integrations.install("tilelang", runtime=rt)
    with installed, pytest.warns(ajit.AjitWarning, match="by itself"):
        assert peer.compile("good")
