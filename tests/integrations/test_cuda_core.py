"""cuda.core's program cache over ajit's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import ajit
import ajit.integrations
from ajit.integrations import cuda_core

core = pytest.importorskip("cuda.core", reason="cuda.core is not installed: make integrations")

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2; }'


def program(source: str = SOURCE, **options: Any) -> Any:
    """A program of cuda.core."""
    return core.Program(source, "c++", core.ProgramOptions(arch="sm_90", **options))


def test_it_is_a_program_cache_of_cuda_core(rt: ajit.BlockingRuntime) -> None:
    """`Program.compile` takes it; the second compile is a hit with the same bytes."""
    with cuda_core.program_cache(rt) as cache:
        made = program().compile("cubin", cache=cache)
        found = program().compile("cubin", cache=cache)
        count = len(cache)

    assert isinstance(cache, core.utils.ProgramCacheResource)
    assert bytes(found.code) == bytes(made.code) == bytes(program().compile("cubin").code)
    assert count == 1
    assert (rt.statistics().compiled, rt.statistics().from_disk) == (1, 1)


def test_it_is_a_mapping(rt: ajit.BlockingRuntime, tmp_path: Path) -> None:
    """As its base class says: bytes and programs go in, bytes come out; keys are bytes or text."""
    path = tmp_path / "code"
    path.write_bytes(b"from a file")
    with cuda_core.program_cache(rt) as cache:
        cache["text"] = b"code"
        cache[b"program"] = core.ObjectCode.from_cubin(str(path))

        assert cache[b"text"] == b"code"
        assert cache["program"] == b"from a file"
        assert cache.get("other") is None
        with pytest.raises(KeyError):
            cache["another"]
        with pytest.raises(TypeError, match="key"):
            cache[1]
        with pytest.raises(TypeError, match="program"):
            cache["text"] = 1
        del cache["text"]
        with pytest.raises(KeyError):
            del cache["text"]
        cache.clear()
        assert len(cache) == 0


def test_an_error_of_the_compiler_is_cuda_cores(rt: ajit.BlockingRuntime) -> None:
    """It leaves nothing behind: the next compile in this thread ends the turn."""
    with cuda_core.program_cache(rt) as cache:
        with pytest.raises(Exception, match="NVRTC_ERROR_COMPILATION"):
            program("no C++").compile("cubin", cache=cache)
        assert program().compile("cubin", cache=cache)
        assert len(cache) == 1


def test_a_version_that_was_never_tried_is_left_alone(
    rt: ajit.BlockingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is given, which cuda.core takes for no cache."""
    monkeypatch.setitem(ajit.integrations.TRIED, "cuda-core", ("0.0.1",))
    with pytest.warns(ajit.AjitWarning, match="never tried"):
        cache = cuda_core.program_cache(rt)

    assert cache is None
    assert program().compile("cubin", cache=cache)


def test_it_is_not_installed_but_asked_for(rt: ajit.BlockingRuntime) -> None:
    """`install` says how."""
    with pytest.raises(ajit.UsageError, match=r"cuda_core\.program_cache"):
        ajit.integrations.install("cuda_core", runtime=rt)
